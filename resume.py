"""Going on with a run: which checkpoint, and which flags are its own."""

import argparse
import os
from pathlib import Path

from torch import Tensor

import checkpoints
from checkpoints import Checkpoint
from cli import InputError
from flags import get_args_parser
from utils import World

PATHS = {"data_dir", "output", "cache_dir"}
# flags that may change when a run is resumed: they do not touch the course of the training
FREE = {
    *("resume", "epochs", "output", "device", "gpu_id", "workers", "cache", "cache_dir", "eval_interval"),
    *("save_interval", "log_interval", "given", "dist_url", "world_size", "data_dir", "timeout", "overwrite"),
    "skip_bad_images",
}
# what `last.pth` holds beside the weights
STATE = {
    **{"objective": dict, "average": dict | None, "buffers": list, "optimizer": dict, "scheduler": dict},
    **{"scaler": dict, "history": list, "best": list, "epoch": int, "step": int, "totals": Tensor, "images": int},
    **{"processes": int, "class_names": list},
}


def find_resumed(args) -> Checkpoint | None:
    """The checkpoint to resume from, if any; flags that were not given take the values of its run.

    A run that torchrun has restarted resumes by itself.

    Raises:
        InputError: there is none, it cannot be resumed, or a given flag would change the course of the run; or,
            without `--resume`, the output folder holds a run already.
    """
    last = args.output / "last.pth"
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) and last.is_file():
        args.resume = True
    if not args.resume:
        _leave_runs_alone(args, last)
        return None
    path = last if args.resume is True else Path(args.resume)
    if not path.is_file():
        raise InputError(f"--resume: {path} does not exist; train first, or name a last.pth with --resume FILE")
    checkpoint = checkpoints.load(path)
    if "optimizer" not in checkpoint.extra:
        raise InputError(
            f"--resume {path}: holds weights only; resume from last.pth, or start anew with --weights {path}"
        )
    before = checkpoint.extra.get("args")
    whole = all(isinstance(checkpoint.extra.get(name, name), kind) for name, kind in STATE.items())
    if not whole or not _are_flags(before):
        raise InputError(f"--resume {path}: not a whole last.pth of this collection; is the file damaged?")
    _take_over(args, before, path)
    return checkpoint


def _leave_runs_alone(args, last: Path) -> None:
    if last.is_file() and not args.overwrite:
        raise InputError(
            f"--output {args.output}: holds a run already; go on with --resume, choose another folder, "
            "or lose that run with --overwrite"
        )
    last.unlink(missing_ok=True)  # a restart must not take it for its own


def _are_flags(values) -> bool:
    """Whether values from a file could have been given on the command line."""
    if not isinstance(values, dict):
        return False
    try:
        for action in get_args_parser()._actions:
            value = values.get(action.dest)
            if value is None or action.dest == "resume":
                continue
            if action.nargs == 0:
                valid = isinstance(value, bool)
            else:
                value = (action.type or str)(str(value))
                valid = not action.choices or value in action.choices
            if not valid:
                return False
    except (argparse.ArgumentTypeError, ValueError, RuntimeError):
        return False
    return True


def _take_over(args, before: dict, path: Path) -> None:
    for name, value in before.items():
        if name not in args.given or name not in vars(args):
            if name in vars(args) and name != "resume":
                setattr(args, name, Path(value) if name in PATHS and value else value)
                args.given.add(name)
        elif name not in FREE and str(getattr(args, name)) != str(value):
            flag = f"--{name}" if name in ("batch_size", "gpu_id") else f"--{name.replace('_', '-')}"
            raise InputError(
                f"{flag} {getattr(args, name)}: the run in {path} has {value}; leave the flag out to resume"
            )


def agree_on_resumed(args, world: World) -> Checkpoint | None:
    """`find_resumed` for several processes: rank 0 reads for all, so other machines need not have the file."""
    settings, checkpoint = world.broadcast((vars(args), find_resumed(args)) if world.is_main else None)
    vars(args).update(settings)
    return checkpoint
