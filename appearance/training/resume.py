"""Find the run to resume, combine its flags with the given ones, and protect existing runs."""

import argparse
import os
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from appearance.cli import InputError
from appearance.data import marks
from appearance.distributed import MACHINE_FLAGS, World
from appearance.files import saved_elsewhere
from appearance.networks import checkpoints
from appearance.networks.checkpoints import Checkpoint
from appearance.training import flags
from appearance.training.recipe import AUTO, SETTINGS, Recipe, flag, saved_recipe

PATHS = {"data_dir", "output", "teacher"}
# flags that may change when a run is resumed, as they do not affect the weights
FREE = {
    *("resume", "output", "device", "gpu_id", "workers", "cache", "eval_interval", "save_interval", "given"),
    *("dist_url", "world_size", "data_dir", "timeout", "overwrite", "skip_bad_images"),
}
FILES = ("last.pth", "best.pth", "history.csv", "curves.png")  # of a run
# content of `last.pth` besides the weights
STATE = {
    **{"objective": dict, "buffers": list, "optimizer": dict, "scheduler": dict, "scaler": dict, "history": list},
    **{"best": list, "epoch": int, "step": int, "totals": Tensor, "images": int, "processes": int, "class_names": list},
}
# removed flags of earlier versions -> values with which a run can still be resumed
GONE = {"ema": (0.0,), "metric_weight": (0.0, 1.0), "scale": (20.0,)}


def find(args, world: World | None = None) -> tuple[argparse.Namespace, Checkpoint | None, Recipe | None]:
    """The flags to train with, and the checkpoint and recipe of the resumed run (None, None for a new run).

    A run restarted by torchrun is resumed automatically. Flags that were not given take the values of the resumed run.
    Nothing in the output folder is changed.

    With several processes (`world`), rank 0 reads the file for all, so other machines do not need it; the flags in
    MACHINE_FLAGS stay as given to each process.

    Raises:
        InputError: there is nothing to resume; a given flag contradicts the run; the output folder already has a run
            (without `--resume`); or the processes were given different flags.
    """
    if world is None:
        return _find(args)
    world.agree_on_flags(args)
    own = {name: getattr(args, name) for name in MACHINE_FLAGS & args.given}
    args, checkpoint, recipe = world.broadcast(_find(args) if world.is_main else None)
    return argparse.Namespace(**(vars(args) | own)), checkpoint, recipe


def _find(args) -> tuple[argparse.Namespace, Checkpoint | None, Recipe | None]:
    flags.check(args)
    last = args.output / "last.pth"
    restarted = _is_of_this_launch(last)
    if not args.resume and not restarted:
        for folder in saved_elsewhere(args.output):
            if _is_of_this_launch(folder / "last.pth"):  # torchrun's restart must not begin a new run here
                raise InputError(
                    f"--output {args.output}: was deleted or unmounted in mid-run; resume the run saved in {folder}"
                )
        _refuse_to_replace(args.output, args.overwrite)
        return args, None, None
    path = last if restarted or args.resume is True else Path(args.resume)
    if not path.is_file():
        raise InputError(f"--resume: {path} does not exist; start a run without --resume, or give --resume FILE")
    checkpoint = checkpoints.load(path)
    if "optimizer" not in checkpoint.extra:
        raise InputError(
            f"--resume {path}: has weights only; resume from last.pth, or start a new run with --weights {path}"
        )
    before = checkpoint.extra.get("args")
    _refuse_what_is_gone(before, path)
    whole = all(isinstance(checkpoint.extra.get(name), kind) for name, kind in STATE.items())
    whole &= marks.are_valid(checkpoint.extra["marks"]) if "marks" in checkpoint.extra else True  # missing in old runs
    if not whole or not _are_flags(before):
        raise InputError(
            f"--resume {path}: not a valid last.pth; is the file damaged? Start a new run with --weights {path}"
        )
    try:  # earlier versions have the recipe among the flags
        recipe = saved_recipe(checkpoint.extra.get("recipe") or {name: before.get(name) for name in SETTINGS})
    except ValueError as error:
        raise InputError(
            f"--resume {path}: not a valid last.pth ({error}); start a new run with --weights {path}"
        ) from None
    _refuse_another_course(args, before, recipe, path)
    if "epochs" in args.given and args.epochs != AUTO:
        recipe = replace(recipe, epochs=args.epochs)
    if (done := checkpoint.extra["epoch"]) > recipe.epochs:
        raise InputError(
            f"--epochs {recipe.epochs}: the run in {path} has already done {done}; give a larger number, or leave "
            "--epochs out to finish the run as planned"
        )
    taken_over = {
        name: _paths(value) if name in PATHS and value else value
        for name, value in before.items()
        if name in vars(args) and name not in args.given and name != "resume"
    }
    return argparse.Namespace(**(vars(args) | taken_over)), checkpoint, recipe


def make_room(output: Path, overwrite: bool) -> None:
    """Delete the run that `--overwrite` replaces; called with the folder locked, right before the first step.

    Raises:
        InputError: another run was written there meanwhile, and `overwrite` is False.
    """
    _refuse_to_replace(output, overwrite)
    for name in FILES:
        (output / name).unlink(missing_ok=True)


def _refuse_to_replace(output: Path, overwrite: bool) -> None:
    found = [name for name in FILES if (output / name).is_file()]
    if found and not overwrite:
        how = "continue it with --resume" if "last.pth" in found else "move it away"
        raise InputError(
            f"--output {output}: already has a run ({', '.join(found)}); {how}, choose another folder, "
            "or replace it with --overwrite"
        )


def _is_of_this_launch(last: Path) -> bool:
    """Whether `last` is newer than the torchrun that started this process, which means that torchrun restarted it.

    torchrun's own count of restarts misses those after which another machine leads, so its start time is used.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or not last.is_file():
        return False
    try:
        ticks = int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19])
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except OSError:  # no Linux
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    return last.stat().st_mtime > int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")


def _refuse_what_is_gone(before, path: Path) -> None:
    """Raises InputError for a run of an earlier version that used a removed feature."""
    before = before if isinstance(before, dict) else {}
    used = [
        f"--{name.replace('_', '-')} {before[name]}"
        for name, same in GONE.items()
        if before.get(name, same[0]) not in same
    ]
    losses = str(before.get("metric_loss", "")).split("+")
    used += [f"--metric-loss {name}" for name in ("arcface", "center") if name in losses]
    if used:
        raise InputError(
            f"--resume {path}: was trained with {', '.join(used)}, which no longer exists; "
            f"start a new run with --weights {path}"
        )


def _are_flags(values) -> bool:
    """Whether values from a file are valid flags."""
    if not isinstance(values, dict):
        return False
    try:
        for action in flags.get_args_parser()._actions:
            value = values.get(action.dest)
            if value is None or action.dest == "resume":
                continue
            if isinstance(value, list):
                valid = action.nargs == "+" and all(isinstance(part, str) for part in value)
            elif isinstance(action, flags.Switch):
                valid = isinstance(value, bool) or value == AUTO
            elif action.nargs == 0:
                valid = isinstance(value, bool)
            else:
                value = (action.type or str)(str(value))
                valid = not action.choices or value in action.choices
            if not valid:
                return False
    except (argparse.ArgumentTypeError, ValueError, RuntimeError):
        return False
    return True


def _refuse_another_course(args, before: dict, recipe: Recipe, path: Path) -> None:
    """Raises InputError if a given flag contradicts the resumed run."""
    for name in args.given - FREE - {"epochs"}:
        given = getattr(args, name)
        if name in SETTINGS:
            same, value = given in (AUTO, getattr(recipe, name)), getattr(recipe, name)
        else:
            value = before.get(name, None if name == "minutes" else given)
            same = str(given) == str(value)
        if not same:
            spelled = "--gpu_id" if name == "gpu_id" else flag(name)
            raise InputError(f"{spelled} {given}: the run in {path} has {value}; leave {spelled} out to resume it")


def _paths(value: str | list[str]) -> Path | list[Path]:
    return [Path(part) for part in value] if isinstance(value, list) else Path(value)


def plain(args) -> dict:
    """The flags as plain values, because `last.pth` must not contain objects."""

    def text(value):
        if isinstance(value, list):
            return [str(part) for part in value]
        return str(value) if isinstance(value, Path) else value

    return {name: text(value) for name, value in vars(args).items() if name != "given"}
