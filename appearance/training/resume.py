"""Going on with a run: what is kept of it, which checkpoint is taken up, and which flags are its own."""

import argparse
import math
import os
from pathlib import Path

import torch
from torch import Tensor

from appearance.cli import InputError, RunFailed, counted
from appearance.networks import checkpoints
from appearance.networks.checkpoints import Checkpoint
from appearance.training.flags import get_args_parser
from appearance.training.later import snapshot
from appearance.training.tally import Tally
from appearance.world import World

PATHS = {"data_dir", "output", "cache_dir", "teacher"}
# flags that may change when a run is resumed: they do not touch the course of the training
FREE = {
    *("resume", "epochs", "output", "device", "gpu_id", "workers", "cache", "cache_dir", "eval_interval"),
    *("save_interval", "log_interval", "given", "dist_url", "world_size", "data_dir", "timeout", "overwrite"),
    *("skip_bad_images", "cuda_graph"),
}
FILES = ("last.pth", "best.pth", "history.csv", "curves.png")  # of a run
# what `last.pth` holds beside the weights
STATE = {
    **{"objective": dict, "average": dict | None, "buffers": list, "optimizer": dict, "scheduler": dict},
    **{"scaler": dict, "history": list, "best": list, "epoch": int, "step": int, "totals": Tensor, "images": int},
    **{"processes": int, "class_names": list},
}


def find(args) -> Checkpoint | None:
    """The checkpoint to resume from, if any; flags that were not given take the values of its run.

    A run that torchrun has restarted resumes by itself. Nothing in the output folder is changed.

    Raises:
        InputError: there is none, it cannot be resumed, or a given flag would change the course of the run; or,
            without `--resume`, the output folder holds a run already.
    """
    last = args.output / "last.pth"
    if _is_of_this_launch(last):
        args.resume = True
    if not args.resume:
        _refuse_to_replace(args)
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


def make_room(args) -> None:
    """Remove the run that `--overwrite` replaces: the last thing before the new one's first step, under its lock.

    Raises:
        InputError: a run has been written there meanwhile, and is not to be replaced.
    """
    _refuse_to_replace(args)
    for name in FILES:
        (args.output / name).unlink(missing_ok=True)


def _refuse_to_replace(args) -> None:
    found = [name for name in FILES if (args.output / name).is_file()]
    if found and not args.overwrite:
        how = "go on with --resume" if "last.pth" in found else "move it away"
        raise InputError(
            f"--output {args.output}: holds a run already ({', '.join(found)}); {how}, choose another folder, "
            "or replace that run with --overwrite"
        )


def _is_of_this_launch(last: Path) -> bool:
    """Whether the torchrun that started this process has seen `last` being written: then this is a restart.

    torchrun counts restarts, but not those after which another machine takes the lead, and not from one launch to the
    next; the time at which it started is a better witness.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or not last.is_file():
        return False
    try:
        ticks = int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[19])
        booted = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime"))
    except OSError:  # no Linux
        return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    return last.stat().st_mtime > int(booted.split()[1]) + ticks / os.sysconf("SC_CLK_TCK")


def _are_flags(values) -> bool:
    """Whether values from a file could have been given on the command line."""
    if not isinstance(values, dict):
        return False
    try:
        for action in get_args_parser()._actions:
            value = values.get(action.dest)
            if value is None or action.dest == "resume":
                continue
            if isinstance(value, list):
                valid = action.nargs == "+" and all(isinstance(part, str) for part in value)
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


def _take_over(args, before: dict, path: Path) -> None:
    for name, value in before.items():
        if name not in args.given or name not in vars(args):
            if name in vars(args) and name != "resume":
                setattr(args, name, _paths(value) if name in PATHS and value else value)
                if name == "data_dir" and isinstance(args.data_dir, Path):  # of a run before there could be several
                    args.data_dir = [args.data_dir]
                args.given.add(name)
        elif name not in FREE and str(getattr(args, name)) != str(value):
            flag = f"--{name}" if name in ("batch_size", "gpu_id") else f"--{name.replace('_', '-')}"
            raise InputError(
                f"{flag} {getattr(args, name)}: the run in {path} has {value}; leave the flag out to resume"
            )


def _paths(value: str | list[str]) -> Path | list[Path]:
    return [Path(part) for part in value] if isinstance(value, list) else Path(value)


def _texts(value):
    """The inverse, for `last.pth`, which holds no objects."""
    if isinstance(value, list):
        return [str(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def finished(args, resumed: Checkpoint) -> str:
    """The line for a run that has nothing left to do.

    Raises:
        InputError: it has done more epochs than are asked for.
    """
    done = resumed.extra["epoch"]
    if done > args.epochs:
        raise InputError(
            f"--epochs {args.epochs}: {resumed.path} has done {done} already; give more, or leave the flag out to go "
            "on to the end of its run"
        )
    return f"{resumed.path} has finished its {counted(done, 'epoch')}; train longer with --epochs"


def agree(args, world: World) -> Checkpoint | None:
    """`find` for several processes: rank 0 reads for all, so other machines need not have the file."""
    settings, checkpoint = world.broadcast((vars(args), find(args)) if world.is_main else None)
    vars(args).update(settings)
    return checkpoint


def restore(training, checkpoint: Checkpoint) -> None:
    """Take up the state of `last.pth`, once the learner is there: its wrapper gives all processes the first's buffers.

    Raises:
        InputError: it is of other data, of another number of processes, or does not fit.
    """
    extra, learner, world = checkpoint.extra, training.learner, training.world
    if extra["class_names"] != training.class_names or extra["images"] != len(training.train_samples):
        raise InputError(
            f"--resume {checkpoint.path}: was trained on other data ({len(extra['class_names'])} identities, "
            f"{extra['images']} images); resume with the same --data-dir, or start anew with --weights"
        )
    if extra["processes"] != world.size:
        raise InputError(
            f"--resume {checkpoint.path}: ran on {extra['processes']} processes, now {world.size}; "
            "use as many, or start anew with --weights"
        )
    training.epoch, training.step = extra["epoch"], extra["step"]
    training.tally = Tally(world, extra["totals"])
    pixels, *settled, accuracy = extra["best"]  # of runs before there was --precise-bn, two numbers
    training.history, training.best = extra["history"], (pixels, settled == [True], accuracy)
    training.say(
        f"Resuming {checkpoint.path} after {counted(training.epoch, 'epoch')} and {counted(training.step, 'step')}"
    )
    if extra["args"]["epochs"] != training.args.epochs:
        training.say(
            f"  note: {extra['args']['epochs']} epochs became {training.args.epochs}; "
            "learning rate and image sizes follow the longer schedule from here on"
        )
    try:
        learner.objective.load_state_dict(extra["objective"])
        if learner.average:
            learner.average.load_state_dict(extra["average"])
        for name in learner.kept.start if learner.kept else ():
            learner.kept.start[name].copy_(extra["kept"][name])
        learner.optimizer.load_state_dict(extra["optimizer"])
        learner.scheduler.load_state_dict(extra["scheduler"])
        learner.scaler.load_state_dict(extra["scaler"])
        for buffer, saved in zip(learner.buffers(), extra["buffers"][world.rank], strict=True):
            buffer.copy_(saved)
    except (KeyError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"--resume: the state in it does not fit ({str(error).splitlines()[0]})") from None


def check_weights(training) -> None:
    """Raises RunFailed where a loss that was finite has left weights that are not."""
    finite = [value.isfinite().all() for value in training.learner.usable_net().state_dict().values()]
    if not torch.stack(finite).all():
        raise RunFailed(
            f"the weights are no longer finite after step {training.step} of epoch {training.epoch + 1}, and were not "
            "saved: try a lower --lr"
        )


def weights(training) -> dict:
    """The part of a checkpoint that testing and trackers need."""
    args = training.args
    row = training.history[-1] if training.history else {}
    check_weights(training)
    return {
        "net_dict": training.learner.usable_net().state_dict(),
        "acc": 100.0 * row.get("val_acc", math.nan),  # nothing held out, nothing measured
        "epoch": training.epoch,
        "arch": args.model,
        "model_options": training.model_options,
        "num_classes": len(training.pids),
        "height": training.size[0],
        "width": training.size[1],
        "class_names": training.class_names,
        "trained_on": training.trained_on,
        "args": {k: _texts(v) for k, v in vars(args).items() if k != "given"},
    }


def save(training, epoch: int) -> None:
    """Have `last.pth` written: the weights and all that resuming needs. Every process tells, rank 0 writes."""
    learner, world = training.learner, training.world
    buffers = world.gather([buffer.cpu() for buffer in learner.buffers()])
    if not world.is_main:
        return
    state = {
        "buffers": buffers,
        "objective": learner.objective.state_dict(),
        "average": learner.average.state_dict() if learner.average else None,
        "kept": learner.kept.start if learner.kept else None,
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": learner.scheduler.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "history": training.history,
        "best": list(training.best),
        "epoch": epoch,
        "step": training.step,
        "totals": training.tally.totals,
        "images": len(training.train_samples),
        "processes": world.size,
    }
    training.later(checkpoints.save, training.args.output / "last.pth", snapshot(weights(training) | state))
