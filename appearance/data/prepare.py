"""Prepare a dataset for training or testing: find it, check it, leave out unreadable images."""

import os
from functools import partial
from pathlib import Path

from appearance.cli import InputError, command
from appearance.data import check, marks
from appearance.data.images import unreadable
from appearance.data.layouts import ReIDData, Sample, find, merged
from appearance.data.unread import unread
from appearance.distributed import World
from appearance.drawn import sample
from appearance.machine import data_folder


def for_training(args, world: World) -> ReIDData:
    """The dataset to train on; several `--data-dir` are merged. Query and gallery are empty if it cannot be tested.

    Raises:
        InputError: a folder is no dataset, or cannot be trained on.
    """
    roots = args.data_dir or [None]
    if len({root and os.path.realpath(root) for root in roots}) < len(roots):
        raise InputError("--data-dir names the same folder twice, so each person would get two labels; name it once")
    world.agree(
        len(roots),
        lambda first, own: (
            "" if first == own else f"--data-dir names {own} folders on this rank, but {first} on rank 0"
        ),
    )
    sets = [_checked(root, args, world) for root in roots]
    if len(sets) == 1:
        return sets[0]
    data = merged(sets)
    tested = f"rank-1 and mAP on {data.root}" if data.can_evaluate else "none of them has query and gallery"
    total = f"{len(data.train_pids()):,} identities, {len(data.train):,} training images"
    world.say(f"All {len(sets)} datasets: {total}; {tested}")
    return data


def _checked(root: Path | None, args, world: World) -> ReIDData:
    """One dataset to train on; prints its table and problems, and raises InputError on fatal ones."""
    data = _found(root, world)
    looked_at = data.query + data.gallery
    if args.skip_bad_images or args.cache == "none":  # else decoding reports unreadable training images
        looked_at = looked_at + data.train
    _leave_out_unreadable(data, looked_at, args, world)
    problems = check.find_problems(data)
    world.say(check.summary(data))
    for problem in problems:
        if problem.fatal and problem.text.startswith("train"):
            raise InputError(f"{data.root}: {problem.text}")
        world.say(f"  note: {problem.text}")
    _say_unread(data, world)
    if not data.train:
        raise InputError(f"--data-dir {data.root}: has no training images")
    if any(problem.fatal for problem in problems):  # only evaluation is impossible
        world.say("  note: because of these problems, rank-1 and mAP are not measured during training")
        data.query, data.gallery = [], []
    return data


def for_testing(args, world: World) -> ReIDData:
    """The dataset to test on, with query and gallery.

    Raises:
        InputError: it has no query or no gallery images, or they cannot be read.
    """
    data = _found(args.data_dir, world)
    if data.untestable:
        raise InputError(data.untestable)
    if not data.can_evaluate:
        raise InputError(
            f"--data-dir {data.root}: has no query and gallery images; for class folders, run "
            f"`{command('datasets.py', 'split', data.root, 'OUT')}`"
        )
    _say_unread(data, world)
    if args.skip_bad_images:
        _leave_out_unreadable(data, data.query + data.gallery, args, world)
        if not data.can_evaluate:
            raise InputError(f"--data-dir {data.root}: all query images or all gallery images are unreadable")
    return data


def _say_unread(data: ReIDData, world: World) -> None:
    """Print notes about images in the dataset's folder that are not used."""
    for problem in unread(data) if world.is_main else ():
        world.say(f"  note: {problem.text}")


def _found(root: Path | None, world: World) -> ReIDData:
    """The dataset in `root`, or the sample dataset if None. Raises InputError if ranks see different images."""
    data = find(root or the_sample(world))
    if world.size > 1:
        world.agree(marks.of_data(data), partial(_another, data))
    return data


def _another(data: ReIDData, wanted: marks.Marks, found: marks.Marks) -> str:
    """The error text about a rank with another dataset, "" if it is the same."""
    told = marks.difference(wanted, found, data)
    return told and f"--data-dir {data.root}: {told}"


def the_sample(world: World) -> Path:
    """The folder of the sample dataset in `data_folder()`, drawn there if missing."""
    root = data_folder() / "sample"
    for draws in (world.is_main, world.local_rank == 0):  # rank 0 first: machines may share a disk
        if draws:
            sample.ensure(root)
        world.barrier()
    return root


def _leave_out_unreadable(data: ReIDData, looked_at: list[Sample], args, world: World) -> None:
    """Remove the unreadable ones of `looked_at` from `data`.

    Raises:
        InputError: there are unreadable images, and `--skip-bad-images` is not given.
    """
    bad = None
    if world.is_main:
        problems = check.image_problems(looked_at, max(1, args.workers))
        texts = {problem.path: problem.text for problem in problems if problem.fatal}
        # by position, as paths may differ between machines
        bad = {n: texts[sample.path] for n, sample in enumerate(looked_at) if sample.path in texts}
    bad = world.broadcast(bad)
    if bad and not args.skip_bad_images:
        raise InputError(unreadable(list(bad.values()), len(looked_at)))
    left_out = {looked_at[n].path for n in bad}
    for samples in data.splits().values():
        samples[:] = [sample for sample in samples if sample.path not in left_out]
    if bad:
        world.say(
            f"Left out {len(bad)} of {len(looked_at):,} images: unreadable; `python datasets.py check` lists them"
        )
