"""Which run is resumed, which of its flags hold, and which run may be replaced."""

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
# flags that may change when a run is resumed: they do not touch the course of the training
FREE = {
    *("resume", "output", "device", "gpu_id", "workers", "cache", "eval_interval", "save_interval", "given"),
    *("dist_url", "world_size", "data_dir", "timeout", "overwrite", "skip_bad_images"),
}
FILES = ("last.pth", "best.pth", "history.csv", "curves.png")  # of a run
# what `last.pth` holds beside the weights
STATE = {
    **{"objective": dict, "buffers": list, "optimizer": dict, "scheduler": dict, "scaler": dict, "history": list},
    **{"best": list, "epoch": int, "step": int, "totals": Tensor, "images": int, "processes": int, "class_names": list},
}
# flags of earlier versions -> values with which a run can still be resumed
GONE = {"ema": (0.0,), "metric_weight": (0.0, 1.0), "scale": (20.0,)}


def find(args, world: World | None = None) -> tuple[argparse.Namespace, Checkpoint | None, Recipe | None]:
    """The flags to train with; and where a run is resumed, its checkpoint and recipe.

    Among several processes, `world`, rank 0 reads for all, so other machines do not need the file; each process keeps
    the flags given to it that belong to its machine.

    A run that torchrun has restarted resumes by itself. Flags that were not given take the values of the resumed run.
    Nothing in the output folder is changed.

    Raises:
        InputError: there is nothing to resume, or a given flag would change the course of the run; or, without
            `--resume`, the output folder holds a run already; or the processes were given different flags.
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
            if _is_of_this_launch(folder / "last.pth"):  # torchrun has restarted it: not from the start, in its place
                raise InputError(
                    f"--output {args.output}: was deleted or unmounted in mid-run; go on with the run in {folder}"
                )
        _refuse_to_replace(args.output, args.overwrite)
        return args, None, None
    path = last if restarted or args.resume is True else Path(args.resume)
    if not path.is_file():
        raise InputError(f"--resume: {path} does not exist; train first, or name a last.pth with --resume FILE")
    checkpoint = checkpoints.load(path)
    if "optimizer" not in checkpoint.extra:
        raise InputError(
            f"--resume {path}: holds weights only; resume from last.pth, or start anew with --weights {path}"
        )
    before = checkpoint.extra.get("args")
    _refuse_what_is_gone(before, path)
    whole = all(isinstance(checkpoint.extra.get(name), kind) for name, kind in STATE.items())
    whole &= marks.are_valid(checkpoint.extra["marks"]) if "marks" in checkpoint.extra else True  # earlier: without
    if not whole or not _are_flags(before):
        raise InputError(f"--resume {path}: not a whole last.pth of this collection; is the file damaged?")
    try:  # runs of earlier versions have the recipe among their flags
        recipe = saved_recipe(checkpoint.extra.get("recipe") or {name: before.get(name) for name in SETTINGS})
    except ValueError as error:
        raise InputError(f"--resume {path}: not a whole last.pth of this collection ({error})") from None
    _refuse_another_course(args, before, recipe, path)
    if "epochs" in args.given and args.epochs != AUTO:
        recipe = replace(recipe, epochs=args.epochs)
    if (done := checkpoint.extra["epoch"]) > recipe.epochs:
        raise InputError(
            f"--epochs {recipe.epochs}: {path} has done {done} already; give more, or leave the flag out to go on to "
            "the end of its run"
        )
    taken_over = {
        name: _paths(value) if name in PATHS and value else value
        for name, value in before.items()
        if name in vars(args) and name not in args.given and name != "resume"
    }
    return argparse.Namespace(**(vars(args) | taken_over)), checkpoint, recipe


def make_room(output: Path, overwrite: bool) -> None:
    """Remove the run that `--overwrite` replaces: the last thing before the new one's first step, under its lock.

    Raises:
        InputError: a run has been written there meanwhile, and is not to be replaced.
    """
    _refuse_to_replace(output, overwrite)
    for name in FILES:
        (output / name).unlink(missing_ok=True)


def _refuse_to_replace(output: Path, overwrite: bool) -> None:
    found = [name for name in FILES if (output / name).is_file()]
    if found and not overwrite:
        how = "go on with --resume" if "last.pth" in found else "move it away"
        raise InputError(
            f"--output {output}: holds a run already ({', '.join(found)}); {how}, choose another folder, "
            "or replace that run with --overwrite"
        )


def _is_of_this_launch(last: Path) -> bool:
    """Whether `last` was written since the torchrun that started this process began: then this is a restart.

    torchrun counts restarts, but not those after which another machine takes the lead, and not from one launch to the
    next. So the time at which it started decides.
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
    """Raises InputError for a run of an earlier version that used what this one does not have any more."""
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
            f"start anew with --weights {path}"
        )


def _are_flags(values) -> bool:
    """Whether values from a file could have been given on the command line."""
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
    """Raises InputError where a given flag says otherwise than the run did."""
    for name in args.given - FREE - {"epochs"}:
        given = getattr(args, name)
        if name in SETTINGS:
            same, value = given in (AUTO, getattr(recipe, name)), getattr(recipe, name)
        else:
            value = before.get(name, None if name == "minutes" else given)
            same = str(given) == str(value)
        if not same:
            spelled = "--gpu_id" if name == "gpu_id" else flag(name)
            raise InputError(f"{spelled} {given}: the run in {path} has {value}; leave the flag out to resume")


def _paths(value: str | list[str]) -> Path | list[Path]:
    return [Path(part) for part in value] if isinstance(value, list) else Path(value)


def plain(args) -> dict:
    """The flags as plain values, for `last.pth`, which holds no objects."""

    def text(value):
        if isinstance(value, list):
            return [str(part) for part in value]
        return str(value) if isinstance(value, Path) else value

    return {name: text(value) for name, value in vars(args).items() if name != "given"}
