"""A dataset looked at and made ready before work begins: found, checked, unreadable images left out."""

import os
from pathlib import Path

from appearance.cli import SCRIPTS, InputError, command
from appearance.data import check
from appearance.data.images import unreadable
from appearance.data.layouts import ReIDData, Sample, find, merged
from appearance.data.unread import unread
from appearance.drawn import sample
from appearance.world import World


def for_training(args, world: World, say) -> ReIDData:
    """The dataset, or the datasets as one, to train on; where it cannot be evaluated, query and gallery are empty.

    Raises:
        InputError: training cannot work with it.
    """
    roots = args.data_dir or [None]
    if len({root and root.resolve() for root in roots}) < len(roots):
        raise InputError("--data-dir: a folder is named twice; its people would be told apart from themselves")
    sets = [_checked(root, args, world, say) for root in roots]
    if len(sets) == 1:
        return sets[0]
    data = merged(sets)
    tested = f"tested on {data.root}" if data.can_evaluate else "tested on none"
    say(f"Together {len(data.train_pids()):,} identities, {len(data.train):,} training images; {tested}")
    return data


def _checked(root: Path | None, args, world: World, say) -> ReIDData:
    """One dataset to train on, checked as far as names tell."""
    data = _found(root, world)
    looked_at = data.query + data.gallery
    if args.skip_bad_images or args.cache == "none":  # else training images are looked at when they are decoded
        looked_at = looked_at + data.train
    _leave_out_unreadable(data, looked_at, args, world, say)
    problems = check.find_problems(data)
    say(check.summary(data))
    for problem in problems:
        if problem.fatal and problem.text.startswith("train"):
            raise InputError(f"{data.root}: {problem.text}")
        say(f"  note: {problem.text}")
    _say_unread(data, world, say)
    if not data.train:
        raise InputError(f"{data.root}: no training images")
    if any(problem.fatal for problem in problems):  # of the evaluation
        say("  note: so rank-1 and mAP are not measured during training")
        data.query, data.gallery = [], []
    return data


def for_testing(args, world: World, say) -> ReIDData:
    """The dataset with query and gallery to test on.

    Raises:
        InputError: it has none, or none that can be read.
    """
    data = _found(args.data_dir, world)
    if data.untestable:
        raise InputError(data.untestable)
    if not data.can_evaluate:
        raise InputError(
            f"--data-dir {data.root}: has no query and gallery images; "
            f"`{command('datasets.py', 'split', data.root, 'OUT')}` makes them from class folders"
        )
    _say_unread(data, world, say)
    if args.skip_bad_images:
        _leave_out_unreadable(data, data.query + data.gallery, args, world, say)
        if not data.can_evaluate:
            raise InputError(f"--data-dir {data.root}: no query or no gallery image can be read")
    return data


def _say_unread(data: ReIDData, world: World, say) -> None:
    """What lies beside the dataset and is not used, said once."""
    for problem in unread(data) if world.is_main else ():
        say(f"  note: {problem.text}")


def _found(root: Path | None, world: World) -> ReIDData:
    """The dataset in `root`; the sample, drawn first, where none is named."""
    return find(root or the_sample(world))


def the_sample(world: World) -> Path:
    """The sample dataset, which is drawn once for a user, wherever the scripts are started from."""
    root = world.broadcast(sample.ensure(sample_place()) if world.is_main else None)
    world.barrier()
    return root


def sample_place() -> Path:
    """Where the sample lies: in the folder that APPEARANCE_DATA names, else in `data` beside the scripts, or where that
    cannot be written in the user's cache."""
    if os.environ.get("APPEARANCE_DATA"):
        return Path(os.environ["APPEARANCE_DATA"], "sample")
    beside = SCRIPTS / "data"
    if (beside / "sample").is_dir() or os.access(beside if beside.is_dir() else SCRIPTS, os.W_OK):
        return beside / "sample"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "appearance", "sample")


def _leave_out_unreadable(data: ReIDData, looked_at: list[Sample], args, world: World, say) -> None:
    """With `--skip-bad-images`, take those of the images that cannot be read out of `data`.

    Raises:
        InputError: there are some, and they are not to be skipped.
    """
    bad = None
    if world.is_main:
        problems = check.image_problems(looked_at, max(1, args.workers))
        bad = {problem.path: problem.text for problem in problems if problem.fatal}
    bad = world.broadcast(bad)
    if bad and not args.skip_bad_images:
        raise InputError(unreadable(list(bad.values()), len(looked_at)))
    for samples in data.splits().values():
        samples[:] = [sample for sample in samples if sample.path not in bad]
    if bad:
        say(f"Left out {len(bad)} of {len(looked_at):,} images that cannot be read; `datasets.py check` lists them")
