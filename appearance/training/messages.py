"""The messages of a training run, as pure functions that return text."""

import os
import textwrap
from dataclasses import asdict
from pathlib import Path

import torch

from appearance import cli
from appearance.networks.precision import emulation_warning
from appearance.training import schedule
from appearance.training.recipe import FEW_PEOPLE, TOO_FEW_STEPS, Facts, Recipe


def description(facts: Facts, validation_images: int, device: torch.device) -> str:
    """The line about network, data and device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    processes = f" x {facts.processes} processes" if facts.processes > 1 else ""
    text = (
        f"{facts.model} for {cli.counted(facts.identities, 'identity')}: {facts.images:,} training and "
        f"{validation_images:,} validation images on {name}{processes}"
    )
    return text if validation_images else f"{text}\nnote: no validation images, so best.pth is the last epoch"


def plan(recipe: Recipe, reasons: dict[str, str], steps_per_epoch: int, facts: Facts, device: torch.device) -> str:
    """The main settings with the reasons for automatic ones, warnings, and the whole recipe."""

    def why(name: str) -> str:
        return f" ({reasons[name]})" if reasons.get(name) else ""

    steps, first = recipe.epochs * steps_per_epoch, schedule.first_full_size_epoch(recipe)
    when = f"from epoch {first + 1}" if first else "in all epochs"
    parts = [
        cli.counted(recipe.epochs, "epoch") + why("epochs"),
        f"batch {recipe.batch_size}, {cli.counted(steps, 'step')}" + why("batch_size"),
        f"full size {recipe.height}x{recipe.width} {when}" + why("progressive"),
        f"learning rate {recipe.lr:g}" + why("lr"),
        recipe.amp + why("amp"),
    ]
    if recipe.precise_bn:
        parts.append("precise batch norm statistics" + why("precise_bn"))
    lines = ["; ".join(parts)]
    if steps < TOO_FEW_STEPS:
        lines.append(f"warning: {steps} steps are too few for training; use more --epochs or a smaller --batch_size")
    if recipe.keep_start:
        lines.append(
            f"saved weights are {recipe.keep_start:.0%} starting + {1 - recipe.keep_start:.0%} trained"
            f"{why('keep_start')}; --keep-start 0 turns this off"
        )
    elif reasons.get("keep_start"):
        lines.append(f"note: {reasons['keep_start']}; the saved weights are the trained ones")
    elif facts.fine_tuning and facts.identities < FEW_PEOPLE:
        lines.append(
            "note: fine-tuning on so few people can make the network worse on everyone else; compare with the starting "
            "weights"
        )
    if slow := emulation_warning(recipe.amp, device):
        lines.append(slow)
    values = ", ".join(f"{name} {value}" for name, value in asdict(recipe).items())
    lines.append(textwrap.fill(f"recipe: {values}", 118, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines)


def epoch_line(recipe: Recipe, history: list[dict]) -> str:
    """The metrics of the last epoch, and the remaining time."""
    row = history[-1]
    parts = [
        f"epoch {row['epoch']:>3}/{recipe.epochs}",
        f"{row['height']}x{row['width']}",
        f"loss {row['train_loss']:.3f}",
        f"acc {row['train_acc']:.1%}",
    ]
    if "val_acc" in row:
        parts.append(f"val acc {row['val_acc']:.1%}")
    if "mAP" in row:
        parts.append(f"rank-1 {row['rank1']:.1%}  mAP {row['mAP']:.1%}")
    parts.append(f"{row['images_per_second']:,.0f} img/s")
    if row["epoch"] < recipe.epochs:
        parts.append(f"{_time_left(recipe, history):>7} left")
    return "  ".join(parts)


def _time_left(recipe: Recipe, history: list[dict]) -> str:
    """Estimate the remaining time from the last epoch without a test and the image sizes of the remaining epochs.

    The time of an epoch is linear in the pixels of an image; the slope is from epochs of two sizes, or a guess.
    """

    def pixels(row: dict) -> int:
        return row["height"] * row["width"]

    untested = [row for row in history if "mAP" not in row] or history[-1:]
    row = untested[-1]
    smaller = [other for other in untested if pixels(other) < pixels(row)]
    if smaller:
        per_pixel = (row["seconds"] - smaller[-1]["seconds"]) / (pixels(row) - pixels(smaller[-1]))
    else:  # fixed time of a step, in pixels per batch, fitted for `Net` on CPUs
        fixed = 60_000 if recipe.amp == "bf16" else 20_000
        per_pixel = row["seconds"] / (pixels(row) + fixed / recipe.batch_size)
    per_pixel = min(max(0.0, per_pixel), row["seconds"] / pixels(row))  # none to all of the time
    sizes = [schedule.image_size(recipe, epoch) for epoch in range(history[-1]["epoch"], recipe.epochs)]
    seconds = sum(row["seconds"] + per_pixel * (height * width - pixels(row)) for height, width in sizes)
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def finished(path: Path, epochs: int) -> str:
    """The message if a resumed run is complete."""
    return f"{path} has finished its {cli.counted(epochs, 'epoch')}; train longer with --epochs"


def resumed(path: Path, epochs: int, steps: int) -> str:
    return f"Resuming {path} after {cli.counted(epochs, 'epoch')} and {cli.counted(steps, 'step')}"


def no_best(output: Path) -> str:
    return f"  note: no {output / 'best.pth'}; the best of the remaining epochs will be saved there"


def other_length(before: int, now: int) -> str:
    return f"  note: --epochs changed from {before} to {now}; learning rate and image sizes follow the new schedule"


def not_finite(epoch: int, step: int, rate: float, paths: list[str], output: Path) -> str:
    """The error about a NaN or infinite loss: step, learning rate, and images of the batch."""
    names = ", ".join(Path(path).name for path in paths[:3])
    return (
        f"the loss is NaN or infinite at step {step + 1} of epoch {epoch + 1} "
        f"(learning rate {rate:.2g}, batch of {len(paths)}: {names}, ...); "
        f"use a lower --lr ({output / 'last.pth'} still has the last saved state)"
    )


def stopped(signal_name: str, epochs: int, steps: int, output: Path) -> str:
    """The message of a run that was stopped by Ctrl-C, SIGTERM or SIGHUP, with the command to resume it."""
    return (
        f"\nStopped by {signal_name} and saved after {cli.counted(epochs, 'epoch')} and {cli.counted(steps, 'step')}. "
        f"Go on with: {resume_command(output)}"
    )


def resume_command(output: Path, *flags) -> str:
    """The command that resumes a run; flags other than these are saved in the run."""
    words = ["--resume", output / "last.pth", *flags]
    told = os.environ
    if "LOCAL_WORLD_SIZE" not in told:
        return cli.command("train.py", *words)
    launch = f"torchrun --nproc_per_node={told['LOCAL_WORLD_SIZE']}"
    if (nodes := told.get("GROUP_WORLD_SIZE", "1")) != "1":
        launch += f" --nnodes={nodes} --node_rank={told['GROUP_RANK']}"
        launch += f" --master_addr={told['MASTER_ADDR']} --master_port={told['MASTER_PORT']}"
    return cli.command("train_multiGPU.py", *words).replace("python", launch, 1)


def next_step(args, data) -> str:
    """The command for testing the trained network, if the dataset has query and gallery."""
    if not data.can_evaluate:
        return "No test: the dataset has no query and gallery."
    words = []
    if args.data_dir:
        words += ["--data-dir", data.root]
    if args.output != Path("checkpoint"):
        words += ["--weights", args.output / "best.pth", "--output", args.output / "features.pth"]
    if args.skip_bad_images:
        words += ["--skip-bad-images"]
    return f"Next: {cli.command('test.py', *words)}"
