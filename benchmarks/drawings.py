"""What real people make of a network that has seen drawings alone: how many people and cameras, which variations?

    python benchmarks/drawings.py --data-dir ROOT                              both curves and every variation
    python benchmarks/drawings.py --data-dir ROOT --parts without --without night noise

ROOT holds the query and gallery images of real people by which the drawings are judged. Every network has seen as many
images, those of a drawn crowd as often as it takes, of a larger crowd only so many. A run is kept as soon as it is
finished, and not repeated; the pictures that it was trained on are deleted.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import torch
from machine import keep, machine
from matplotlib.figure import Figure

import train
from appearance import cli
from appearance.data import layouts
from appearance.drawn import sample
from appearance.drawn.variety import EVERYTHING, Variety
from appearance.files import write_text
from appearance.flags import count, positive
from appearance.measure import features_file, protocols
from appearance.measure.embed import test_features
from appearance.networks import checkpoints
from appearance.pictures import plots
from datasets import PersonImages
from model import from_checkpoint
from utils import single_process

PARTS = ("people", "cameras", "without")


def drawings(args) -> list[dict]:
    """What is drawn: training people, cameras, and the settings that are taken out."""
    plans = []
    if "people" in args.parts:
        plans += [{"part": "people", "people": people, "cameras": args.many_cameras} for people in args.people]
    if "cameras" in args.parts:
        plans += [{"part": "cameras", "people": args.many_people, "cameras": cameras} for cameras in args.cameras]
    if "without" in args.parts:
        names = sorted(vars(EVERYTHING)) if args.without == ["all"] else args.without
        small = {"part": "without", "people": args.few_people, "cameras": args.few_cameras}
        plans += [small | {"without": group} for group in ["", *names]]
    return plans


def variety(plan: dict) -> Variety:
    """Everything that varies, but for what the plan takes out.

    Raises:
        InputError: there is no such setting.
    """
    try:
        return EVERYTHING.without(*filter(None, plan.get("without", "").split("+")))
    except KeyError as error:
        raise cli.InputError(f"--without {error.args[0]}: no such setting; docs/drawn.md lists them") from None


def run_one(args, plan: dict, seed: int) -> dict:
    """Draw a crowd, train on it, test on real people; the result is kept, the crowd is not.

    Raises:
        InputError: the result that is kept is of other flags.
    """
    taken_out = plan.get("without", "")
    name = f"{plan['part']}_{plan['people']}_{plan['cameras']}_{taken_out}_{seed}".replace("+", "_")
    kept, crowd, output = (args.output / f"{name}{suffix}" for suffix in (".json", "_drawn", "_run"))
    flags = ["--model", args.model, "--height", str(args.height), "--width", str(args.width), "--no-progressive"]
    flags += ["--batch_size", "64", "--seed", str(seed), "--device", args.device, "--amp", args.amp, "--val-ratio", "0"]
    told = plan | {"seed": seed, "images": args.images, "flags": " ".join(flags), "tested_on": str(args.data_dir)}
    if kept.is_file():
        result = json.loads(kept.read_text())
        if {key: result[key] for key in told} != told:
            raise cli.InputError(f"{kept}: is of other flags; choose another --output")
        return result
    identities = next(n for n in range(plan["people"], 2 * plan["people"] + 3) if learners(n) == plan["people"])
    clock = time.process_time()
    sample.ensure(crowd, seed, identities, cameras=plan["cameras"], variety=variety(plan))
    drawn = layouts.find(crowd)
    thin_out(drawn.train, args.images, seed)
    drawn = layouts.find(crowd)
    epochs = max(1, round(args.images / len(drawn.train)))
    flags += ["--data-dir", str(crowd), "--output", str(output), "--epochs", str(epochs), "--eval-interval", "1000"]
    train.main(train.get_args_parser().parse_args([*flags, "--overwrite"]))
    real, world = layouts.find(args.data_dir), single_process(args.device)
    query, gallery = (PersonImages(people, args.height, args.width) for people in (real.query, real.gallery))
    net = from_checkpoint(checkpoints.load(output / "best.pth"))
    metrics = protocols.metrics(features_file.check(test_features(net, query, gallery, world)))
    result = told | {"epochs": epochs, "processor_seconds": round(time.process_time() - clock)}
    result |= {key: metrics[key] for key in ("rank1", "mAP")} | machine(world.device)
    write_text(kept, json.dumps(result, indent=1))
    shutil.rmtree(crowd)
    shutil.rmtree(output)
    return result


def thin_out(samples: list[layouts.Sample], images: int, seed: int) -> None:
    """Delete pictures until so many are left, so that the largest crowds are seen no more often than the others."""
    for left_out in random.Random(seed).sample(samples, max(0, len(samples) - images)):
        Path(left_out.path).unlink()


def learners(identities: int) -> int:
    """Of so many drawn identities, those to learn from."""
    return sum(not sample.is_test(pid) for pid in range(1, identities + 1))


def table(results: list[dict]) -> str:
    """One markdown row a crowd: means over the seeds, and how far from the crowd with everything."""
    lines = ["| people | cameras | without | rank-1 | mAP |", "|---|---|---|---|---|"]
    for (_, people, cameras, without), rows in crowds(results).items():
        rank1, mean_ap = (f"{100 * statistics.mean(row[key] for row in rows):.1f}" for key in ("rank1", "mAP"))
        lines.append(f"| {people:,} | {cameras} | {without.replace('+', ', ')} | {rank1} | {mean_ap} |")
    return "\n".join(lines)


def crowds(results: list[dict]) -> dict[tuple, list[dict]]:
    """The results of each crowd, one a seed, in order."""
    found: dict[tuple, list[dict]] = {}
    for row in results:
        found.setdefault((row["part"], row["people"], row["cameras"], row.get("without", "")), []).append(row)
    return found


def curve(results: list[dict], part: str) -> dict[int, list[dict]]:
    """Number of people, or of cameras, -> the results there; the crowd in which the two curves meet is on both."""
    fixed = {"people": "cameras", "cameras": "people"}[part]
    held = next(row[fixed] for row in results if row["part"] == part)
    rows = [row for row in results if row["part"] != "without" and row[fixed] == held]
    return {number: [row for row in rows if row[part] == number] for number in sorted({row[part] for row in rows})}


def picture(results: list[dict], path: Path) -> None:
    """Both curves: accuracy on real people against drawn people, and against cameras."""
    panels = [part for part in ("people", "cameras") if any(row["part"] == part for row in results)]
    if not panels:
        return
    figure = Figure(figsize=(4.6 * len(panels), 3.6), layout="constrained")
    for axes, part in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        points = curve(results, part)
        for key, label, colour in (("rank1", "rank-1", plots.GREEN), ("mAP", "mAP", plots.PURPLE)):
            means = [100 * statistics.mean(row[key] for row in rows) for rows in points.values()]
            axes.plot(list(points), means, color=colour, marker="o", markersize=4, label=label)
        axes.set_xscale("log")
        axes.set_xticks(list(points), [f"{number:,}" for number in points])
        axes.minorticks_off()
        axes.set_xlabel(f"drawn {part}")
        axes.set_ylabel("on real people, %")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    plots.save(figure, path)


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="dataset whose query and gallery show real people")
    add("--output", type=Path, default=Path("runs/drawings"), help="folder that keeps the results")
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="the curves, and the variations")
    add("--people", nargs="+", type=positive, default=[100, 300, 1000, 3000, 10000], help="people of the first curve")
    add("--many-cameras", type=positive, default=200, help="and their cameras")
    add("--cameras", nargs="+", type=positive, default=[6, 20, 100, 400], help="cameras of the second curve")
    add("--many-people", type=positive, default=1000, help="and their people")
    add("--without", nargs="+", default=["all"], help="settings to take out, each alone; A+B takes out both at once")
    add("--few-people", type=positive, default=500, help="people of the crowds that lack something")
    add("--few-cameras", type=positive, default=60, help="and their cameras")
    add("--images", type=positive, default=60000, help="images that a network sees in its training")
    add("--seeds", nargs="+", type=count, default=[0], help="of drawing and training")
    add("--model", default="osnet_x0_5", help="architecture to train")
    add("--height", type=positive, default=48, help="input height in pixels")
    add("--width", type=positive, default=24, help="input width in pixels")
    add("--amp", default="auto", choices=("auto", "fp32", "bf16"), help="arithmetic of the training")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--threads", type=positive, default=1, help="processor threads of PyTorch")
    add("--json", type=Path, help="also write the results to this file")
    return parser


def main(args) -> None:
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    plans, results = drawings(args), []
    for plan in plans:
        variety(plan)  # a slip is told now, not after hours
    for plan in plans:
        for seed in args.seeds:
            results.append(run_one(args, plan, seed))
            keep({"benchmark": "drawings", "results": results}, args.json)  # as they come: the next may be killed
    print(table(results))
    picture(results, args.output / "drawings.png")


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    cli.run(main, get_args_parser())
