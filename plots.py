"""Every picture of the collection. Nothing else imports matplotlib; pyplot and its global state are not used."""

import io

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from files import atomic_write

# Okabe and Ito's palette: told apart by colour-blind readers, too
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442"),
    "#777777",
)
RUN_COLOURS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, GREY)
DPI = 150


def training_curves(history: list[dict], path):
    """Loss, accuracy and retrieval over the epochs of a training run.

    Args:
        history: one dict per epoch with floats, any of them missing or NaN: `epoch` (1, 2, ...), `train_loss`,
            `val_loss`, `train_acc`, `val_acc`, `rank1`, `mAP` (fractions of 1), `lr`.
        path: the picture to write.
    """
    panels = [("loss", (("train_loss", "training", BLUE), ("val_loss", "validation", RED)))]
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
                # few points are marked one by one: a line through a single epoch would not be seen at all
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


def save(figure: Figure, path):
    """Write a figure, whole or not at all; the format follows from the path's suffix."""
    suffix = str(path).rsplit(".", 1)[-1].lower()
    content = io.BytesIO()
    figure.savefig(content, format=suffix, dpi=DPI, facecolor="white")
    atomic_write(path, lambda file: file.write(content.getvalue()))


def _series(history: list[dict], key: str):
    """Epochs and values of one column, without the epochs that lack it."""
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
