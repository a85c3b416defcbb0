"""Helpers of the tests: tiny datasets of coloured images, and scripts run as a user runs them."""

import contextlib
import importlib.util
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from appearance import cli

ROOT = Path(__file__).resolve().parents[1]
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (40, 200, 200), (200, 40, 200))


def pytest_configure():
    """Processes that run tests side by side share the cores instead of each taking all of them."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))


@pytest.fixture(autouse=True, scope="session")
def sample_of_the_tests(tmp_path_factory):
    """The sample that scripts draw where no dataset is named, away from that of whoever runs the tests."""
    os.environ["APPEARANCE_DATA"] = str(tmp_path_factory.mktemp("sample"))


def run_script(name: str, *args, cwd, timeout: float = 120, stdout=subprocess.PIPE, **environment) -> SimpleNamespace:
    """Run a script of this collection in `cwd`, as a user would: its exit code, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, str(ROOT / name), *map(str, args)],
        cwd=cwd,
        env=script_environment(**environment),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout,
    )
    return SimpleNamespace(code=done.returncode, stdout=done.stdout, stderr=done.stderr)


def call_script(name: str, *args, cwd) -> SimpleNamespace:
    """`run_script` inside this process: the same without the seconds that Python takes to import torch."""
    module = load_script(name)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    argv, folder = sys.argv, os.getcwd()
    sys.argv = [name, *map(str, args)]
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.run(module.main, module.get_args_parser())
            except SystemExit as stopped:
                code = stopped.code
    finally:
        sys.argv = argv
        os.chdir(folder)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode(errors="replace"))
    return SimpleNamespace(code=code, stdout=texts[0], stderr=texts[1])


def load_script(name: str):
    """The module of a script; `test.py` cannot be imported by its name, which is Python's own."""
    spec = importlib.util.spec_from_file_location("script_" + Path(name).stem, ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def benchmark(name: str):
    """The module of a benchmark."""
    sys.path.append(str(ROOT / "benchmarks"))  # at the end: `recipe` is a room of ours and a benchmark
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def script_environment(**extra) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **extra}


def assert_one_line_error(result: SimpleNamespace, *words: str, code: int = 2) -> None:
    """A user's error: its exit code, one line on stderr with these words, and no traceback."""
    assert result.code == code, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert str(word) in lines[0], result.stderr


def paint(path, colour=(120, 60, 30), size=(16, 32), seed: int = 0) -> Path:
    """A small image of one colour with some noise, `size` = (width, height)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 21, (size[1], size[0], 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)
    return path


def make_class_folders(root, identities: int = 4, images: int = 4, cameras: int = 2, suffix: str = ".jpg") -> Path:
    """`root/<identity>/c<camera>_<number>.jpg`, each identity in its own colour."""
    for person in range(1, identities + 1):
        for number in range(images):
            path = Path(root, f"person{person}", f"c{number % cameras + 1}_{number:03d}{suffix}")
            paint(path, COLOURS[person % len(COLOURS)], seed=100 * person + number)
    return Path(root)


def make_market(root, train_ids: int = 4, test_ids: int = 3, images: int = 4) -> Path:
    """The Market-1501 layout: two cameras, one query per test identity and camera, a distractor and a junk image."""
    root = Path(root)

    def name(pid: int, number: int) -> str:
        return f"{pid:04d}_c{number % 2 + 1}s1_{number:06d}_00.jpg"

    for pid in range(1, train_ids + 1):
        for number in range(images):
            path = root / "bounding_box_train" / name(pid, number)
            paint(path, COLOURS[pid % len(COLOURS)], seed=100 * pid + number)
    for pid in range(train_ids + 1, train_ids + test_ids + 1):
        for number in range(images):
            folder = "query" if number < 2 else "bounding_box_test"
            paint(root / folder / name(pid, number), COLOURS[pid % len(COLOURS)], seed=100 * pid + number)
    paint(root / "bounding_box_test" / "0000_c1s1_000900_00.jpg", (128, 128, 128))
    paint(root / "bounding_box_test" / "-1_c2s1_000901_00.jpg", (10, 10, 10))
    return root


@pytest.fixture
def class_folders(tmp_path) -> Path:
    return make_class_folders(tmp_path / "people")


@pytest.fixture
def market(tmp_path) -> Path:
    return make_market(tmp_path / "market")
