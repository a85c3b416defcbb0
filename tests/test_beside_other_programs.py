"""`feature_extractor` inside a program whose own modules have the names of ours."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, script_environment
from networks import random_crops, write_checkpoint

from appearance.networks import checkpoints
from export import Job, write_onnx, write_torchscript
from feature_extractor import Extractor

TOP_LEVEL = sorted(path.stem for path in ROOT.glob("*.py") if path.stem != "feature_extractor")
# of the time when all files lay side by side: programs may still have them, and nothing may depend on them
FLAT = (
    *("augment", "batches", "calibrate", "checkpoints", "cli", "exported", "extract", "features", "files", "flags"),
    *("layouts", "losses", "metrics", "mobilenet", "muon", "osnet", "pixels", "plots", "protocols", "recipe", "report"),
    *("rerank", "resize", "resume", "sample", "sample_cameras", "sample_people"),
)
NAMES = [*TOP_LEVEL, *FLAT]

PROGRAM = """
import importlib, sys
sys.path[:] = [path for path in sys.path if path not in ("", {ours!r}, {theirs!r})]
sys.path.insert(0, {theirs!r})
if {first}:
    sys.path.insert(1, {ours!r})
else:
    sys.path.append({ours!r})
NAMES = {names!r}
before = [importlib.import_module(name) for name in NAMES] if {imported} else []
path = list(sys.path)

from feature_extractor import Extractor
import numpy as np
crops = list(np.load({crops!r}).values())
for weights in {weights!r}:
    np.save(weights + ".npy", Extractor(weights, use_cuda=False)(crops))

assert sys.path[: len(path)] == path  # torch 2.9 appends a folder of its own
for name in NAMES:
    module = importlib.import_module(name)
    assert module.OWNER == "the program", (name, module.__file__)
    assert importlib.import_module(name + ".inner").OWNER == "the program"
for module in before:
    assert sys.modules[module.__name__] is module
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of Net, one of a ResNet, and exported files."""
    folder = tmp_path_factory.mktemp("weights")
    files = [write_checkpoint(folder / "net.pth"), write_checkpoint(folder / "resnet.pth", "resnet18", last_stride=1)]
    job = Job(checkpoints.load(files[0]), inside=True, calibration=torch.empty(0))
    for name, write in (("net.onnx", write_onnx), ("net.torchscript", write_torchscript)):
        write(job, folder / name)
        files.append(folder / name)
    return files


@pytest.mark.parametrize(
    ("first", "imported"),
    [(True, True), (False, False)],
    ids=["after the program's folder, its modules imported already", "appended, its modules imported later"],
)
def test_the_program_keeps_its_modules_and_the_extractor_works(weights, tmp_path, imported, first):
    program = tmp_path / "program"
    for name in NAMES:
        (program / name).mkdir(parents=True)
        for file in ("__init__.py", "inner.py"):
            (program / name / file).write_text("OWNER = 'the program'\n")
    crops = random_crops(3)
    np.savez(tmp_path / "crops.npz", *crops)
    code = PROGRAM.format(
        ours=str(ROOT),
        theirs=str(program),
        first=first,
        imported=imported,
        names=NAMES,
        crops=str(tmp_path / "crops.npz"),
        weights=[str(file) for file in weights],
    )
    command = [sys.executable, "-c", code]
    environment = script_environment(PYTHONPATH="", PYTHONSAFEPATH="1")
    done = subprocess.run(command, cwd=program, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for file in weights:
        wanted = Extractor(file, use_cuda=False)(crops)
        np.testing.assert_allclose(np.load(f"{file}.npy"), wanted, atol=1e-6)


def test_a_network_of_the_extractor_can_be_sent_to_another_process(weights, tmp_path):
    code = (
        f"import sys; sys.path.append({str(ROOT)!r})\n"
        "import pickle\n"
        "from feature_extractor import Extractor\n"
        f"extractor = pickle.loads(pickle.dumps(Extractor({str(weights[0])!r}, use_cuda=False)))\n"
        "assert extractor.feature_dim == 512 and 'model' not in sys.modules and 'resnet' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=script_environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
