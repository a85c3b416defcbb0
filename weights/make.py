"""Make the networks of this folder from nothing: draw people, train, test, export.

    python weights/make.py --output runs/free              some hours of one core
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

    people: int
    cameras: int
    net_epochs: int  # of `Net`, at 128x64
    light_epochs: int  # of the light network, at 64x32
    batch: int = 128  # images
    light: str = "osnet_x1_0"
    light_size: tuple[int, int] = (64, 32)  # height and width
    half: bool = True  # files of float16, for which the vectors of a network that knows nothing yet are too alike


PLANS = {
    "small": Plan(9, 3, 1, 1, batch=16, light="osnet_x0_25", light_size=(32, 16), half=False),
    "cpu": Plan(4250, 400, 6, 8),
    "large": Plan(20250, 800, 12, 24, batch=256),
}


def run(script, *flags) -> None:
    """One script with these flags, in this process; the line that does the same is printed."""
    words = [str(flag) for flag in flags]
    print(f"\n$ python {Path(script.__file__).name} {shlex.join(words)}", flush=True)
    script.main(script.get_args_parser().parse_args(words))


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
    metrics = protocols.metrics(features_file.load(features))
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
    people, teacher = out / "people", out / "weights" / "ckpt.t7"
    crowd = ("--identities", plan.people, "--cameras", plan.cameras, "--seed", 2, "--variety", "rich")
    run(datasets, "draw", people, *crowd)

    def export_as(kind: str, weights: Path) -> None:
        half = ["--half"] if plan.half else []
        run(export, "--weights", weights, "--format", kind, *half, "--output", out / "weights", "--data-dir", people)

    card = {}
    if not teacher.is_file():
        batch = ("--batch_size", plan.batch)
        net = learn(out / "net", people, (128, 64), plan.net_epochs, "--model", "net", *batch)
        export_as("ckpt", net)
    taught = ("--model", plan.light, "--teacher", teacher, "--teacher-weight", 4)
    light = learn(out / "light", people, plan.light_size, plan.light_epochs, *taught)
    export_as("boxmot", light)
    for name, weights in {"net": teacher, "light": light}.items():
        card[name] = {"drawn people": figures(weights, people, out / f"{name}_drawn.pth")}
        if args.test:
            card[name][str(args.test)] = figures(weights, args.test, out / f"{name}_test.pth")
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
