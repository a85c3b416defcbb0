"""All plots. Only this file imports matplotlib; pyplot with its global state is not used."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from appearance.cli import InputError
from appearance.files import atomic_write
from appearance.measure.calibrate import in_digits

# Okabe and Ito's palette, for colour-blind readers
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"),
    "#777777",
)
RIGHT, WRONG = "#1a9850", "#d7191c"
RUN_COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, GREY)
MARKERS = "os^DvP*X<>"
DARK_GROUND, DARK_TEXT = "#16181d", "#d8dbe2"
DPI = 150
NO_GAP = 0.5  # position of a gap of 0 frames on a logarithmic axis


def training_curves(history: list[dict], path):
    """Write a plot of loss, accuracy and retrieval over the epochs of a training run.

    Args:
        history: one dict per epoch: `epoch` (1, 2, ...), `train_loss`, `val_loss`, `train_acc`, `val_acc`, `rank1`,
            `mAP` (fractions of 1), `lr`. Values may be missing or NaN.
        path: image file to write.

    Raises:
        InputError: the file has no suffix of an image, or cannot be written.
    """
    # not comparable: the training loss includes the losses on features, and augmentation
    losses = (("train_loss", "training, all losses", BLUE), ("val_loss", "validation, classification only", RED))
    panels = [("loss", losses)]
    panels.append(("accuracy, %", (("train_acc", "training", BLUE), ("val_acc", "validation", RED))))
    retrieval = (("rank1", "rank-1", GREEN), ("mAP", "mAP", PURPLE))
    if any(len(_series(history, key)[0]) for key, *_ in retrieval):
        panels.append(("retrieval, %", retrieval))
    figure = Figure(figsize=(4.6 * len(panels), 3.8), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        percent = title.endswith("%")
        for key, label, colour in lines:
            epochs, values = _series(history, key)
            if len(epochs):
                values = values * 100 if percent else values
                last = f"{values[-1]:.1f}" if percent else f"{values[-1]:.3g}"
                # a line through a single epoch would be invisible
                marker = "o" if len(epochs) <= 25 else None
                axes.plot(epochs, values, color=colour, marker=marker, markersize=4, label=f"{label} {last}")
        _tidy(axes, title, "epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        first, last = _epoch_range(history)
        axes.set_xlim(first - 0.5, last + 0.5)
        top = max((line.get_ydata().max() for line in axes.lines), default=0)
        axes.set_ylim(0, 102 if percent else 1.08 * top or 1)
        if axes.lines:
            axes.legend(frameon=False)
    save(figure, path)


def cmc(runs: dict[str, dict]) -> Figure:
    """Plot the fraction of queries with a right answer among the first k. `runs`: label -> metrics."""
    figure, axes, legend = _runs_figure(len(runs))
    lowest = 1.0
    ranks = min(20, max(metrics.get("gallery", 20) for metrics in runs.values()))
    for i, (label, metrics) in enumerate(runs.items()):
        curve = np.array(metrics["cmc"][:ranks])
        lowest = min(lowest, curve[0])
        name = f"{_run_name(label, i)}   rank-1 {metrics['rank1']:.1%}, mAP {metrics['mAP']:.1%}"
        style = ("-", "--", ":")[i // len(RUN_COLOURS) % 3]  # run 8 has the colour of run 1
        colour = RUN_COLOURS[i % len(RUN_COLOURS)]
        # so that identical curves are all visible
        broader = (len(runs) - 1 - i) * min(1, 2 / len(runs))
        look = {"marker": "o", "markersize": 3 + 2 * broader, "linewidth": 1.5 + 2 * broader}
        axes.plot(np.arange(1, len(curve) + 1), 100 * curve, style, color=colour, label=name, **look)
    _tidy(axes, "cumulative match characteristic", "rank k", "queries with a right answer in the top k, %")
    axes.set_xlim(0.5, ranks + 0.5)
    axes.set_xticks([1, 5, 10, 15, 20] if ranks == 20 else range(1, ranks + 1))
    axes.set_ylim(max(0, np.floor(lowest * 10 - 1) * 10), 101)
    axes.legend(frameon=False, fontsize=9, **legend)
    return figure


def reappear(runs: dict[str, dict]) -> Figure:
    """Plot rank-1 and mAP of returning people over the frames they were away. `runs`: label -> metrics."""
    figure, axes, legend = _runs_figure(2 * len(runs))
    shown = set()
    for i, (label, metrics) in enumerate(runs.items()):
        curve = metrics["reappear"]["curve"]
        shown |= {point["gap"] for point in curve}
        for key, name, style in (("rank1", "rank-1", "-"), ("mAP", "mAP", "--")):
            gaps = [max(point["gap"], NO_GAP) for point in curve]
            values = [100 * point[key] for point in curve]
            name = name if len(runs) == 1 else f"{_run_name(label, i)}, {name}"
            axes.plot(
                gaps, values, style, color=RUN_COLOURS[i % len(RUN_COLOURS)], marker="o", markersize=3, label=name
            )
    axes.axvline(max(metrics["reappear"]["gap"], NO_GAP), color=GREY, linewidth=0.8)
    _tidy(axes, "returning to the same camera", "least number of frames away", "%")
    axes.set_xscale("log")
    powers = {gap for gap in shown if gap in (0, 10 ** (len(str(gap)) - 1))}
    ticks = sorted(powers if len(shown) > 10 and len(powers) > 1 else shown)
    axes.set_xticks([max(gap, NO_GAP) for gap in ticks], [f"{gap:,}" for gap in ticks])
    axes.tick_params(axis="x", labelsize=8 if len(",".join(map(str, ticks))) > 30 else None)
    axes.minorticks_off()
    axes.set_ylim(0, 101)
    axes.legend(frameon=False, fontsize=9, **legend)
    return figure


def _runs_figure(lines: int) -> tuple:
    """(figure, axes, legend options) for a plot of `lines` curves; the legend is below the plot if there are many."""
    few = lines <= 4
    figure = Figure(figsize=(5.6, 3.8 if few else 3.9 + 0.21 * lines), layout="constrained")
    axes = figure.subplots()
    if few:
        return figure, axes, {}
    below = axes.transAxes + ScaledTranslation(0, -0.55, figure.dpi_scale_trans)  # inches
    return figure, axes, {"loc": "upper left", "bbox_to_anchor": (0, 0), "bbox_transform": below, "borderaxespad": 0}


def _run_name(label: str, number: int) -> str:
    return plain(label, f"run {number + 1}", most=32)


def distances(calibration: dict) -> Figure:
    """Plot histograms of the cosine distances of same- and different-identity pairs, with the threshold.

    Args:
        calibration: result of `calibrate.calibrate`; each group of pairs gets a panel.
    """
    groups = calibration["groups"]
    figure = Figure(figsize=(6, 2.5 * len(groups)), layout="constrained")
    bars = len(calibration["groups"]["all"]["same_histogram"])
    edges = np.arange(bars + 1) * calibration["bar_width"]
    for axes, (name, group) in zip(figure.subplots(len(groups), squeeze=False)[:, 0], groups.items(), strict=True):
        for key, label, colour in (
            ("same", "same person", GREEN),
            ("different", "different people", RED),
        ):
            label = f"{label}, {group[key + '_pairs']:,} pairs"
            axes.stairs(
                100 * np.array(group[key + "_histogram"]), edges, fill=True, color=colour, alpha=0.5, label=label
            )
        threshold = group["threshold"]
        shares = f"accepts {group['kept']:.1%} of same, {group['false_matches']:.2%} of different"
        axes.axvline(threshold, ymax=0.57, color=BLUE, linewidth=1.8, label=f"{in_digits(threshold)}: {shares}")
        mark = "  (max_dist)" if name == calibration["based_on"] else ""
        _tidy(axes, group["title"] + mark, "", "pairs, %")
        axes.set_xlim(0, edges[-1])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))  # small distances have long labels
        axes.set_ylim(0, 1.8 * axes.get_ylim()[1])  # room for the legend
        axes.legend(frameon=False, loc="upper right", fontsize=9)
    axes.set_xlabel("cosine distance")
    return figure


def ranked_lists(lists: list[dict]) -> Figure:
    """Draw queries with their nearest gallery images, framed green if right and red if wrong.

    Args:
        lists: one dict per query: `title` (str), `query` and a list `results`. Query and results are dicts with `image`
            (PIL image, None if it cannot be read), `caption` (str) and, for results, `correct` (bool).
    """
    columns = max(6, 1 + max(len(one["results"]) for one in lists))  # wide enough for a title
    images = [item["image"] for one in lists for item in (one["query"], *one["results"]) if item["image"] is not None]
    tallest = max((image.height / image.width for image in images), default=2)
    height = min(max(0.9 * tallest, 0.9), 1.8)  # of an image, whose width is at most 0.9
    pitch = height + 0.9  # of a row with title and caption
    # one axes for all images: laying out one per image takes seconds
    figure = Figure(figsize=(1.02 * (columns + 0.05), 1.02 * pitch * len(lists)))
    axes = figure.add_axes((0.005, 0.005, 0.99, 0.99))
    axes.set_xlim(-0.05, columns)
    axes.set_ylim(pitch * len(lists), 0)
    axes.set_axis_off()
    for i, one in enumerate(lists):
        top = pitch * i
        axes.text(0, top + 0.2, one["title"], fontsize=9.5, va="center", parse_math=False)
        for j, item in enumerate([one["query"], *one["results"]]):
            _image(axes, item, (j, j + 0.9, top + 0.35 + height, top + 0.35))
    return figure


def feature_map(points, shares, identities: list, cameras: list, names: dict[int, str]) -> Figure:
    """Scatter plot of N features: colour is identity, marker is camera (if known, not -1, and few).

    Args:
        points: (N, 2) principal components.
        shares: (2,) fraction of the variance of each component.
        identities, cameras: N numbers.
        names: identity -> name, in the order of the legend.
    """
    figure = Figure(figsize=(7.6, 5.2), layout="constrained")
    axes = figure.subplots()
    identities, cameras = np.asarray(identities), np.asarray(cameras)
    order = np.arange(len(names))
    colours = [tuple(colour) for colour in colormaps["tab20"](order * 2 % 20 + order // 10 % 2)]
    known = np.unique(cameras[cameras >= 0]).tolist()
    markers = dict(zip(known, MARKERS, strict=False)) if len(known) <= len(MARKERS) else {}
    for colour, identity in zip(colours, names, strict=True):
        for camera in np.unique(cameras):
            of_both = (identities == identity) & (cameras == camera)
            marker = markers.get(camera, "o")
            axes.scatter(*points[of_both].T, color=[colour], marker=marker, s=26, edgecolors="none", alpha=0.85)
    look = {"linestyle": "", "markersize": 5}
    dots = [
        Line2D([], [], color=colour, marker="o", label=name, **look)
        for colour, name in zip(colours, names.values(), strict=True)
    ]
    # a legend of the figure: the layout makes room for long names
    figure.legend(handles=dots, title="identity", frameon=False, fontsize=8, loc="outside right upper")
    if markers:
        shapes = [
            Line2D([], [], color=GREY, marker=marker, label=str(camera), **look) for camera, marker in markers.items()
        ]
        columns = 1 + len(shapes) // 6
        figure.legend(
            handles=shapes, title="camera", frameon=False, fontsize=8, ncols=columns, loc="outside right lower"
        )
    axes.set_title("features, projected to two principal components (PCA); colour: person", fontsize=11, loc="left")
    axes.set_xlabel(f"first component, {shares[0]:.0%} of the variance")
    axes.set_ylabel(f"second component, {shares[1]:.0%} of the variance")
    axes.set_aspect("equal", "datalim")  # equal scales, as distances matter
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_alpha(0.3)
    return figure


@cache
def _characters() -> frozenset[int]:
    """Code points that the font has."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def plain(text: str, otherwise: str, most: int = 24) -> str:
    """Make a file or identity name safe for a plot: no math text, `otherwise` if the font lacks a character.

    Names of more than `most` characters lose their middle, as similar names usually differ at the end.
    """
    if not text.isprintable() or not {*map(ord, text)} <= _characters():
        text = otherwise
    if len(text) > most:
        text = text[: most // 2 - 1] + "…" + text[most // 2 - most :]
    return (" " * text.startswith("_") + text).replace("$", r"\$")  # legends skip labels that begin with _


def render(figure: Figure, suffix: str = "png", dark: bool = False) -> bytes:
    """The figure as the bytes of an image file. `dark`: change the figure to light on dark."""
    if dark:
        _darken(figure)
    content = io.BytesIO()
    figure.savefig(content, format=suffix, dpi=DPI)
    return content.getvalue()


def save(figure: Figure, path):
    """Write a figure atomically, in the format of the path's suffix.

    Raises:
        InputError: the suffix is not that of an image, or the file cannot be written.
    """
    suffix = Path(path).suffix.lower().lstrip(".")
    if suffix not in FigureCanvasBase.get_supported_filetypes():
        raise InputError(f"{path}: unknown image format; use a name that ends in .png, .jpg, .svg or .pdf")
    content = render(figure, suffix)
    atomic_write(path, lambda file: file.write(content))


def _image(axes, item: dict, extent: tuple):
    """Draw one image with frame and caption, keeping its aspect ratio.

    Args:
        extent: the available area: (left, right, bottom, top).
    """
    left, right, bottom, top = extent
    correct = item.get("correct")
    colour = GREY if correct is None else RIGHT if correct else WRONG
    middle = (left + right) / 2
    if item["image"] is None:
        axes.text(middle, (top + bottom) / 2, "not\nfound", ha="center", va="center", fontsize=8)
    else:
        scale = min((right - left) / item["image"].width, (bottom - top) / item["image"].height)
        width, height = scale * item["image"].width, scale * item["image"].height
        left, right, top = middle - width / 2, middle + width / 2, bottom - height
        place = (left, right, bottom, top)
        axes.imshow(np.asarray(item["image"]), extent=place, aspect="auto", interpolation="bilinear")
    size = (right - left, bottom - top)
    axes.add_patch(
        Rectangle((left, top), *size, fill=False, edgecolor=colour, linewidth=3 if correct is not None else 1.5)
    )
    mark = "" if correct is None else "✓ " if correct else "✗ "  # for colour-blind readers
    axes.text(middle, bottom + 0.07, mark + item["caption"], ha="center", va="top", fontsize=8, linespacing=1.15)


def _darken(figure: Figure):
    """Change a figure to light text and lines on a dark background; data colours stay."""
    figure.set_facecolor(DARK_GROUND)
    for axes in figure.axes:
        axes.set_facecolor(DARK_GROUND)
        axes.tick_params(colors=DARK_TEXT)
        axes.spines[:].set_edgecolor(DARK_TEXT)
    for text in figure.findobj(Text):
        if text.get_color() in ("black", "k"):
            text.set_color(DARK_TEXT)
        elif text.get_color() == BLUE:
            text.set_color(SKY)
    for line in figure.findobj(Line2D):
        if line.get_color() == BLUE:
            line.set_color(SKY)


def _series(history: list[dict], key: str):
    """(epochs, values) of one key as float arrays, without missing and NaN values."""
    rows = [(row.get("epoch", i + 1), row.get(key)) for i, row in enumerate(history)]
    rows = [(epoch, float(value)) for epoch, value in rows if value is not None and np.isfinite(float(value))]
    return np.array([epoch for epoch, _ in rows], dtype=float), np.array([value for _, value in rows])


def _epoch_range(history: list[dict]) -> tuple[float, float]:
    epochs = [float(row.get("epoch", i + 1)) for i, row in enumerate(history)]
    return (min(epochs), max(epochs)) if epochs else (0.0, 1.0)


def _tidy(axes, title: str, xlabel: str = "", ylabel: str = ""):
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
