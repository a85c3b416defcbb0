"""Split images into train, query and gallery: no identity and no moment of a video in two of them."""

import os
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from appearance.cli import InputError, counted
from appearance.data import flat, sessions
from appearance.data.check import fitting_size, one_camera, survey
from appearance.data.folders import few
from appearance.data.images import unreadable
from appearance.data.layouts import ReIDData, Sample, find, sequence_hint
from appearance.data.names import UNKNOWN, marked, parse_name
from appearance.data.similarity import NEAR, STRANGERS, Order, alike, thumbnail_vectors
from appearance.data.unread import unread
from appearance.files import beside

APART = 25  # least distance in frames (a second) of a query and a gallery image of one person and camera
ENOUGH_QUERIES = 100  # with sessions: if there are fewer, several queries per session are drawn
MOST_QUERIES = 4  # then per identity and session
MOST_OF_IMAGES = 1 / 3  # and as a fraction of an identity's images


class Plan(NamedTuple):
    """The images of each split, and notes on what is left out or cannot be measured."""

    splits: dict[str, list[Sample]]  # train, query, gallery
    lines: list[str]


class Wishes(NamedTuple):
    """The flags of `datasets.py split`."""

    test_ratio: float = 0.3  # fraction of the identities for testing; 1: all
    seed: int = 0
    copy: bool = False
    identity: str | None = None  # pattern or CSV file, see `flat.read`
    session: str | None = None  # pattern
    skip_bad_images: bool = False


def write_split(root: Path, out: Path, wishes: Wishes) -> tuple[list[str], list[str]]:
    """Split the images of `root` into `out`/train, query and gallery, as links or copies.

    Returns:
        Notes on what is left out or cannot be measured, and flags of train.py for an input size that fits the images.

    Raises:
        InputError: `root` is split already or cannot be split, an image cannot be read, or `out` is not empty, overlaps
            `root` or cannot be written.
    """
    data, told, lines = _found(root, wishes)
    inner, outer = (Path(os.path.realpath(folder)) for folder in (out, root))  # also through links
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        where = "lies inside" if inner.is_relative_to(outer) else "contains"
        raise InputError(f"{out}: {where} {root}, so its folders would count as identities; choose a folder elsewhere")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; choose a new folder for the split")
    samples = sorted(data.train)
    problems, thumbnails, sizes = survey(samples)
    bad = {problem.path: problem.text for problem in problems if problem.fatal}
    if bad and not wishes.skip_bad_images:
        raise InputError(unreadable(list(bad.values()), len(samples)))
    thumbnails = [one for sample, one in zip(samples, thumbnails, strict=True) if sample.path not in bad]
    samples = [sample for sample in samples if sample.path not in bad]
    if not samples:
        raise InputError(f"{root}: all images ({len(bad):,}) are unreadable")
    lines += [f"{counted(len(bad), 'image')} left out: unreadable"] if bad else []
    samples, by_session, told_of_sessions = _in_sessions(data, samples, told, wishes.session)
    vectors, by = thumbnail_vectors(thumbnails), by_session or data.by_session
    plan = plan_split(samples, wishes.test_ratio, wishes.seed, vectors, data.names, by)
    try:
        with beside(out) as folder:
            taken: set[Path] = set()
            for name, part in plan.splits.items():
                for sample in part:
                    target = next(one for one in _targets(data, sample, by_session) if one not in taken)
                    taken.add(target)
                    _place(Path(sample.path), folder / name / target, wishes.copy)
    except OSError as error:
        hint = "" if wishes.copy else ", or add --copy if the disk does not support links"
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another folder{hint}") from None
    return lines + told_of_sessions + plan.lines, fitting_size(sizes)


def _found(root: Path, wishes: Wishes) -> tuple[ReIDData, dict[str, str], list[str]]:
    """The images to split, all in `train`; path -> session from `--identity`; and notes on what is left out."""
    if wishes.identity is not None or flat.has_market_names(root):
        data, told = flat.read(root, wishes.identity)
        return data, told, list(data.notes)
    data = find(root)
    if not data.folders or data.can_evaluate:
        beside = "".join(f"; {problem.text}" for problem in unread(data))
        raise InputError(
            f"{root}: is already split ({data.layout}); `split` needs a folder of identity folders{beside}"
        )
    if data.sequences:
        raise InputError(sequence_hint(data.sequences[0]))
    if not data.train:
        inner = next(folder for split, folder in data.folders.items() if getattr(data, split))
        raise InputError(f"{root}: has {inner.name}/ but no train/; give the folder to split, as in {inner}")
    return data, {}, data.notes + [problem.text for problem in unread(data)]


def _in_sessions(
    data: ReIDData, samples: list[Sample], told: dict[str, str], pattern: str | None
) -> tuple[list[Sample], bool, list[str]]:
    """Replace cameras by sessions, if `--session` or `--identity` gives them, or no camera is known but sessions are.

    Returns (samples, whether cameras are sessions, notes).
    """
    root, known = data.folders["train"], any(sample.camera != UNKNOWN for sample in samples)
    names = [flat.inside(root, sample.path) for sample in samples]
    if pattern is not None:
        tell = flat.pattern("session", pattern)
        found = [one.session if one else "" for one in map(tell, names)]
        if not any(found):
            raise InputError(f"--session {pattern}: matches none of {len(names):,} images, such as {few(names)}")
    elif told:
        found = [told.get(sample.path, "") for sample in samples]
    elif known:
        return samples, False, []
    else:
        below = data.layout == "class folders"  # else the first folder is not the identity
        rows = [name.split("/", 1)[1] if below else name.rsplit("/", 1)[-1] for name in names]
        found = sessions.from_names(rows, [sample.pid for sample in samples])
        if found is None:
            return samples, False, []
    lost = [name for name, session in zip(names, found, strict=True) if not session]
    lines = []
    if pattern is not None and lost:
        lines.append(f"{counted(len(lost), 'image')} without a session form a session of their own ({few(lost)})")
    numbers = sessions.numbered(found)
    largest = [session for session, _ in Counter(found).most_common() if session]
    lines.append(
        f"{counted(len({*found}), 'session')} read from the names ({few(largest)}); right answers are images of the "
        "same identity from another session"
    )
    return [s._replace(camera=n) for s, n in zip(samples, numbers, strict=True)], True, lines


def plan_split(
    samples: Sequence[Sample],
    test_ratio: float,
    seed: int,
    vectors: Tensor | None = None,
    names: dict | None = None,
    by_session: bool = False,
) -> Plan:
    """Split into train, query and gallery with disjoint identities.

    - Test identities are drawn from those with images in two cameras, or at two times if there is one camera or cameras
      are unknown. Identities that share pictures with another go to train.
    - Queries: one image per identity and camera, as long as every query keeps a right answer in the gallery. In a
      single camera with frame numbers: the first and the last image. With sessions and few queries: several a session.
    - Gallery: the other images, without those that would be a trivial right answer to a query: too near in time, or
      nearly the same picture.

    Args:
        samples: N images, of any split.
        test_ratio: fraction of the identities for testing; 1: all, with nothing in train.
        vectors: (N, D) of `similarity.thumbnail_vectors`; None: do not compare pictures.
        names: pid -> name, for the notes.
        by_session: the samples' cameras are sessions.

    Raises:
        InputError: too few identities, or none that can be tested.
    """
    order = sorted(range(len(samples)), key=lambda i: samples[i])
    samples = [samples[i] for i in order]
    vectors = torch.zeros(len(samples), 1) if vectors is None else vectors[order]
    single = one_camera(samples) and not by_session
    by_pid = defaultdict(list)
    for i, sample in enumerate(samples):
        by_pid[sample.pid].append(i)
    shared = _sharing(samples, vectors)
    rng = random.Random(seed)
    roles = {}  # pid -> (query samples, gallery samples)
    for pid, rows in sorted(by_pid.items()):
        images = [samples[i] for i in rows]
        near = _near(images, vectors[rows])
        roles[pid] = _draw_queries(images, near, single, rng)
    testable = [pid for pid, (query, _) in roles.items() if query and pid not in shared]
    wanted = max(1, round(len(by_pid) * test_ratio))
    if (len(by_pid) < 3 and test_ratio < 1) or not testable:
        two = "two sessions" if by_session else "two cameras"
        raise InputError(
            f"cannot be split: {counted(len(by_pid), 'identity')}, {len(testable)} of them testable; at least 3 "
            f"identities are needed, one of them testable: with images from {two}, or if cameras are unknown (or there "
            "is one), with two images that are not neighbouring frames"
        )
    most = len(by_pid) - 2 if test_ratio < 1 else len(by_pid)
    test = set(rng.sample(testable, min(wanted, len(testable), most)))
    if by_session:
        _draw_more(roles, {pid: by_pid[pid] for pid in sorted(test)}, samples, vectors, seed)
    trained = [] if test_ratio == 1 else [s for s in samples if s.pid not in test]
    splits = {"train": trained, "query": [], "gallery": []}
    for pid in sorted(test):
        splits["query"] += roles[pid][0]
        splits["gallery"] += roles[pid][1]
    return Plan(splits, _told(splits, samples, shared, names or {}, by_session))


def _draw_more(roles: dict, test: dict[int, list[int]], samples: list[Sample], vectors: Tensor, seed: int) -> None:
    """If there are few queries, draw several per session; identities for which this gives fewer keep the first draw."""
    few_queries = sum(len(roles[pid][0]) for pid in test)
    times = min(MOST_QUERIES, -(-ENOUGH_QUERIES // few_queries))
    for pid, rows in test.items() if times > 1 else ():
        images, before = [samples[i] for i in rows], roles[pid]
        most = max(len(before[0]), int(len(images) * MOST_OF_IMAGES))
        drawn = _draw_queries(images, _near(images, vectors[rows]), False, random.Random(f"{seed} {pid}"), times, most)
        roles[pid] = max(before, drawn, key=lambda role: len(role[0]))


def _sharing(samples: Sequence[Sample], vectors: Tensor) -> set[int]:
    """The pids of identities that share a picture, or neighbouring video frames, with another identity."""
    pid = torch.tensor([sample.pid for sample in samples])
    pairs = np.concatenate(
        [alike(vectors, lambda a, b: pid[a] != pid[b]), Order(samples).alike_neighbours(vectors, STRANGERS)], 1
    )
    first, second = pid[torch.from_numpy(pairs)]
    return {*first[first != second].tolist(), *second[first != second].tolist()}


def _near(images: Sequence[Sample], vectors: Tensor) -> np.ndarray:
    """(n, n) bool: which images of a person are of one moment: alike, or in one camera under APART frames apart."""
    camera, time = np.array([[s.camera, s.time] for s in images]).T
    timed = (time != UNKNOWN) & (time[:, None] != UNKNOWN) & (camera == camera[:, None])
    return (timed & (np.abs(time - time[:, None]) < APART)) | (vectors @ vectors.T >= NEAR).numpy()


def _draw_queries(
    images: list[Sample],
    near: np.ndarray,
    single: bool,
    rng: random.Random,
    times: int = 1,
    most_in_all: int | None = None,
) -> tuple[list[Sample], list[Sample]]:
    """Query and gallery images of one person; no queries if none would have a right answer.

    Args:
        images: n images of the person.
        near: (n, n) bool of `_near`.
        single: there is one camera, whose images count as answers.
        times: most queries per camera.
        most_in_all: most queries of the person.
    """
    camera = np.array([s.camera for s in images])
    counts = (camera != camera[:, None]) | (camera == UNKNOWN) | single  # (n, n) column is an answer to row

    def gallery(query: list[int]) -> np.ndarray:
        left = ~(near & counts)[query].any(0)
        left[query] = False
        return left

    drawn: list[int] = []
    for turn in range(times):
        for one in np.unique(camera):
            here = np.flatnonzero(camera == one).tolist()
            first = rng.choice(here)
            if single and images[first].time != UNKNOWN:  # first and last: the largest time gaps
                moments = [images[i].time for i in here]
                candidates, most = [here[int(np.argmin(moments))], here[int(np.argmax(moments))]], 2
            else:
                candidates, most = [first, *(rng.sample(here, len(here)) if turn else here)], 1
            for row in candidates:
                trial = [*drawn, row]
                if most_in_all is not None and len(trial) > most_in_all:
                    break
                if row not in drawn and most and (counts[trial] & gallery(trial)).any(1).all():
                    drawn, most = trial, most - 1
    left = gallery(drawn)
    return [images[i] for i in drawn], [image for image, kept in zip(images, left, strict=True) if kept]


def _told(
    splits: dict[str, list[Sample]], samples: Sequence[Sample], shared: set[int], names: dict, by_session: bool
) -> list[str]:
    lines = []
    if shared:
        told = few([str(names.get(pid, pid)) for pid in sorted(shared)])
        lines.append(
            f"{counted(len(shared), 'identity')} in train only, as they share pictures with others: {told}; run `check`"
        )
    used = {sample.pid for part in splits.values() for sample in part}
    untested = sorted({sample.pid for sample in samples} - used)  # with test_ratio 1
    if untested:
        told = few([str(names.get(pid, pid)) for pid in untested])
        lines.append(f"{counted(len(untested), 'identity')} left out, as no query would have a right answer: {told}")
    left = sum(sample.pid in used for sample in samples) - sum(map(len, splits.values()))
    if left:
        lines.append(f"{counted(left, 'image')} left out: same person and same moment as a query")
    if by_session:
        queries = counted(len(splits["query"]), "query")
        lines.append(f"{queries}: the test measures recognition in another session, not in another camera")
    elif one_camera(samples):
        lines.append(
            "all images are from one camera: the test measures recognition at another time, not in another camera"
        )
    elif any(s.camera == UNKNOWN for s in splits["query"]):
        lines.append("cameras are unknown: the test measures recognition in other images, not in another camera")
        if all(s.camera == UNKNOWN for s in samples):
            lines.append(
                "sessions (clips, days, tracks) are unknown as well: query and gallery may have neighbouring frames of "
                "one clip, which makes the result too good; if the names contain a session, give --session REGEX"
            )
    return lines


def _targets(data: ReIDData, sample: Sample, by_session: bool) -> Iterator[Path]:
    """Candidate paths for an image below its split's folder, best first: identity folder, then the file name, with
    camera or session added if the name does not have it."""
    path, source = Path(sample.path), data.folders["train"]
    if data.layout == "class folders":
        places = [path.relative_to(source)]
    else:  # the first folder is not the identity
        whole = flat.inside(source, sample.path).replace("/", "_")
        places = [Path(data.names[sample.pid], name) for name in (path.name, whole)]
    for place in chain(places, (places[-1].with_name(f"{n}_{places[-1].name}") for n in count(2))):
        if by_session:
            yield place.with_name(marked(place.name, "session", sample.camera))
        elif sample.camera != UNKNOWN and data.layout != "class folders":
            told = parse_name(place.name).camera == sample.camera
            yield place if told else place.with_name(marked(place.name, "cam", sample.camera))
        else:
            yield place


def _place(source: Path, target: Path, copy: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copy2(source, target)
    else:
        target.symlink_to(os.path.realpath(source))
