"""Accuracy of recipes: trains each variant with each seed, tests it, and prints a table.

    python benchmarks/recipe.py --data-dir ROOT --epochs 12 [--variants default deepsort ...] [--seeds 0 1 2]
    python benchmarks/recipe.py --data-dir ROOT --variants deepsort:12 default:40     what the same time buys

A variant is a recipe, or the default recipe with one part changed (`--list` names them), with epochs of its own where
it is followed by a colon and their number. Every run is `train.py` with flags that anyone can type. Besides rank-1, mAP
and mINP the table gives what a tracker lives on: the cosine between images of one person from different cameras, and
between strangers (mean, 1 % and 99 % points), and the processor time of the training, which is the cost to compare on
a machine that does other work as well. Each run is kept as soon as it is finished, and not repeated: a stopped
benchmark resumes the run it was in, to the same weights; what that run cost is then not known, and left out.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import torch
from machine import keep, machine

import train
from appearance import cli
from appearance.data import layouts
from appearance.drawn import sample
from appearance.files import write_text
from appearance.flags import count, positive
from appearance.identities import are_people
from appearance.measure import features_file, protocols
from appearance.measure.embed import test_features
from appearance.networks import checkpoints
from datasets import PersonImages
from model import from_checkpoint
from utils import single_process

# name -> flags; each part of the recipe on or off
VARIANTS = {
    "default": [],
    "deepsort": ["--recipe", "deepsort"],
    "no progressive resizing": ["--no-progressive"],
    "progressive resizing": ["--progressive"],
    "no metric loss": ["--metric-loss", "none", "--classifier-weight", "1"],
    "metric loss alone": ["--classifier-weight", "0"],
    "no triplet": ["--metric-loss", "cosine"],
    "no softmax over cosines": ["--metric-loss", "triplet"],
    "no triplet, shuffled batches": ["--metric-loss", "cosine", "--sampler", "shuffle"],
    "shuffled batches": ["--sampler", "shuffle"],
    "circle": ["--metric-loss", "circle"],
    "margin 0.1": ["--margin", "0.1"],
    "no label smoothing": ["--label-smoothing", "0"],
    "no erasing": ["--erase", "0"],
    "no jitter": ["--jitter", "0"],
    "no shifted crops": ["--pad", "0"],
    "no mirroring": ["--flip", "0"],
    "mirroring alone": ["--erase", "0", "--jitter", "0", "--pad", "0"],
    "adamw": ["--optimizer", "adamw"],
    "sgd": ["--optimizer", "sgd", "--lr", "0.05", "--weight-decay", "5e-4"],
    "no warm-up": ["--warmup", "0"],
    "no clipping": ["--clip", "0"],
    "clipping at 1": ["--clip", "1"],
    "no triplet, label smoothing": ["--metric-loss", "cosine", "--label-smoothing", "0"],
    "no label smoothing, warm-up": ["--label-smoothing", "0", "--warmup", "0"],
    "no triplet, label smoothing, warm-up": ["--metric-loss", "cosine", "--label-smoothing", "0", "--warmup", "0"],
    "no triplet, label smoothing, warm-up, clipping": [
        *("--metric-loss", "cosine", "--label-smoothing", "0", "--warmup", "0", "--clip", "0")
    ],
    "stronger augmentation": ["--erase", "0.5", "--jitter", "0.3", "--pad", "0.1"],
    **{f"batch {size}": ["--batch_size", str(size)] for size in (128, 64, 32, 16)},
    **{f"batch {size}, whole size": ["--batch_size", str(size), "--no-progressive"] for size in (128, 64, 32, 16)},
    "twice the rate": ["--lr", "4e-3"],
    "half the rate": ["--lr", "1e-3"],
    "float32": ["--amp", "fp32"],
    "deepsort, any arithmetic": ["--recipe", "deepsort", "--amp", "auto"],
}


def variant(text: str, epochs: int) -> tuple[str, int]:
    """A variant's name and epochs, from NAME or NAME:EPOCHS.

    Raises:
        InputError: there is no such variant, or the epochs are no number.
    """
    name, _, own = text.partition(":")
    if name not in VARIANTS:
        raise cli.InputError(f"--variants {name}: no such variant; --list names them")
    if own and not (own.isdecimal() and int(own)):
        raise cli.InputError(f"--variants {text}: the epochs must be a whole number above 0")
    return name, int(own or epochs)


def run_one(args, name: str, epochs: int, seed: int) -> dict:
    """Train and test one variant, or finish the run that was stopped; the result is kept beside the checkpoint."""
    folder = args.output / f"{name}_{epochs}".replace(" ", "_").replace(",", "") / f"seed{seed}"
    kept = folder / "result.json"
    flags = ["--output", str(folder), "--epochs", str(epochs), "--seed", str(seed), "--device", args.device]
    flags += ["--model", args.model, "--height", str(args.height), "--width", str(args.width)]
    flags += ["--weights", args.weights] if args.weights else []
    flags += ["--data-dir", str(args.data_dir), "--eval-interval", str(epochs), "--overwrite"] + VARIANTS[name]
    if kept.is_file():
        result = json.loads(kept.read_text())
        if result["command"] != flags:  # another network, size or data set
            raise cli.InputError(f"{kept}: is of other flags ({' '.join(result['command'])}); choose another --output")
        return result
    stopped = (folder / "last.pth").is_file()
    wall, processor = time.perf_counter(), time.process_time()
    train.main(train.get_args_parser().parse_args([*flags, "--resume"] if stopped else flags))
    cost = {"seconds": time.perf_counter() - wall, "processor_seconds": time.process_time() - processor}
    result = {"variant": name, "seed": seed, "epochs": epochs, "command": flags, "flags": " ".join(VARIANTS[name])}
    result |= dict.fromkeys(cost) if stopped else cost
    checkpoint = checkpoints.load(folder / "best.pth")
    world = single_process(args.device)
    data, size = layouts.find(args.data_dir), (args.height, args.width)
    query, gallery = PersonImages(data.query, *size), PersonImages(data.gallery, *size)
    found = test_features(from_checkpoint(checkpoint), query, gallery, world)
    metrics = protocols.metrics(features_file.check(found))
    result |= {key: metrics[key] for key in ("rank1", "mAP", "mINP")} | cosine_points(found) | machine(world.device)
    write_text(kept, json.dumps(result, indent=1))
    return result


def cosine_points(found: dict) -> dict:
    """Mean, 1 % and 99 % points of query-gallery cosines: one person in different cameras, and strangers."""
    cosines = found["qf"] @ found["gf"].T
    person = are_people(found["gl"], found["ql"])[None]
    same = (found["ql"][:, None] == found["gl"][None]) & (found["qc"][:, None] != found["gc"][None]) & person
    strangers = (found["ql"][:, None] != found["gl"][None]) & person
    points = {}
    for name, mask in (("same", same), ("strangers", strangers)):
        values = cosines[mask].sort().values
        points[f"{name}_mean"] = float(values.mean())
        points[f"{name}_p1"] = float(values[round(0.01 * (len(values) - 1))])
        points[f"{name}_p99"] = float(values[round(0.99 * (len(values) - 1))])
    return points


def table(results: list[dict]) -> str:
    """One markdown row a variant: means over the seeds, with the standard deviation where there are several."""
    lines = [
        "| variant | epochs | rank-1 | mAP | mINP | same person | strangers (99 %) | processor minutes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, epochs in dict.fromkeys((r["variant"], r["epochs"]) for r in results):
        rows = [r for r in results if (r["variant"], r["epochs"]) == (name, epochs)]

        def mean(key, rows=rows):
            return statistics.mean(r[key] for r in rows)

        def percent(key, rows=rows):
            spread = f" ± {100 * statistics.stdev(r[key] for r in rows):.1f}" if len(rows) > 1 else ""
            return f"{100 * statistics.mean(r[key] for r in rows):.1f}{spread}"

        spent = [r["processor_seconds"] for r in rows if r["processor_seconds"] is not None]
        minutes = f"{statistics.mean(spent) / 60:.1f}" if spent else "-"
        cosines = f"{mean('same_mean'):.2f} | {mean('strangers_mean'):.2f} ({mean('strangers_p99'):.2f})"
        lines.append(
            f"| {name} | {epochs} | {percent('rank1')} | {percent('mAP')} | {percent('mINP')} | {cosines} | {minutes} |"
        )
    return "\n".join(lines)


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", type=Path, help="dataset with query and gallery; the built-in sample if left out")
    add("--output", type=Path, default=Path("runs/recipe"), help="folder that keeps the runs")
    add("--variants", nargs="+", default=["default", "deepsort"], help="NAME[:EPOCHS], or all")
    add("--list", action="store_true", help="print the variants and their flags, and stop")
    add("--seeds", nargs="+", type=count, default=[0], help="seeds to run each variant with")
    add("--epochs", type=positive, default=12, help="epochs of each run")
    add("--model", default="net", help="architecture to train")
    add("--weights", help="start from these, as train.py does; needs their --model, --height and --width")
    add("--height", type=positive, default=128, help="input height in pixels")
    add("--width", type=positive, default=64, help="input width in pixels")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--threads", type=positive, default=1, help="processor threads of PyTorch, alike for all variants")
    add("--json", type=Path, help="also write the results to this file")
    return parser


def main(args) -> None:
    if args.list:
        print("\n".join(f"{name:<24} {' '.join(flags)}" for name, flags in VARIANTS.items()))
        return
    variants = [variant(text, args.epochs) for text in (VARIANTS if args.variants == ["all"] else args.variants)]
    args.data_dir = args.data_dir or sample.ensure()
    torch.set_num_threads(args.threads)
    results = []
    for name, epochs in variants:
        for seed in args.seeds:
            results.append(run_one(args, name, epochs, seed))
            print(table(results), flush=True)
            keep({"benchmark": "recipe", "results": results}, args.json)  # as they come: the next may be killed


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    cli.run(main, get_args_parser())
