"""Feed mutated and hostile images, checkpoints and features files to the scripts: each must be used rightly or refused.

    python benchmarks/fuzz_test.py [--images 1000] [--files 500] [--seed 0]

Each case is a file that was truncated, bit-flipped, overwritten in part or spliced with another; a pipe, a device or a
link to itself in its place; or a checkpoint or features file with wrong types, shapes, strides and byte orders, hostile
pickles, terminal escape codes, or weights that make NaN. It runs as a user's command in a fork of this process:
`datasets.py check` and `train.py` for images, `test.py`, `train.py --weights`, `train.py --resume` and `evaluate.py`
for files.

A case may end in two ways. Used: exit code 0, nothing on stderr, and vectors that `test.py` writes are finite and of
length 1. Refused: exit code 1 or 2 and one line on stderr (apart from notes of a decoding library). Counted as
failures: tracebacks, other exit codes, silence, hangs (30 s), raw escape codes in the output, executed code (a hostile
pickle leaves a mark). Each case has 2 GiB of memory. Prints JSON with the counts of each kind; exit code 1 after any
failure.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import numpy as np
import torch
from PIL import Image

import datasets
import evaluate
import train
from appearance import cli
from appearance.drawn import sample
from appearance.flags import count, positive
from appearance.networks.inference import are_unit
from model import build_model

PATIENCE = 30  # seconds until a case counts as a hang
MEMORY = 2 << 30  # bytes above what this process has
SMALL = ["--model", "osnet_x0_25", "--height", "32", "--width", "16", "--workers", "1", "--device", "cpu"]
MARK = Path("executed")
ESCAPE = "\x1b]0;title\x07\x1b[31mred"


class Hostile:
    """A pickle of it runs a command when it is loaded."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


HOSTILE = (
    (os.system, f"touch {MARK}"),
    (eval, f"open({str(MARK)!r}, 'w')"),
    (exec, f"open({str(MARK)!r}, 'w')"),
    (Path.touch, MARK),
    (bytearray, 1 << 45),
    (torch.ones, 1 << 42),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=positive, default=1000, help="mutated image files")
    parser.add_argument("--files", type=positive, default=500, help="mutated checkpoints and feature files")
    parser.add_argument("--seed", type=count, default=0, help="seed of the mutations")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rng = random.Random(args.seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        failures, ends = fuzz_images(args.images, rng)
        more_failures, more_ends = fuzz_files(args.files, rng)
    print(
        json.dumps(
            {
                "test": "fuzz",
                "images": {"files": args.images, "kinds": ends},
                "files": {"files": args.files, "kinds": more_ends},
                "failures": failures + more_failures,
                "seconds": round(time.perf_counter() - started),
            }
        )
    )
    sys.exit(bool(failures or more_failures))


# -- running one case --------------------------------------------------------------------------------------------------


def run(module, *arguments) -> tuple[int | None, str]:
    """Exit code (None: it hung) and stderr of a script's main in a fork of this process."""
    child = os.fork()
    if not child:
        _run_here(module, arguments)
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), Path("stderr").read_text(errors="replace")
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, ""


def _run_here(module, arguments) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = [f"{module.__name__}.py", *map(str, arguments)]
    code = 99
    try:
        cli.run(module.main, module.get_args_parser())
    except SystemExit as stopped:
        code = stopped.code
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def judged(code: int | None, errors: str) -> str:
    """How a case ended: `used`, `refused`, or what is wrong with that."""
    written = Path("features.pth")  # of test.py, deleted before the next case
    vectors = torch.load(written, weights_only=True)["qf"] if written.exists() else None
    written.unlink(missing_ok=True)
    if MARK.exists():
        MARK.unlink()
        return "code ran"
    if code is None:
        return "hang"
    if "Traceback" in errors:
        return "traceback: " + errors.strip().splitlines()[-1][:200]
    if "\x1b" in errors + Path("stdout").read_text(errors="replace"):
        return "raw escape code in the output"
    if vectors is not None and not are_unit(vectors).all():
        return "test.py wrote vectors that are not of length 1"
    lines = [line for line in errors.splitlines() if ".py: " in line]
    if (code == 0 and not lines) or (code in (1, 2) and len(lines) == 1):
        return "refused" if code else "used"
    return f"exit code {code} with {len(lines)} lines: {errors[:300]!r}"


def counted(name: str, kind: str, verdict: str, ends: dict, failures: list) -> None:
    """Add a verdict to `ends`: kind of file -> how it ended -> number of cases."""
    end = verdict if verdict in ("used", "refused") else "failed"
    ends.setdefault(kind, {}).setdefault(end, 0)
    ends[kind][end] += 1
    if end == "failed":
        failures.append({"case": name, "verdict": verdict})


# -- mutations of bytes ------------------------------------------------------------------------------------------------


def mutated(content: bytes, other: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A broken version of a file, with the name of what was done to it."""
    how = rng.choice(("truncated", "bits", "bytes", "head", "splice", "zeros", "empty", "doubled"))
    data = bytearray(content)
    place = rng.randrange(len(data))
    if how == "truncated":
        del data[place:]
    elif how == "bits":
        for _ in range(rng.choice((1, 8, 64))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "bytes":
        data[place : place + 16] = rng.randbytes(16)
    elif how == "head":
        for _ in range(4):  # headers hold sizes and offsets
            data[rng.randrange(min(64, len(data)))] = rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    elif how == "splice":
        data[place:] = other[rng.randrange(len(other)) :]
    elif how == "zeros":
        data[place:] = bytes(len(data) - place)
    elif how == "empty":
        data.clear()
    else:
        data += data[place:]
    return how, bytes(data)


def no_regular_file(path: Path, rng: random.Random) -> str:
    """Put something at `path` that is not a regular file; returns what."""
    kind = rng.choice(("pipe", "device", "link to itself"))
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else path.name)
    return kind


# -- images ------------------------------------------------------------------------------------------------------------


def whole_images() -> dict[str, bytes]:
    """Small images of many formats and modes."""
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (48, 24, 3), np.uint8).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    images = {}
    for name, image, options in (
        ("rgb.jpg", colour, {"exif": exif}),
        ("progressive.jpg", colour, {"progressive": True}),
        ("cmyk.jpg", colour.convert("CMYK"), {}),
        ("grey.jpeg", colour.convert("L"), {}),
        ("rgb.png", colour, {}),
        ("palette.png", colour.convert("P"), {"transparency": 0}),
        ("rgba.png", colour.convert("RGBA"), {}),
        ("deep.png", Image.fromarray(rng.integers(0, 65536, (48, 24), np.uint16).astype(np.uint16)), {}),
        ("a.bmp", colour, {}),
        ("a.ppm", colour, {}),
        ("a.tiff", colour, {"compression": "tiff_lzw"}),
        ("a.webp", colour, {}),
        ("frames.webp", colour, {"save_all": True, "append_images": [colour.rotate(90)]}),
    ):
        buffer = io.BytesIO()
        form = {"jpg": "jpeg", "tif": "tiff"}.get(name.rsplit(".", 1)[1], name.rsplit(".", 1)[1])
        image.save(buffer, form, **options)
        images[name] = buffer.getvalue()
    return images


def fuzz_images(count: int, rng: random.Random) -> tuple[list, dict]:
    """Each image lies as the only odd one in a dataset that is checked; every tenth is trained with as well."""
    failures, ends = [], {}
    base = Path("people")
    for person in range(3):
        for number in range(4):
            path = base / f"p{person}" / f"c{number % 2}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24, 48), (80 * person, 20 * number, 99)).save(path)
    wholes = whole_images()
    for number in range(count):
        name, other = rng.choice(list(wholes)), rng.choice(list(wholes))
        path = base / "p0" / f"c1_odd{Path(name).suffix}"
        if rng.random() < 0.05:
            how = no_regular_file(path, rng)
        else:
            how, content = mutated(wholes[name], wholes[other], rng)
            path.write_bytes(content)
        counted(f"image {number} {name}: check", how, judged(*run(datasets, "check", base)), ends, failures)
        if number % 10 == 0:
            flags = ["--data-dir", base, "--output", f"out{number}", "--cache", "ram", "--epochs", 1, "--batch_size", 8]
            skip = ["--skip-bad-images"] if number % 20 else []
            verdict = judged(*run(train, *flags, *skip, *SMALL))
            counted(f"image {number} {name}: train {skip}", how, verdict, ends, failures)
            shutil.rmtree(f"out{number}", ignore_errors=True)
        path.unlink()
    return failures, ends


# -- checkpoints and feature files -------------------------------------------------------------------------------------


def odd_value(rng: random.Random):
    """Something that does not belong where it is put."""
    if rng.random() < 0.3:
        return Hostile(*rng.choice(HOSTILE))
    return rng.choice(
        (
            *(None, True, -1, 2**70, 1e308, float("nan"), "", "text\nwith\nlines", b"bytes", [], {}, {"a": [1]}),
            *(torch.tensor(1.0), torch.zeros(0), torch.zeros(2, 3, 4), torch.zeros(5, dtype=torch.complex64)),
            *(torch.full((7,), float("nan")), torch.zeros(1).expand(1 << 40), torch.empty(1 << 40, device="meta")),
            *(torch.eye(3).to_sparse(), torch.zeros(3, dtype=torch.bool), torch.arange(9)),
        )
    )


def with_odd_value(content: dict, rng: random.Random) -> dict:
    """The dict with one value at any depth replaced or taken away, or one of its tensors reshaped."""
    content = dict(content)
    key = rng.choice(list(content))
    value = content[key]
    if isinstance(value, dict) and value and rng.random() < 0.8:
        content[key] = with_odd_value(value, rng)
    elif rng.random() < 0.1:
        del content[key]
    elif isinstance(value, torch.Tensor) and rng.random() < 0.5:
        content[key] = value.flatten()[: rng.randrange(1 + value.numel())]
    else:
        content[key] = odd_value(rng)
    return content


def tensors(content: dict) -> list[tuple[dict, str]]:
    """Each tensor of numbers at any depth, as the dict that holds it and its key."""
    found = []
    for key, value in content.items():
        if isinstance(value, dict):
            found += tensors(value)
        elif isinstance(value, torch.Tensor) and value.numel():
            found.append((content, key))
    return found


def hostile(content: dict, rng: random.Random) -> tuple[str, dict]:
    """A copy that PyTorch saves and loads without complaint, but that no network or evaluation can use as it is."""
    content = copy.deepcopy(content)
    holder, key = rng.choice(tensors(content))
    value = holder[key]
    kind = rng.choice(
        ("nested", "sparse", "expanded", "endless", "integers", "big-endian", "NaN makers", "weights", "escape codes")
    )
    if kind == "nested":
        holder[key] = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    elif kind == "sparse":
        holder[key] = value.to_sparse() if rng.random() < 0.5 or value.dim() != 2 else value.to_sparse_csr()
    elif kind == "expanded":
        holder[key] = (
            value.flatten()[:1].expand(value.numel()).view_as(value) if value.dim() < 2 else value[:1].expand_as(value)
        )
    elif kind == "endless":
        holder[key] = torch.zeros(1).expand(1 << 40)
    elif kind == "integers":
        holder[key] = (1000 * value).long()
    elif kind == "big-endian":
        holder[key] = value.numpy().astype(value.numpy().dtype.newbyteorder(">"))
    elif kind == "escape codes":
        _with_escape_codes(content, rng)
    else:
        for one, name in tensors(content):
            if one[name].is_floating_point():
                if kind == "weights":
                    one[name] = one[name] * rng.choice((0.0, 1e-30, 1e30, -1.0))
                elif name.endswith("running_var") or name == key:
                    one[name] = -one[name].abs() - 1
    return kind, content


def _with_escape_codes(content: dict, rng: random.Random) -> None:
    """Put codes that change a terminal into all texts of a dict, in place."""
    for key, value in content.items():
        if isinstance(value, dict):
            _with_escape_codes(value, rng)
        elif isinstance(value, str):
            content[key] = rng.choice((ESCAPE + value, value + ESCAPE, ESCAPE))
        elif isinstance(value, list) and value and isinstance(value[0], str):
            content[key] = [ESCAPE + one for one in value]


def whole_files() -> dict[str, tuple]:
    """name -> (content to save, how it is saved, commands that read it)."""
    with contextlib.redirect_stdout(io.StringIO()):
        sample.ensure("data", identities=6, workers=1)
        flags = ["--data-dir", "data", "--output", "run", "--epochs", "1", "--batch_size", "8"]
        train.main(train.get_args_parser().parse_args([*flags, *SMALL]))
    last = torch.load("run/last.pth", weights_only=True)
    torch.manual_seed(0)
    published = {"net_dict": build_model("resnet18", 5, truncated=True).state_dict(), "acc": 1.0, "epoch": 3}
    rows = torch.nn.functional.normalize(torch.randn(12, 8), dim=1)
    ids, cameras = torch.arange(12) % 3, torch.arange(12) % 2
    features = {"qf": rows[:5], "ql": ids[:5], "qc": cameras[:5], "gf": rows, "gl": ids, "gc": cameras}
    features |= {"q_paths": [f"{i}.jpg" for i in range(5)], "g_paths": [f"{i}.jpg" for i in range(12)], "meta": {}}
    extract = [(load_script("test.py"), "--data-dir", "data", "--device", "cpu", "--workers", 1, "--weights")]
    start = [(train, "--data-dir", "data", *SMALL, "--output", "new", "--epochs", 1, "--weights")]
    resume = [(train, "--output", "new", "--epochs", 2, "--resume")]
    return {
        "last.pth": (last, torch.save, extract + start + resume),
        "published.t7": (published, save_old, extract),
        "features.pth": (features, torch.save, [(evaluate,)]),
        "features.npz": (features, save_npz, [(evaluate,)]),
        "result.mat": (features, save_mat, [(evaluate,)]),
    }


def save_old(content, path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_npz(content: dict, path) -> None:
    arrays = {key: plain_array(value) for key, value in content.items()}
    np.savez(path, **arrays)


def save_mat(content: dict, path) -> None:
    import scipy.io

    names = {"qf": "query_f", "ql": "query_label", "qc": "query_cam", "gf": "gallery_f", "gl": "gallery_label"}
    arrays = {names.get(key, "gallery_cam"): plain_array(content[key]) for key in (*names, "gc") if key in content}
    scipy.io.savemat(path, {key: value for key, value in arrays.items() if value.dtype != object})


def plain_array(value) -> np.ndarray:
    try:
        value = value.numpy() if isinstance(value, torch.Tensor) and value.numel() < 1e6 else np.asarray(value)
    except (RuntimeError, TypeError, ValueError):
        value = np.zeros(3)
    return value


def load_script(name: str):
    """`test.py` under another name, because Python has a `test` of its own."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("extract_script", Path(__file__).parent.parent / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fuzz_files(count: int, rng: random.Random) -> tuple[list, dict]:
    failures, ends = [], {}
    if not count:
        return failures, ends
    wholes = whole_files()
    contents = {}
    for name, (content, save, _) in wholes.items():
        save(content, name)
        contents[name] = Path(name).read_bytes()
    for number in range(count):
        name = rng.choice(list(wholes))
        content, save, commands = wholes[name]
        path = Path(f"odd-{name}")
        chance = rng.random()
        if chance < 0.05:
            how = no_regular_file(path, rng)
        elif chance < 0.4:
            how, data = mutated(contents[name], contents[rng.choice(list(wholes))], rng)
            path.write_bytes(data)
        else:
            how, odd = ("odd value", with_odd_value(content, rng)) if chance < 0.6 else hostile(content, rng)
            try:
                save(odd, path)
            except Exception:  # this format cannot hold it
                how = "truncated"
                path.write_bytes(contents[name][:-7])
        module, *flags = rng.choice(commands)
        shutil.rmtree("new", ignore_errors=True)
        verdict = judged(*run(module, *flags, path))
        counted(f"file {number} {name}: {module.__name__} {flags[-1:]}", how, verdict, ends, failures)
        path.unlink()
    return failures, ends


if __name__ == "__main__":
    main()
