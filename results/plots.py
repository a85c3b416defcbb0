"""Draw the plots of docs/results.md from the CSV files beside this script.

    python results/plots.py

A row is a run, or the mean of several. Figures are in percent, times in minutes of one processor core; what was not
measured is empty.
"""

import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

from matplotlib.figure import Figure

from appearance import cli
from appearance.pictures import plots

FOLDER = Path(__file__).resolve().parent
ABLATED = "Net, 128x64, 250 people, 12 epochs"
PARTS = {  # variant of benchmarks/recipe.py -> what it is called in the plot
    "adamw": "AdamW instead of Muon",
    "no metric loss": "classifier loss only",
    "no progressive resizing": "full size throughout\n(5 epochs: same time)",
    "shuffled batches": "shuffled batches",
    "no softmax over cosines": "no softmax over cosines",
    "no triplet": "no triplet loss",
    "metric loss alone": "no classifier loss",
    "no label smoothing": "no label smoothing",
    "no clipping": "no gradient clipping",
    "no warm-up": "no warm-up",
    "no mirroring": "no mirroring",
    "no shifted crops": "no shifted crops",
    "no jitter": "no colour jitter",
    "no erasing": "no random erasing",
}
COLOURS = {
    "Net from scratch": plots.BLUE,
    "Net from drawn people": plots.GREEN,
    "the network in weights/, fine-tuned": plots.ORANGE,
    "Net, plain recipe": plots.GREY,
}


def rows(name: str, **wanted: str) -> list[dict[str, str]]:
    """The rows of `name`.csv whose columns hold what is wanted."""
    with open(FOLDER / f"{name}.csv", newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if all(row[key] == value for key, value in wanted.items())]


def ablation() -> Figure:
    """What each part of the recipe is worth: mAP without it less that with it, seed by seed, and the mean."""
    by_variant = defaultdict(dict)
    for row in rows("ablation", setting=ABLATED):
        if row["seed"].isdecimal():
            by_variant[row["variant"]][row["seed"]] = float(row["mAP"])
    default = by_variant.pop("default")
    changes = {
        PARTS[name]: [value - default[seed] for seed, value in found.items()] for name, found in by_variant.items()
    }
    changes = dict(sorted(changes.items(), key=lambda item: statistics.mean(item[1]), reverse=True))
    figure = Figure(figsize=(7.2, 5), layout="constrained")
    axes = figure.subplots()
    axes.barh(list(changes), [statistics.mean(values) for values in changes.values()], color=plots.SKY, height=0.7)
    points = [(value, name) for name, values in changes.items() for value in values]
    axes.plot(*zip(*points, strict=True), "o", color=plots.BLUE, markersize=4, label="one seed")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel(f"change in mAP, percentage points (default: {statistics.mean(default.values()):.1f} % mAP)")
    axes.legend(frameon=False, loc="lower left")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def minutes() -> Figure:
    """Accuracy over training time, with 250 people to train on."""
    curves = defaultdict(list)
    for row in rows("market") + rows("ablation") + rows("people"):
        if row["curve"]:
            curves[row["curve"]].append((float(row["minutes"]), float(row["mAP"])))
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, colour in COLOURS.items():
        axes.plot(*zip(*sorted(curves.pop(name)), strict=True), "o-", color=colour, markersize=5, label=name)
    assert not curves, f"no colour for {list(curves)}"
    _downloaded(axes)
    axes.set_xlabel("training, minutes of one CPU core")
    _accuracy(axes)
    return figure


def people() -> Figure:
    """Accuracy over the number of people to train on, at equal time."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for start, label, colour in (
        ("weights/", "fine-tuned: train.py --weights drawn", plots.ORANGE),
        ("scratch", "from scratch, in the same time", plots.BLUE),
    ):
        found = rows("people", what="OSNet x1.0 on people of one's own", start=start)
        numbers, means, deviations = ([float(row[key]) for row in found] for key in ("people", "mAP", "mAP_sd"))
        axes.plot(numbers, means, "o-", color=colour, markersize=5, label=label)
        axes.errorbar(numbers, means, deviations, fmt="none", color=colour, capsize=3)
    (untrained,) = (float(row["mAP"]) for row in rows("market", what="the network in weights/"))
    axes.axhline(untrained, color=plots.GREY, linestyle=":", label="the network in weights/, as it is")
    _downloaded(axes)
    _many(axes, numbers)
    axes.set_xlabel("people to train on")
    _accuracy(axes, legend="lower right")
    return figure


def drawn() -> Figure:
    """Accuracy on real people over the number of drawn people, and of drawn cameras."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    crowds = rows("drawn", what="number of drawn people")
    for seen, colour in (("40000", plots.GREEN), ("12000", plots.SKY)):
        found = [(float(row["people"]), float(row["mAP"])) for row in crowds if row["images_seen"] == seen]
        label = f"{int(seen):,} images seen in training"
        left.plot(*zip(*found, strict=True), "o-", color=colour, markersize=5, label=label)
    both = [row for row in crowds if row["people"] == "1000" and row["images_seen"] == "40000"]
    cameras = [
        (float(row["cameras"]), float(row["mAP"])) for row in rows("drawn", what="number of drawn cameras") + both
    ]
    right.plot(*zip(*sorted(cameras), strict=True), "o-", color=plots.GREEN, markersize=5)
    _many(left, sorted({float(row["people"]) for row in crowds}))
    _many(right, sorted(number for number, _ in cameras))
    left.set_xlabel("drawn people, in 200 cameras")
    right.set_xlabel("cameras, 1,000 drawn people")
    for axes in (left, right):
        _accuracy(axes, highest=34, legend="upper left")
    right.set_ylabel("")
    return figure


def _downloaded(axes) -> None:
    """A line for what a user would otherwise download."""
    (row,) = rows("market", network="osnet_x0_25")
    label = "BoxMOT's default network (MSMT17)"
    axes.axhline(float(row["mAP"]), color=plots.RED, linestyle="--", linewidth=1, label=label)


def _many(axes, numbers: list[float]) -> None:
    """A logarithmic axis with the numbers that were measured on it."""
    axes.set_xscale("log")
    axes.set_xticks(numbers)
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
    axes.minorticks_off()


def _accuracy(axes, highest: float | None = None, legend: str = "lower left") -> None:
    axes.set_ylabel("mAP on real people, %")
    axes.set_ylim(0, highest)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc=legend)


PLOTS = {"ablation": ablation, "minutes": minutes, "people": people, "drawings": drawn}


def get_args_parser():
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FOLDER.parent / "docs", help="folder of the pictures")
    return parser


def main(args) -> None:
    args.output.mkdir(parents=True, exist_ok=True)
    for name, draw in PLOTS.items():
        plots.save(draw(), args.output / f"{name}.png")


if __name__ == "__main__":
    cli.run(main, get_args_parser())
