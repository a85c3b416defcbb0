"""Images of identities become train, query and gallery, no person and no moment in two of them."""

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

APART = 25  # frames of one camera that lie at least between a query and a gallery image of that camera: a second
ENOUGH_QUERIES = 100  # below it, more queries are drawn of each session
MOST_QUERIES = 4  # of an identity in a session
MOST_OF_IMAGES = 1 / 3  # share of an identity's images that become queries, where more are drawn


class Plan(NamedTuple):
    """What goes where, and in words what that leaves out or cannot measure."""

    splits: dict[str, list[Sample]]  # train, query, gallery
    lines: list[str]


class Wishes(NamedTuple):
    """What `datasets.py split` was asked for."""

    test_ratio: float = 0.3  # share of the identities to test with; 1: all
    seed: int = 0
    copy: bool = False
    identity: str | None = None  # pattern or CSV file, as `flat.read` takes it
    session: str | None = None  # pattern
    skip_bad_images: bool = False


def write_split(root: Path, out: Path, wishes: Wishes) -> tuple[list[str], list[str]]:
    """Divide the images of `root` into `out`/train, query and gallery, by links or copies.

    Returns what the split leaves out or cannot measure, in lines; and the flags of `train.py` that fit the images.

    Raises:
        InputError: `root` has its splits already, it cannot be divided, an image cannot be read, or `out` is taken,
            lies in `root` or cannot be written.
    """
    data, told, lines = _found(root, wishes)
    inner, outer = (Path(os.path.realpath(folder)) for folder in (out, root))  # links to themselves included
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        where = "inside" if inner.is_relative_to(outer) else "around"
        raise InputError(f"{out}: lies {where} {root}, where its folders would be taken for people; choose one beside")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; choose a new one for the split")
    samples = sorted(data.train)
    problems, thumbnails, sizes = survey(samples)
    bad = {problem.path: problem.text for problem in problems if problem.fatal}
    if bad and not wishes.skip_bad_images:
        raise InputError(unreadable(list(bad.values()), len(samples)))
    thumbnails = [one for sample, one in zip(samples, thumbnails, strict=True) if sample.path not in bad]
    samples = [sample for sample in samples if sample.path not in bad]
    if not samples:
        raise InputError(f"{root}: none of its {counted(len(bad), 'image')} can be read")
    lines += [f"{counted(len(bad), 'image')} left out: cannot be read"] if bad else []
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
        hint = "" if wishes.copy else "; if links are not possible here, add --copy"
        raise InputError(f"{out}: could not be written ({error.strerror}){hint}") from None
    return lines + told_of_sessions + plan.lines, fitting_size(sizes)


def _found(root: Path, wishes: Wishes) -> tuple[ReIDData, dict[str, str], list[str]]:
    """The images to divide, all of them in train; the sessions that `--identity` tells, by path; what is left out."""
    if wishes.identity is not None or flat.has_market_names(root):
        data, told = flat.read(root, wishes.identity)
        return data, told, list(data.notes)
    data = find(root)
    if not data.folders or data.can_evaluate:
        beside = "".join(f"; {problem.text}" for problem in unread(data))
        raise InputError(f"{root}: already has its splits ({data.layout}); `split` takes plain class folders{beside}")
    if data.sequences:
        raise InputError(sequence_hint(data.sequences[0]))
    if not data.train:
        inner = next(folder for split, folder in data.folders.items() if getattr(data, split))
        raise InputError(f"{root}: holds {inner.name}/ and no train/; name the folder to divide, as {inner}")
    return data, {}, data.notes + [problem.text for problem in unread(data)]


def _in_sessions(
    data: ReIDData, samples: list[Sample], told: dict[str, str], pattern: str | None
) -> tuple[list[Sample], bool, list[str]]:
    """The samples with sessions as their cameras, if sessions are asked for, or found where no camera is known.

    Returns (samples, whether by sessions, lines).
    """
    root, known = data.folders["train"], any(sample.camera != UNKNOWN for sample in samples)
    names = [flat.inside(root, sample.path) for sample in samples]
    if pattern is not None:
        tell = flat.pattern("session", pattern)
        found = [one.session if one else "" for one in map(tell, names)]
        if not any(found):
            raise InputError(f"--session {pattern}: fits none of {len(names):,} images, such as {few(names)}")
    elif told:
        found = [told.get(sample.path, "") for sample in samples]
    elif known:
        return samples, False, []
    else:
        below = data.layout == "class folders"  # else the identity is no folder
        rows = [name.split("/", 1)[1] if below else name.rsplit("/", 1)[-1] for name in names]
        found = sessions.from_names(rows, [sample.pid for sample in samples])
        if found is None:
            return samples, False, []
    lost = [name for name, session in zip(names, found, strict=True) if not session]
    lines = []
    if pattern is not None and lost:
        lines.append(f"{counted(len(lost), 'image')} without a session count as one of their own ({few(lost)})")
    numbers = sessions.numbered(found)
    largest = [session for session, _ in Counter(found).most_common() if session]
    lines.append(
        f"{counted(len({*found}), 'session')} told by the names ({few(largest)}): images of an identity count as "
        "answers in other sessions only"
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
    """Identity-disjoint train, query and gallery.

    Test identities are drawn from those that can be evaluated: seen by two known cameras, or at two times where there
    is one camera or cameras are unknown. Those who share pictures with others are trained on together. One image per
    identity and camera becomes a query, as long as every query keeps a correct image in the gallery; in a single camera
    whose names tell the time the first and the last image. Where cameras are sessions and queries few, more are drawn.
    What lies too near to a query of the same person in time, or looks like it, is left out where it would count as an
    answer.

    Args:
        vectors: (N, D) rows of the samples (`similarity.thumbnail_vectors`); without them names alone are compared.
        names: of the identities, for the lines.
        by_session: the samples' cameras are sessions.

    Raises:
        InputError: too few identities.
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
    roles = {}  # pid -> query and gallery samples
    for pid, rows in sorted(by_pid.items()):
        images = [samples[i] for i in rows]
        near = _near(images, vectors[rows])
        roles[pid] = _draw_queries(images, near, single, rng)
    testable = [pid for pid, (query, _) in roles.items() if query and pid not in shared]
    wanted = max(1, round(len(by_pid) * test_ratio))
    if (len(by_pid) < 3 and test_ratio < 1) or not testable:
        two = "two sessions" if by_session else "two cameras"
        raise InputError(
            f"cannot be split: {len(by_pid)} identities, {len(testable)} of them with images from {two} "
            f"(or, in one or unknown cameras, two images that are no neighbouring frames); at least 3 identities are "
            "needed"
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
    """Draw the queries of the test identities anew, several a session, if they are few; no identity loses by it."""
    few_queries = sum(len(roles[pid][0]) for pid in test)
    times = min(MOST_QUERIES, -(-ENOUGH_QUERIES // few_queries))
    for pid, rows in test.items() if times > 1 else ():
        images, before = [samples[i] for i in rows], roles[pid]
        most = max(len(before[0]), int(len(images) * MOST_OF_IMAGES))
        drawn = _draw_queries(images, _near(images, vectors[rows]), False, random.Random(f"{seed} {pid}"), times, most)
        roles[pid] = max(before, drawn, key=lambda role: len(role[0]))


def _sharing(samples: Sequence[Sample], vectors: Tensor) -> set[int]:
    """Identities with a picture, or a moment of a video, that another identity has as well."""
    pid = torch.tensor([sample.pid for sample in samples])
    pairs = np.concatenate(
        [alike(vectors, lambda a, b: pid[a] != pid[b]), Order(samples).alike_neighbours(vectors, STRANGERS)], 1
    )
    first, second = pid[torch.from_numpy(pairs)]
    return {*first[first != second].tolist(), *second[first != second].tolist()}


def _near(images: Sequence[Sample], vectors: Tensor) -> np.ndarray:
    """Which images of a person show one moment (n, n): alike, or of one camera less than a second apart."""
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
    """A person's query and gallery images; no query where none would have an answer.

    Args:
        times: queries in a camera, where they have answers.
        most_in_all: of the person.
    """
    camera = np.array([s.camera for s in images])
    counts = (camera != camera[:, None]) | (camera == UNKNOWN) | single  # (n, n) as an answer

    def gallery(query: list[int]) -> np.ndarray:
        left = ~(near & counts)[query].any(0)
        left[query] = False
        return left

    drawn: list[int] = []
    for turn in range(times):
        for one in np.unique(camera):
            here = np.flatnonzero(camera == one).tolist()
            first = rng.choice(here)
            if single and images[first].time != UNKNOWN:  # furthest from all others, and from each other
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
        lines.append(f"{len(shared)} identities share pictures with another and are not tested on: {told}; see `check`")
    used = {sample.pid for part in splits.values() for sample in part}
    untested = sorted({sample.pid for sample in samples} - used)  # where nobody is trained on
    if untested:
        told = few([str(names.get(pid, pid)) for pid in untested])
        lines.append(f"{counted(len(untested), 'identity')} left out, as no image could be a right answer: {told}")
    left = sum(sample.pid in used for sample in samples) - sum(map(len, splits.values()))
    if left:
        lines.append(f"{left:,} images left out: of the same moment as a query of the same person")
    if by_session:
        queries = counted(len(splits["query"]), "query")
        lines.append(
            f"{queries}: the test tells whether an identity is recognised in another session, not in another camera"
        )
    elif one_camera(samples):
        lines.append(
            "one camera in all names: the test tells whether people are recognised in it at another time, "
            "not whether they are in another camera"
        )
    elif any(s.camera == UNKNOWN for s in splits["query"]):
        lines.append(
            "cameras are unknown: the test cannot tell whether people are recognised in another camera, "
            "only in images that differ"
        )
        if all(s.camera == UNKNOWN for s in samples):
            lines.append(
                "no session (clip, day, track) is told by the names either: query and gallery may hold neighbouring "
                "frames of one clip, which flatter; if the names tell one, say how with --session"
            )
    return lines


def _targets(data: ReIDData, sample: Sample, by_session: bool) -> Iterator[Path]:
    """Places for an image in its split, for the first that is free: its identity's folder, and its name with the camera
    or session that the name does not tell itself."""
    path, source = Path(sample.path), data.folders["train"]
    if data.layout == "class folders":
        places = [path.relative_to(source)]
    else:  # the folders are no identities
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
