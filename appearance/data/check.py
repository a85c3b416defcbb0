"""What a dataset holds and what is wrong with it, before any work begins."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from appearance.cli import InputError
from appearance.data.images import load_rgb
from appearance.data.layouts import DISTRACTOR, JUNK, ReIDData, Sample
from appearance.data.names import UNKNOWN

SMALLEST_SIDE = 16  # pixels; below it a crop holds nothing to recognise


@dataclass
class Problem:
    """One thing found by `check`; a fatal one makes training or evaluation impossible."""

    fatal: bool
    text: str
    path: str = ""  # of the image, where it is about one


def summary(data: ReIDData) -> str:
    """The table of identities, images and cameras per split."""
    lines = [f"{data.root}: {data.layout}", f"  {'split':<8} {'identities':>10} {'images':>8} {'cameras':>8}"]
    for split, samples in data.splits().items():
        people = [s for s in samples if s.pid > DISTRACTOR]
        cameras = {s.camera for s in people} - {UNKNOWN}
        line = f"  {split:<8} {len({s.pid for s in people}):>10,} {len(people):>8,} {len(cameras) or 'unknown':>8}"
        extras = Counter(s.pid for s in samples if s.pid <= DISTRACTOR)
        notes = [
            f"{extras[pid]:,} {name}" for pid, name in ((DISTRACTOR, "distractors"), (JUNK, "junk")) if extras[pid]
        ]
        lines.append(line + (f"   and {', '.join(notes)}" if notes else ""))
    return "\n".join(lines)


def find_problems(data: ReIDData) -> list[Problem]:
    """Everything wrong that names and folders tell, without opening an image."""
    return _training_problems(data) + _evaluation_problems(data)


def _training_problems(data: ReIDData) -> list[Problem]:
    problems = []
    counts = Counter(sample.pid for sample in data.train)
    if len(counts) == 1:
        name = data.names.get(next(iter(counts)), "?")
        problems.append(Problem(True, f"train: only one identity ({name}); a network learns by telling people apart"))
    if not counts:
        problems.append(Problem(not data.can_evaluate, "train: no images, so there is nothing to train on"))
    alone = [data.names.get(pid, str(pid)) for pid, count in counts.items() if count == 1]
    if alone and len(counts) > 1:
        problems.append(Problem(False, f"train: {len(alone)} identities have a single image ({_few(alone)})"))
    cameras = {sample.camera for sample in data.train}
    if len(cameras) == 1 and cameras != {UNKNOWN}:
        problems.append(Problem(False, "train: one camera only; the network will not learn to match across cameras"))
    for folder in _empty_identity_folders(data):
        problems.append(Problem(False, f"{folder}: an identity folder without any image"))
    return problems


def _evaluation_problems(data: ReIDData) -> list[Problem]:
    problems = []
    if not data.query and not data.gallery:
        return [
            Problem(False, "no query/ and gallery/: rank-1 and mAP need them; `python datasets.py split` makes them")
        ]
    for split in ("query", "gallery"):
        if not getattr(data, split):
            problems.append(Problem(True, f"{split}: no images, so nothing can be evaluated"))
    if problems:
        return problems

    both = {s.pid for s in data.train} & {s.pid for s in data.query + data.gallery if s.pid > DISTRACTOR}
    if both:
        names = _few([data.names.get(pid, str(pid)) for pid in sorted(both)])
        problems.append(Problem(False, f"{len(both)} identities are both in train and in query/gallery: {names}"))

    people = [s for s in data.query + data.gallery if s.pid > DISTRACTOR]
    unknown = sum(s.camera == UNKNOWN for s in people)
    if unknown:
        text = (
            f"{unknown} of {len(people)} test images have no known camera: same-camera images count as matches for them"
        )
        problems.append(Problem(False, text))
    elif len({s.camera for s in people}) == 1:
        problems.append(
            Problem(
                True, "query and gallery: one camera only; the protocol removes same-camera matches, so none is left"
            )
        )
    lost = unmatched_queries(data.query, data.gallery)
    if lost:
        whole = len(lost) == len(data.query)
        text = f"{len(lost)} of {len(data.query)} query images have no correct gallery image from another camera"
        problems.append(Problem(whole, f"{text} ({_few([Path(s.path).name for s in lost])})"))
    return problems


def unmatched_queries(query: Iterable[Sample], gallery: Iterable[Sample]) -> list[Sample]:
    """Query samples without any correct gallery sample: same identity, and another or an unknown camera."""
    cameras = defaultdict(set)
    for sample in gallery:
        cameras[sample.pid].add(sample.camera)
    return [
        s
        for s in query
        if not cameras[s.pid] or (s.camera != UNKNOWN and cameras[s.pid] == {s.camera}) or s.pid <= DISTRACTOR
    ]


def image_problems(samples: Sequence[Sample], workers: int = 8) -> list[Problem]:
    """Open every image, in one pass: unreadable files and images too small to recognise anyone."""

    def look(sample: Sample) -> Problem | None:
        try:
            width, height = load_rgb(sample.path).size
        except InputError as error:
            return Problem(True, str(error), sample.path)
        if min(width, height) < SMALLEST_SIDE:
            return Problem(False, f"{sample.path}: {width}x{height} pixels, smaller than {SMALLEST_SIDE}", sample.path)
        return None

    with ThreadPoolExecutor(workers) as pool:
        found = tqdm(
            pool.map(look, samples), total=len(samples), desc="reading images", unit="img", leave=False, disable=None
        )
        return [problem for problem in found if problem]


def _empty_identity_folders(data: ReIDData) -> list[Path]:
    if data.layout != "class folders":
        return []
    used = {Path(s.path).parent for samples in data.splits().values() for s in samples}
    roots = (
        [data.root / split for split in data.splits()]
        if data.query or data.gallery
        else [data.root, data.root / "train"]
    )
    folders = [child for root in roots if root.is_dir() for child in sorted(root.iterdir()) if child.is_dir()]
    return [f for f in folders if not any(f == u or f in u.parents for u in used) and not f.name.startswith(".")]


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")
