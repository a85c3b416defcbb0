"""Make the networks of this folder from nothing: draw people, train, test, export.

    python weights/make.py --output runs/free              about five hours of one core
    python weights/make.py --output runs/free --large      more people and epochs, for a GPU
    python weights/make.py --output runs/tiny --small      every step with a few people, in a minute: does it work?
    python weights/make.py --output runs/free --test ROOT  also test on the query and gallery of ROOT

Each step is one of the scripts with the flags that are printed. A step that is done is not repeated, and a training
that was interrupted goes on where it stopped: give the same command again. The plan is kept in `plan.json`.

Nothing here reads a photograph; ROOT is tested on and nothing else.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import json
import shlex
from dataclasses import asdict, dataclass

import datasets
import export
import test as testing
import train
from appearance import cli
from appearance.cli import InputError
from appearance.files import write_text
from appearance.measure import features_file, protocols


@dataclass(frozen=True)
class Plan:
    """How many people are drawn, and how often each network sees them."""

    first: tuple[int, int]  # people and cameras of the first crowd
    second: tuple[int, int]  # of the second, which the networks that begin on the first go on with
    teacher_epochs: tuple[int, int]  # of Net on the first and on the second crowd
    light_epochs: tuple[int, int]  # of the light network on both
    net_epochs: int  # of Net at its whole size, on the second crowd
    size: tuple[int, int] = (64, 32)  # height and width of the teacher and of the light network
    whole: tuple[int, int] = (128, 64)  # of Net
    batch: int = 128
    light: str = "osnet_x1_0"
    half: bool = True  # files of float16, for which the vectors of a network that knows nothing yet are too alike


PLANS = {
    "small": Plan((9, 3), (15, 3), (1, 1), (1, 1), 1, batch=16, size=(32, 16), light="osnet_x0_25", half=False),
    "cpu": Plan((1750, 200), (8250, 400), (10, 4), (4, 8), 1),
    "large": Plan((5250, 400), (20250, 800), (10, 10), (5, 10), 3, batch=256),
}


def run(script, *flags) -> None:
    """One script with these flags, in this process; the line that does the same is printed."""
    words = [str(flag) for flag in flags]
    print(f"\n$ python {Path(script.__file__).name} {shlex.join(words)}", flush=True)
    script.main(script.get_args_parser().parse_args(words))


def draw(folder: Path, crowd: tuple[int, int], seed: int) -> Path:
    people, cameras = crowd
    run(datasets, "draw", folder, "--identities", people, "--cameras", cameras, "--seed", seed, "--variety", "rich")
    return folder


def learn(output: Path, data: Path, size: tuple[int, int], epochs: int, *flags) -> Path:
    """Train, or go on training; returns the weights."""
    height, width = size
    going_on = ["--resume"] if (output / "last.pth").is_file() else []
    run(
        *(train, "--data-dir", data, "--output", output, "--height", height, "--width", width, "--epochs", epochs),
        *("--val-ratio", 0, "--eval-interval", 1000, *flags, *going_on),
    )
    return output / "best.pth"


def figures(weights: Path, data: Path, features: Path) -> dict:
    """Rank-1, mAP and mINP on the query and gallery of `data`."""
    if not features.is_file():
        run(testing, "--weights", weights, "--data-dir", data, "--output", features)
    metrics = protocols.figures(features_file.load(features))
    return {name: round(100 * metrics[name], 1) for name in ("rank1", "mAP", "mINP")}


def remember(plan: Plan, output: Path) -> None:
    """Write the plan down; an output folder of another plan is refused."""
    path, wanted = output / "plan.json", json.dumps(asdict(plan), indent=1)
    if path.is_file() and path.read_text() != wanted:
        raise InputError(f"--output {output}: was begun with another plan ({path}); name another folder")
    output.mkdir(parents=True, exist_ok=True)
    write_text(path, wanted)


def main(args) -> None:
    plan, out = PLANS[args.plan], args.output
    remember(plan, out)
    first, second = draw(out / "first", plan.first, 1), draw(out / "second", plan.second, 2)

    batch = ("--batch_size", plan.batch)
    refine = ("--no-progressive", "--lr", 1e-3, *batch)
    begun = learn(out / "teacher_first", first, plan.size, plan.teacher_epochs[0], "--model", "net", *batch)
    teacher = learn(out / "teacher", second, plan.size, plan.teacher_epochs[1], "--weights", begun, *refine)

    taught = ("--teacher", teacher, "--teacher-weight", 4)
    begun = learn(out / "light_first", first, plan.size, plan.light_epochs[0], "--model", plan.light, *taught)
    light = learn(out / "light", second, plan.size, plan.light_epochs[1], "--weights", begun, *refine, *taught)
    net = learn(out / "net", second, plan.whole, plan.net_epochs, "--weights", teacher, *refine, *taught)

    card = {}
    for name, weights in {"light": light, "net": net}.items():
        card[name] = {"drawn people": figures(weights, first, out / f"{name}_drawn.pth")}
        if args.test:
            card[name][str(args.test)] = figures(weights, args.test, out / f"{name}_test.pth")
    half = ["--half"] if plan.half else []
    for weights, kind in ((light, "boxmot"), (net, "ckpt")):
        run(export, "--weights", weights, "--format", kind, *half, "--output", out / "weights", "--data-dir", first)
    write_text(out / "card.json", json.dumps(card, indent=1))
    print(f"\nDone: {out / 'weights'}\n{json.dumps(card, indent=1)}")


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(description="Draw people, train the networks of this folder on them, test, export.")
    add = parser.add_argument
    add("--output", type=Path, default=Path("runs/free"), help="folder for everything that is made")
    size = parser.add_mutually_exclusive_group()
    help = "every step with a few people, in a minute"
    size.add_argument("--small", dest="plan", action="store_const", const="small", default="cpu", help=help)
    size.add_argument("--large", dest="plan", action="store_const", const="large", help="for a GPU")
    add("--test", type=Path, metavar="ROOT", help="dataset of real people to test on, with query and gallery")
    return parser


if __name__ == "__main__":
    cli.run(main, get_args_parser())
