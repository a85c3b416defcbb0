"""Plain class folders become train, query and gallery, no person and no moment in two of them."""

import os
import random
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from appearance.cli import InputError
from appearance.data.check import few, look, one_camera
from appearance.data.compare import NEAR, STRANGERS, Order, alike, fingerprints
from appearance.data.layouts import Sample, find, sequence_hint
from appearance.data.names import UNKNOWN

APART = 25  # frames of one camera that lie at least between a query and a gallery image of that camera: a second


class Plan(NamedTuple):
    """What goes where, and in words what that leaves out or cannot measure."""

    splits: dict[str, list[Sample]]  # train, query, gallery
    lines: list[str]


def write_split(root: Path, out: Path, test_ratio: float, seed: int, copy: bool) -> list[str]:
    """Divide the class folders of `root` into `out`/train, query and gallery, by links or copies.

    Returns what the split leaves out or cannot measure, in lines.

    Raises:
        InputError: `root` has its splits already, it cannot be divided, or `out` is taken, lies in `root` or cannot be
            written.
    """
    data = find(root)
    if data.layout != "class folders" or data.can_evaluate:
        raise InputError(f"{root}: already has its splits ({data.layout}); `split` takes plain class folders")
    if data.sequences:
        raise InputError(sequence_hint(data.sequences[0]))
    if not 0 < test_ratio < 1:
        raise InputError(f"--test-ratio {test_ratio}: give a number between 0 and 1")
    inner, outer = out.resolve(), root.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        where = "inside" if inner.is_relative_to(outer) else "around"
        raise InputError(f"{out}: lies {where} {root}, where its folders would be taken for people; choose one beside")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; choose a new one for the split")
    samples = sorted(data.train)
    plan = plan_split(samples, test_ratio, seed, fingerprints(look(samples)[1]), data.names)
    source = root / "train" if (root / "train").is_dir() else root
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        for name, part in plan.splits.items():
            for sample in part:
                _place(Path(sample.path), temporary / name / Path(sample.path).relative_to(source), copy)
        temporary.replace(out)
    except OSError as error:
        hint = "" if copy else "; if links are not possible here, add --copy"
        raise InputError(f"{out}: could not be written ({error.strerror}){hint}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return plan.lines


def plan_split(
    samples: Sequence[Sample], test_ratio: float, seed: int, prints: Tensor | None = None, names: dict | None = None
) -> Plan:
    """Identity-disjoint train, query and gallery.

    Test identities are drawn from those that can be evaluated: seen by two known cameras, or at two times where there
    is one camera or cameras are unknown. Those who share pictures with others are trained on together. One image per
    identity and camera becomes a query, as long as every query keeps a correct image in the gallery; in a single camera
    whose names tell the time the first and the last image. What lies too near to a query of the same person in time, or
    looks like it, is left out where it would count as an answer.

    Args:
        prints: (N, D) fingerprints of the samples (`compare.fingerprints`); without them names alone are compared.
        names: of the identities, for the lines.

    Raises:
        InputError: too few identities.
    """
    order = sorted(range(len(samples)), key=lambda i: samples[i])
    samples = [samples[i] for i in order]
    prints = torch.zeros(len(samples), 1) if prints is None else prints[order]
    single = one_camera(samples)
    by_pid = defaultdict(list)
    for i, sample in enumerate(samples):
        by_pid[sample.pid].append(i)
    shared = _sharing(samples, prints)
    rng = random.Random(seed)
    roles = {}  # pid -> query and gallery samples
    for pid, rows in sorted(by_pid.items()):
        images = [samples[i] for i in rows]
        near = _near(images, prints[rows])
        roles[pid] = _draw_queries(images, near, single, rng)
    testable = [pid for pid, (query, _) in roles.items() if query and pid not in shared]
    wanted = max(1, round(len(by_pid) * test_ratio))
    if len(by_pid) < 3 or not testable:
        raise InputError(
            f"cannot be split: {len(by_pid)} identities, {len(testable)} of them with images from two cameras "
            f"(or, in one or unknown cameras, two images that are no neighbouring frames); at least 3 identities are "
            "needed"
        )
    test = set(rng.sample(testable, min(wanted, len(testable), len(by_pid) - 2)))
    splits = {"train": [s for s in samples if s.pid not in test], "query": [], "gallery": []}
    for pid in sorted(test):
        splits["query"] += roles[pid][0]
        splits["gallery"] += roles[pid][1]
    return Plan(splits, _told(splits, samples, shared, names or {}))


def _sharing(samples: Sequence[Sample], prints: Tensor) -> set[int]:
    """Identities with a picture, or a moment of a video, that another identity has as well."""
    pid = torch.tensor([sample.pid for sample in samples])
    pairs = np.concatenate(
        [alike(prints, lambda a, b: pid[a] != pid[b]), Order(samples).alike_neighbours(prints, STRANGERS)], 1
    )
    first, second = pid[torch.from_numpy(pairs)]
    return {*first[first != second].tolist(), *second[first != second].tolist()}


def _near(images: Sequence[Sample], prints: Tensor) -> np.ndarray:
    """Which images of a person show one moment (n, n): alike, or of one camera less than a second apart."""
    camera, time = np.array([[s.camera, s.time] for s in images]).T
    timed = (time != UNKNOWN) & (time[:, None] != UNKNOWN) & (camera == camera[:, None])
    return (timed & (np.abs(time - time[:, None]) < APART)) | (prints @ prints.T >= NEAR).numpy()


def _draw_queries(images: list[Sample], near: np.ndarray, single: bool, rng: random.Random):
    """A person's query and gallery images; no query where none would have an answer."""
    camera = np.array([s.camera for s in images])
    counts = (camera != camera[:, None]) | (camera == UNKNOWN) | single  # (n, n) as an answer

    def gallery(query: list[int]) -> np.ndarray:
        left = ~(near & counts)[query].any(0)
        left[query] = False
        return left

    drawn: list[int] = []
    for one in np.unique(camera):
        here = np.flatnonzero(camera == one).tolist()
        first = rng.choice(here)
        if single and images[first].time != UNKNOWN:  # furthest from all others, and from each other
            times = [images[i].time for i in here]
            candidates, most = [here[int(np.argmin(times))], here[int(np.argmax(times))]], 2
        else:
            candidates, most = [first, *here], 1
        for row in candidates:
            trial = [*drawn, row]
            if row not in drawn and most and (counts[trial] & gallery(trial)).any(1).all():
                drawn, most = trial, most - 1
    left = gallery(drawn)
    return [images[i] for i in drawn], [image for image, kept in zip(images, left, strict=True) if kept]


def _told(splits: dict[str, list[Sample]], samples: Sequence[Sample], shared: set[int], names: dict) -> list[str]:
    lines = []
    if shared:
        told = few([str(names.get(pid, pid)) for pid in sorted(shared)])
        lines.append(f"{len(shared)} identities share pictures with another and are not tested on: {told}; see `check`")
    left = len(samples) - sum(map(len, splits.values()))
    if left:
        lines.append(f"{left:,} images left out: of the same moment as a query of the same person")
    if one_camera(samples):
        lines.append(
            "one camera in all names: the test tells whether people are recognised in it at another time, "
            "not whether they are in another camera"
        )
    elif any(s.camera == UNKNOWN for s in splits["query"]):
        lines.append(
            "cameras are unknown: the test cannot tell whether people are recognised in another camera, "
            "only in images that differ"
        )
    return lines


def _place(source: Path, target: Path, copy: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copy2(source, target)
    else:
        target.symlink_to(source.resolve())
