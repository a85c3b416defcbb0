"""Every measurement that needs a GPU, in one go: one command, one JSON file, within a time limit.

    python benchmarks/gpu.py --json gpu.json                                    speeds, and accuracy on the sample
    python benchmarks/gpu.py --data-dir ROOT --full-data-dir ROOT --json gpu.json

Speeds first: training of `Net` and resnet50 against the plain loop, plain and compiled, with a profile; extraction;
latency. Then accuracy: both recipes with three seeds on `--data-dir`, and the full runs on `--full-data-dir`. Each part
is another script of this folder with flags that anyone can type, in a process of its own. What has been measured is
written at once, and what no longer fits into `--minutes` is left out and named. No network is needed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from machine import machine, publish

from appearance import cli

HERE = Path(__file__).resolve().parent
RESNET50 = "--model resnet50 --height 256 --width 128"
GRACE = 5  # seconds without which no part is worth starting


def parts(args) -> dict[str, str]:
    """name -> command line, in order of importance."""
    data = f"--data-dir {args.data_dir}" if args.data_dir else ""
    full = args.full_data_dir
    speed = f"--device {args.device} --rounds {args.rounds}"
    many = f"{speed} --images {args.images}"
    accuracy = f"recipe.py --device {args.device} --output {args.output}"
    found = {
        "train_net": f"train_speed.py {many} --batch_size 256 --profile",
        "train_net_compiled": f"train_speed.py {many} --batch_size 256 --compile --profile",
        "train_net_batch_64": f"train_speed.py {many} --batch_size 64",
        "extract_net": f"extract_speed.py {many} --batch_size 512 --precision bf16",
        "train_resnet50": f"train_speed.py {many} {RESNET50} --batch_size 128 --profile",
        "accuracy": f"{accuracy} {data} --variants deepsort:12 default:12 default:40 --seeds 0 1 2",
        "extract_net_fp32": f"extract_speed.py {many} --batch_size 512",
        "extract_resnet50": f"extract_speed.py {many} {RESNET50} --precision bf16",
        "latency": f"latency.py --device {args.device} --models net resnet50 --seconds 0.5",
    }
    if full:
        found |= {
            "full_net": f"{accuracy} --data-dir {full} --variants default:60",
            "full_resnet50": f"{accuracy}/resnet50 --data-dir {full} --variants default:60 {RESNET50}",
        }
    chosen = args.parts or list(found)
    unknown = [name for name in chosen if name not in found]
    if unknown:
        raise cli.InputError(f"--parts {unknown[0]}: none of {', '.join(found)}")
    return {name: found[name] for name in chosen}


def run_part(command: str, seconds: float) -> dict:
    """The JSON of one script, or what became of it."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "result.json"
        line = [sys.executable, *command.split(), "--json", str(answer)]
        line[1] = str(HERE / line[1])
        try:
            done = subprocess.run(line, capture_output=True, text=True, timeout=seconds)
            failed = (done.stderr or done.stdout).strip().splitlines()[-1:] if done.returncode else []
        except subprocess.TimeoutExpired:
            failed = [f"stopped after {seconds:.0f} s"]
        result = {"failed": failed[0] if failed else "it failed"}
        if not failed and answer.is_file():
            result = json.loads(answer.read_text())
    return {"command": command, "seconds": round(time.perf_counter() - started, 1), "result": result}


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", type=Path, help="dataset with query and gallery for both recipes; the sample if left out")
    add("--full-data-dir", type=Path, help="dataset for the full runs; they are left out without one")
    add("--parts", nargs="+", help="only these parts")
    add("--minutes", type=float, default=8.5, help="time limit; what is measured by then is kept")
    add("--images", type=int, default=4096, help="images of the speed measurements, about")
    add("--rounds", type=int, default=5, help="rounds of the speed measurements")
    add("--device", default="cuda", help="cuda, cuda:1, ...; cpu tries the commands out")
    add("--output", type=Path, default=Path("runs/gpu"), help="folder that keeps the trained networks")
    add("--json", type=Path, default=Path("runs/gpu.json"), help="file for all results")
    return parser


def main(args) -> None:
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise cli.InputError(f"--device {args.device}: there is no CUDA device on this machine")
    end = time.perf_counter() + 60 * args.minutes
    todo = parts(args)
    report = {"benchmark": "gpu", **machine(args.device), "parts": {}, "left_out": list(todo)}
    for name, command in todo.items():
        left = end - time.perf_counter()
        if left < GRACE:
            break
        print(f"{name}: {command}", file=sys.stderr, flush=True)
        report["parts"][name] = run_part(command, left)
        report["left_out"].remove(name)
        publish(report, args.json)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
