"""Kill a training with SIGKILL at random moments, resume it until it is done, and compare it with an untouched run.

    python benchmarks/kill_test.py [--runs 20]         one process, killed one to four times a run
    python benchmarks/kill_test.py --group [--runs 10] two processes under torchrun --max-restarts=3, one ended

About half of the first one's kills wait for the temporary file of a checkpoint, so that they hit the saving. Identical
means: the same bits in all weights of `last.pth` and `best.pth` and the same history, but for the columns that hold
seconds. Prints JSON; exit code 1 unless all runs ended identical.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import torch

import train
from appearance import cli
from appearance.drawn import sample
from appearance.files import UNFINISHED
from appearance.flags import count, positive

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--model", "osnet_x0_25", "--height", "32", "--width", "16", "--batch_size", "16", "--workers", "1"]
FLAGS += ["--amp", "fp32"]  # auto measures, and two runs may find another answer
FLAGS += ["--save-interval", "2", "--device", "cpu", "--eval-interval", "2"]
SINGLE = [*FLAGS, "--epochs", "4"]
GROUP = [*FLAGS, "--epochs", "6"]
TIMES = ("seconds", "images_per_second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=positive, default=20, help="how many trainings are killed and resumed")
    parser.add_argument("--seed", type=count, default=0, help="seed of the moments")
    parser.add_argument("--group", action="store_true", help="two processes under torchrun")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with contextlib.redirect_stdout(sys.stderr):
            sample.ensure("data", identities=9, workers=1)
        result = kill_group(args) if args.group else kill_single(args)
    result["seconds"] = round(time.perf_counter() - started)
    print(json.dumps(result))
    sys.exit(result["identical"] < args.runs)


# -- one process -------------------------------------------------------------------------------------------------------


def kill_single(args) -> dict:
    begin = time.perf_counter()
    assert wait(start(Path("whole"))) == 0, Path("whole.log").read_text()
    duration = time.perf_counter() - begin
    wanted = outcome(Path("whole"))
    rng = random.Random(args.seed)
    kills = {"at random": 0, "while saving": 0}
    identical = 0
    for number in range(args.runs):
        output = Path(f"run{number}")
        for _ in range(rng.randint(1, 4)):
            child = start(output)
            how = rng.choice(list(kills))
            if killed(child, output, rng.uniform(0, duration), how == "while saving"):
                kills[how] += 1
        code = wait(start(output))
        identical += code == 0 and same(outcome(output), wanted)
    return {"test": "kill", "runs": args.runs, "identical": identical, "kills": kills}


def start(output: Path) -> int:
    """Run `train.py` in a fork of this process, which spares it the import of torch; resume where it can."""
    child = os.fork()
    if child:
        return child
    log = os.open(f"{output}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    go_on = ["--resume"] if (output / "last.pth").exists() else ["--data-dir", "data", *SINGLE]
    sys.argv = ["train.py", "--output", str(output), *go_on]
    try:
        cli.run(train.main, train.get_args_parser())
    except SystemExit as stopped:
        os._exit(stopped.code)
    finally:
        os._exit(99)


def killed(child: int, output: Path, delay: float, while_saving: bool) -> bool:
    """Kill `child` after `delay` seconds, or at its first save after that; False if it was faster."""
    end = time.monotonic() + delay
    while time.monotonic() < end or (while_saving and not list(output.glob(f".last.pth.*{UNFINISHED}"))):
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(output: Path) -> dict:
    """Everything that must not depend on the kills."""
    last, best = (torch.load(output / name, weights_only=True) for name in ("last.pth", "best.pth"))
    history = [{key: value for key, value in row.items() if key not in TIMES} for row in last["history"]]
    rows = (output / "history.csv").read_text().splitlines()
    keep = [index for index, name in enumerate(rows[0].split(",")) if name not in TIMES]
    table = [[row.split(",")[index] for index in keep] for row in rows]
    tensors = {"objective": last["objective"], "last": last["net_dict"], "best": best["net_dict"]}
    return {"tensors": tensors, "rest": [history, table, last["epoch"], last["best"], best["epoch"], best["acc"]]}


def same(found: dict, wanted: dict) -> bool:
    """Whether two outcomes are the same; says on stderr what is not."""
    different = [f"{a} instead of {b}" for a, b in zip(found["rest"], wanted["rest"], strict=True) if a != b]
    for part, tensors in wanted["tensors"].items():
        others = found["tensors"][part]
        different += [f"{part}: {key}" for key in tensors if not torch.equal(tensors[key], others[key])]
    if different:
        print(f"{len(different)} differences: {'; '.join(different[:5])}", file=sys.stderr)
    return not different


# -- two processes -----------------------------------------------------------------------------------------------------


def kill_group(args) -> dict:
    """Kill one of two workers at a random moment after the first save; torchrun restarts them, and they go on."""
    launch(Path("whole")).wait()
    wanted = outcome(Path("whole"))
    rng = random.Random(args.seed)
    identical = finished = kills = 0
    for number in range(args.runs):
        output = Path(f"run{number}")
        group = launch(output)
        while group.poll() is None and not (output / "last.pth").exists():
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 3) if number % 2 else 0)  # at once: in the middle of the first epoch
        workers = children(group.pid)
        if workers:
            # by turns as the system kills, and as NCCL's watchdog aborts
            os.kill(rng.choice(workers), (signal.SIGKILL, signal.SIGABRT)[number % 2])
            kills += 1
        code = group.wait()
        found = outcome(output)
        finished += code == 0 and found["rest"][2] == wanted["rest"][2]
        identical += code == 0 and same(found, wanted)
        if finished + identical != 2 * (number + 1):
            print(Path(f"{output}.log").read_text()[-9000:], file=sys.stderr)
    return {"test": "group", "runs": args.runs, "identical": identical, "finished": finished, "kills": kills}


def launch(output: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max-restarts=3"]
    command += [str(ROOT / "train_multiGPU.py"), "--data-dir", "data", "--output", str(output), *GROUP]
    with open(f"{output}.log", "wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"})


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    main()
