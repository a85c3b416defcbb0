"""Plain class folders become train, query and gallery, no person in two of them."""

import os
import random
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from appearance.cli import InputError
from appearance.data.check import unmatched_queries
from appearance.data.layouts import Sample, find


def write_split(root: Path, out: Path, test_ratio: float, seed: int, copy: bool) -> None:
    """Divide the class folders of `root` into `out`/train, query and gallery, by links or copies.

    Raises:
        InputError: `root` has its splits already, it cannot be divided, or `out` is taken or cannot be written.
    """
    data = find(root)
    if data.layout != "class folders" or data.can_evaluate:
        raise InputError(f"{root}: already has its splits ({data.layout}); `split` takes plain class folders")
    if not 0 < test_ratio < 1:
        raise InputError(f"--test-ratio {test_ratio}: give a number between 0 and 1")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; choose a new one for the split")
    plan = plan_split(data.train, test_ratio, seed)
    source = root / "train" if (root / "train").is_dir() else root
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        for name, samples in plan.items():
            for sample in samples:
                _place(Path(sample.path), temporary / name / Path(sample.path).relative_to(source), copy)
        temporary.replace(out)
    except OSError as error:
        hint = "" if copy else "; if links are not possible here, add --copy"
        raise InputError(f"{out}: could not be written ({error.strerror}){hint}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def plan_split(samples: Sequence[Sample], test_ratio: float, seed: int) -> dict[str, list[Sample]]:
    """Identity-disjoint train, query and gallery.

    Test identities are drawn from those that can be evaluated: seen by two known cameras, or with two images where
    cameras are unknown. One image per identity and camera (per identity without cameras) becomes a query, as long as
    every query keeps a correct image in the gallery.

    Raises:
        InputError: too few identities.
    """
    by_pid = defaultdict(list)
    for sample in sorted(samples):
        by_pid[sample.pid].append(sample)
    rng = random.Random(seed)
    queries = {pid: _draw_queries(images, rng) for pid, images in sorted(by_pid.items())}
    testable = [pid for pid, drawn in queries.items() if drawn]
    wanted = max(1, round(len(by_pid) * test_ratio))
    if len(by_pid) < 3 or not testable:
        raise InputError(
            f"cannot be split: {len(by_pid)} identities, {len(testable)} of them with images from two cameras "
            "(or two images where cameras are unknown); at least 3 identities are needed"
        )
    test = set(rng.sample(testable, min(wanted, len(testable), len(by_pid) - 2)))
    plan = {"train": [s for s in samples if s.pid not in test], "query": [], "gallery": []}
    for pid in sorted(test):
        plan["query"] += queries[pid]
        plan["gallery"] += [s for s in by_pid[pid] if s not in queries[pid]]
    return plan


def _draw_queries(images: list[Sample], rng: random.Random) -> list[Sample]:
    by_camera = defaultdict(list)
    for sample in images:
        by_camera[sample.camera].append(sample)
    drawn: list[Sample] = []
    for _, candidates in sorted(by_camera.items()):
        trial = [*drawn, rng.choice(candidates)]
        if not unmatched_queries(trial, [s for s in images if s not in trial]):
            drawn = trial
    return drawn


def _place(source: Path, target: Path, copy: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copy2(source, target)
    else:
        target.symlink_to(source.resolve())
