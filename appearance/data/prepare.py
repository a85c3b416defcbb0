"""A dataset is prepared before work begins: found, checked, unreadable images left out."""

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
    """The dataset, or the datasets as one, to train on; where it cannot be evaluated, query and gallery are empty.

    Raises:
        InputError: training cannot work with it.
    """
    roots = args.data_dir or [None]
    if len({root and os.path.realpath(root) for root in roots}) < len(roots):
        raise InputError("--data-dir names the same folder twice, so each person would get two labels")
    world.agree(len(roots), lambda first, own: "" if first == own else f"--data-dir names {own} folders, not {first}")
    sets = [_checked(root, args, world) for root in roots]
    if len(sets) == 1:
        return sets[0]
    data = merged(sets)
    tested = f"tested on {data.root}" if data.can_evaluate else "tested on none"
    world.say(f"Together {len(data.train_pids()):,} identities, {len(data.train):,} training images; {tested}")
    return data


def _checked(root: Path | None, args, world: World) -> ReIDData:
    """One dataset to train on, checked as far as names tell."""
    data = _found(root, world)
    looked_at = data.query + data.gallery
    if args.skip_bad_images or args.cache == "none":  # else training images are looked at when they are decoded
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
        raise InputError(f"{data.root}: no training images")
    if any(problem.fatal for problem in problems):  # of the evaluation
        world.say("  note: so rank-1 and mAP are not measured during training")
        data.query, data.gallery = [], []
    return data


def for_testing(args, world: World) -> ReIDData:
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
    _say_unread(data, world)
    if args.skip_bad_images:
        _leave_out_unreadable(data, data.query + data.gallery, args, world)
        if not data.can_evaluate:
            raise InputError(f"--data-dir {data.root}: no query or no gallery image can be read")
    return data


def _say_unread(data: ReIDData, world: World) -> None:
    """What lies beside the dataset and is not used, said once."""
    for problem in unread(data) if world.is_main else ():
        world.say(f"  note: {problem.text}")


def _found(root: Path | None, world: World) -> ReIDData:
    """The dataset in `root`, the same for all processes; the sample, drawn first, where none is named."""
    data = find(root or the_sample(world))
    if world.size > 1:
        world.agree(marks.of_data(data), partial(_another, data))
    return data


def _another(data: ReIDData, wanted: marks.Marks, found: marks.Marks) -> str:
    told = marks.difference(wanted, found, data)
    return told and f"--data-dir {data.root}: {told}"


def the_sample(world: World) -> Path:
    """The sample dataset, which is drawn once for a user and machine, wherever the scripts are started from."""
    root = data_folder() / "sample"
    for draws in (world.is_main, world.local_rank == 0):  # other machines after the first, which may share its disk
        if draws:
            sample.ensure(root)
        world.barrier()
    return root


def _leave_out_unreadable(data: ReIDData, looked_at: list[Sample], args, world: World) -> None:
    """With `--skip-bad-images`, take those of the images that cannot be read out of `data`.

    Raises:
        InputError: there are some, and they are not to be skipped.
    """
    bad = None
    if world.is_main:
        problems = check.image_problems(looked_at, max(1, args.workers))
        texts = {problem.path: problem.text for problem in problems if problem.fatal}
        # by position: the same images lie elsewhere on other machines
        bad = {n: texts[sample.path] for n, sample in enumerate(looked_at) if sample.path in texts}
    bad = world.broadcast(bad)
    if bad and not args.skip_bad_images:
        raise InputError(unreadable(list(bad.values()), len(looked_at)))
    left_out = {looked_at[n].path for n in bad}
    for samples in data.splits().values():
        samples[:] = [sample for sample in samples if sample.path not in left_out]
    if bad:
        world.say(
            f"Left out {len(bad)} of {len(looked_at):,} images that cannot be read; `datasets.py check` lists them"
        )
