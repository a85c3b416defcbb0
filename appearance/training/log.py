"""What a run tells people: its lines on the terminal, `history.csv`, `curves.png`, and the words it ends with."""

import csv
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from appearance import cli
from appearance.cli import InputError, RunFailed
from appearance.files import atomic_write
from appearance.networks.precision import emulation_warning
from appearance.pictures import plots
from appearance.progress import progress
from appearance.training import recipe

COLUMNS = (
    *("epoch", "height", "width", "lr", "train_loss", "train_acc", "val_loss", "val_acc", "rank1", "mAP"),
    *("images_per_second", "seconds"),
)


def description(training) -> str:
    """What is about to be trained, on what, and how the recipe was suited to it: two lines, or three with a warning."""
    args, world = training.args, training.world
    steps, people = args.epochs * training.steps_per_epoch, len(training.pids)
    device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else world.device.type
    processes = f" x {world.size} processes" if world.size > 1 else ""
    identities = cli.counted(people, "identity")
    slow = emulation_warning(args.amp, world.device)
    return (
        f"{args.model} for {identities}: {len(training.train_samples):,} training and "
        f"{len(training.val_samples):,} validation images, {cli.counted(args.epochs, 'epoch')} of "
        f"{cli.counted(training.steps_per_epoch, 'step')}, {args.amp} on {device}{processes}\n"
        + recipe.explanation(args, steps, people, world.size, training.refining, training.resumed)
        + ("" if training.val_samples else "\nnote: no image is held out for validation, so best.pth is the last epoch")
        + (f"\n{slow}" if slow else "")
    )


def epoch_bar(training, epoch: int, order: Tensor) -> tqdm:
    """How far an epoch has come, in images."""
    height, width = training.size
    return progress(
        desc=f"epoch {epoch + 1}/{training.args.epochs} {height}x{width}",
        total=order.numel(),
        initial=training.step * order.shape[1],
        unit="img",
        hidden=not training.world.is_main,
    )


def epoch_line(training, row: dict) -> str:
    parts = [
        f"epoch {row['epoch']:>3}/{training.args.epochs}",
        f"{row['height']}x{row['width']}",
        f"loss {row['train_loss']:.3f}",
        f"acc {row['train_acc']:.1%}",
    ]
    if "val_acc" in row:
        parts.append(f"val acc {row['val_acc']:.1%}")
    if "mAP" in row:
        parts.append(f"rank-1 {row['rank1']:.1%}  mAP {row['mAP']:.1%}")
    parts.append(f"{row['images_per_second']:,.0f} img/s")
    if row["epoch"] < training.args.epochs:
        parts.append(f"{_time_left(training.args, training.history):>7} left")
    return "  ".join(parts)


def _time_left(args, history: list[dict]) -> str:
    """An estimate from the last epoch without a test, and what the sizes of the others cost beside its own.

    The sizes seen so far tell how much of an epoch's time grows with the pixels; before there are two it is guessed.
    """

    def pixels(row):
        return recipe.cost(row["height"], row["width"])

    untested = [row for row in history if "mAP" not in row] or history[-1:]
    row = untested[-1]
    smaller = [other for other in untested if pixels(other) < pixels(row)]
    if smaller:
        per_pixel = (row["seconds"] - smaller[-1]["seconds"]) / (pixels(row) - pixels(smaller[-1]))
    else:  # a step's own time, in pixels of a batch, fitted for `Net` on CPU cores
        own = 60_000 if args.amp == "bf16" else 20_000
        per_pixel = row["seconds"] / (pixels(row) + own / args.batch_size)
    per_pixel = min(max(0.0, per_pixel), row["seconds"] / pixels(row))  # from none of the time to all
    sizes = [recipe.resolution(args, epoch) for epoch in range(history[-1]["epoch"], args.epochs)]
    seconds = sum(row["seconds"] + per_pixel * (recipe.cost(*size) - pixels(row)) for size in sizes)
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def write_history(history: list[dict], folder: Path, curves: bool) -> None:
    """`history.csv`, and `curves.png` where it is time for it: drawing takes longer than an epoch of small images."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    atomic_write(folder / "history.csv", lambda file: file.write(text.getvalue().encode()))
    if curves:
        plots.training_curves(history, folder / "curves.png")


@contextmanager
def blamed_on_the_rate() -> Iterator[None]:
    """Raises RunFailed where a network's vectors cannot be compared: where its units have died they are zero."""
    try:
        yield
    except InputError:
        raise RunFailed(
            "the network has died: vectors that it gives are zero or no numbers; start anew with a lower --lr"
        ) from None


def not_finite(training, epoch: int, step: int) -> None:
    """Raises RunFailed: the loss of a step is not a number; says what was in its batch."""
    args = training.args
    row = recipe.order(args, training.labels, epoch)[step]
    lr = args.lr * training.learner.lr_factor(epoch * training.steps_per_epoch + step)
    names = ", ".join(Path(training.train_samples[index].path).name for index in row[:3].tolist())
    raise RunFailed(
        f"the loss is not finite at step {step + 1} of epoch {epoch + 1} "
        f"(learning rate {lr:.2g}, batch of {len(row)}: {names}, ...); "
        f"{args.output / 'last.pth'} is left as it was last saved: try a lower --lr"
    )


def stopped(training, epoch: int, stop) -> None:
    """Say how to go on, and leave as the signal asked; a process that saw none follows the one that did."""
    number = stop.signal or signal.SIGTERM
    if training.world.is_main:
        print(
            f"\nStopped by {signal.Signals(number).name} after {cli.counted(epoch, 'epoch')} and "
            f"{cli.counted(training.step, 'step')}, saved. Go on with: {_resume_command(training)}",
            file=sys.stderr,
        )
    sys.exit(128 + number)


def _resume_command(training) -> str:
    """The line that goes on with a run; all other flags come from the run itself."""
    words = ["--resume", training.args.output / "last.pth"]
    processes = os.environ.get("LOCAL_WORLD_SIZE")
    if processes is None:
        return cli.command("train.py", *words)
    return cli.command("train_multiGPU.py", *words).replace("python", f"torchrun --nproc_per_node={processes}", 1)


def next_step(training) -> str:
    """What to type after training: the test, if there is something to test on."""
    args, data = training.args, training.data
    if not data.can_evaluate:
        return "Nothing to test it on: there is no query and gallery."
    words = []
    if args.data_dir:
        words += ["--data-dir", data.root]
    if args.output != Path("checkpoint"):
        words += ["--weights", args.output / "best.pth"]
    if args.skip_bad_images:
        words += ["--skip-bad-images"]
    return f"Next: {cli.command('test.py', *words)}"
