"""Everything that needs a GPU, in one go: one command, one folder, within a time limit.

    python benchmarks/gpu.py                                the sample
    python benchmarks/gpu.py --data-dir ROOT                accuracy and the whole run on a dataset of your own
    python benchmarks/gpu.py --device cpu --small           tries all parts out

First whether results are right (`gpu_checks.py`: GPU against CPU, resuming, every mode of training, `torchrun`), then
training speed at each image size, plain and compiled, with memory and the share of time in which the GPU was idle; a
whole run; extraction; evaluator and re-ranking; latency. Each part is another script of this folder with flags that
anyone can type, in a process of its own with a time limit of its own: one that crashes, hangs or is killed costs no
other its results. `results.json` in `--output` is written after each part, what a part printed lies in `logs/`; what no
longer fits into `--minutes` is named. No network is needed.
"""

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import torch
import torchvision
from machine import machine, publish

from appearance import cli
from appearance.device import choose_device
from appearance.flags import above_zero, positive

HERE = Path(__file__).resolve().parent
GRACE = 5  # seconds without which no part is worth starting
SIZES = ("--height 32 --width 16", "--height 64 --width 32", "--height 96 --width 48", "--height 128 --width 64")
RESNET50 = "--model resnet50 --height 256 --width 128"
TINY = "--model osnet_x0_25 --height 32 --width 16"


@dataclass(frozen=True)
class Part:
    """A script of this folder with its flags, and the seconds that it may take."""

    command: str
    seconds: float


def parts(args) -> dict[str, Part]:
    """By name, in order of importance.

    Raises:
        InputError: `--parts` names one that there is not.
    """
    sample = args.output / "sample"
    drawn, own = shlex.quote(str(sample)), shlex.quote(str(args.data_dir or sample))
    device, runs = f"--device {args.device}", shlex.quote(str(args.output / "runs"))
    identities = 9 if args.small else 600
    found = {"sample": Part(f"../datasets.py draw {drawn} --identities {identities}", 90)}
    for kind in ("arithmetic", "training", "torchrun"):
        small = " --small" if args.small else ""
        found[f"check_{kind}"] = Part(f"gpu_checks.py {kind} {device} --data-dir {drawn}{small}", 90)
    steps = "--steps 2 --rounds 1" if args.small else "--steps 100 --rounds 3 --batch_size 64"
    train = f"train_speed.py {device} --alone --data-dir {drawn} --images 12800 {steps} --profile"
    extract = f"extract_speed.py {device} --data-dir {drawn} --rounds {1 if args.small else 3}"
    if args.small:
        found["train"] = Part(f"{train} {TINY} --batch_size 16", 60)
        found["accuracy"] = Part(f"recipe.py {device} {TINY} --output {runs} --data-dir {own} --variants default:1", 60)
        found["extract"] = Part(f"{extract} {TINY} --images 40", 60)
    else:
        for size in SIZES:
            height, width = size.split()[1::2]
            found[f"train_net_{height}x{width}"] = Part(f"{train} {size}", 45)
        found["train_resnet50"] = Part(f"{train} {RESNET50}", 60)
        whole = f"recipe.py {device} --output {runs} --data-dir {own} --variants default:{args.epochs}"
        found["accuracy"] = Part(whole, 150)
        found["extract_net"] = Part(f"{extract} --batch_size 512 --images 4096", 45)
        for size in (SIZES[0], SIZES[-1]):
            height, width = size.split()[1::2]
            found[f"train_net_{height}x{width}_compiled"] = Part(f"{train} {size} --compile", 100)
        found["train_resnet50_compiled"] = Part(f"{train} {RESNET50} --compile", 120)
        found["extract_net_bf16"] = Part(f"{extract} --batch_size 512 --images 4096 --precision bf16", 45)
    repeats = 1 if args.small else 5
    found["evaluate"] = Part(f"evaluate_speed.py {device} --repeats {repeats}", 90)
    networks = "osnet_x0_25" if args.small else "net resnet50"
    seconds = 0.01 if args.small else 0.5
    kind = args.device.split(":")[0]
    latency = f"latency.py --device {kind} --runtimes eager fused --models {networks} --seconds {seconds}"
    found["latency"] = Part(latency, 60)
    chosen = args.parts or list(found)
    unknown = [name for name in chosen if name not in found]
    if unknown:
        raise cli.InputError(f"--parts {unknown[0]}: none of {', '.join(found)}")
    return {name: found[name] for name in chosen}


def in_a_process(command: list[str], log: Path, seconds: float) -> str | None:
    """Run a script of this folder; what went wrong, or None. All that it started ends with it."""
    with open(log, "wb") as file:
        line = [sys.executable, str(HERE / command[0]), *command[1:]]
        child = subprocess.Popen(line, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            code = f"stopped after {seconds:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # also workers that it has left behind
            child.wait()
    if code == 0:
        return None
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    if isinstance(code, int):
        code = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return ": ".join([code, *last])


def run_part(part: Part, folder: Path, name: str, left: float, launch: Callable) -> dict:
    """The JSON of one script, as far as it came, and what became of it."""
    answer, log = folder / "parts" / f"{name}.json", folder / "logs" / f"{name}.txt"
    for path in (answer, log):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    command = shlex.split(part.command)
    if not command[0].startswith(".."):  # the scripts of the collection itself write no JSON
        command += ["--json", str(answer)]
    started = time.perf_counter()
    failed = launch(command, log, min(part.seconds, left))
    found = {"command": part.command, "seconds": round(time.perf_counter() - started, 1)}
    if failed:
        found["failed"] = failed
    if answer.is_file():
        try:
            found["result"] = json.loads(answer.read_text())
        except ValueError:
            found["failed"] = failed or "its answer is no JSON"
    return found


def surroundings(device: str) -> dict:
    """Versions, driver and clocks."""
    found = machine(device) | {"python": platform.python_version(), "torchvision": torchvision.__version__}
    fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,memory.total,persistence_mode"
    with suppress(OSError, subprocess.TimeoutExpired):  # no such program
        line = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv"]
        found["nvidia-smi"] = subprocess.run(line, capture_output=True, text=True, timeout=20).stdout.splitlines()
    return found | {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", type=Path, help="dataset with query and gallery for the whole run; the sample if left out")
    add("--epochs", type=positive, default=40, help="of the whole run")
    add("--parts", nargs="+", help="only these parts")
    add("--minutes", type=above_zero, default=8.5, help="time limit of all parts together")
    add("--device", default="cuda", help="cuda, cuda:1, ...; cpu tries the commands out")
    add("--small", action="store_true", help="tiny networks and images, to try all parts out")
    add("--output", type=Path, default=Path("runs/gpu"), help="folder for results, logs, sample and networks")
    return parser


def main(args, launch: Callable = in_a_process) -> None:
    choose_device(args.device)  # before any part is started
    args.output = args.output.resolve()
    if args.data_dir:
        args.data_dir = args.data_dir.resolve()
    end = time.perf_counter() + 60 * args.minutes
    todo = parts(args)
    report = {"benchmark": "gpu", **surroundings(args.device), "parts": {}, "left_out": list(todo)}
    for name, part in todo.items():
        left = end - time.perf_counter()
        if left < GRACE:
            print(f"no time is left for {', '.join(report['left_out'])}", file=sys.stderr)
            break
        print(f"{name}: {part.command}", file=sys.stderr, flush=True)
        report["parts"][name] = run_part(part, args.output, name, left, launch)
        report["left_out"].remove(name)
        publish(report, args.output / "results.json")


if __name__ == "__main__":
    cli.run(main, get_args_parser())
