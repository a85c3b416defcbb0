"""Summarise a dataset and find its problems from names, folders and single images, before training or testing.

`duplicates.py` finds the problems that need a comparison of images.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from appearance.cli import InputError, counted
from appearance.data.folders import few
from appearance.data.images import load_rgb
from appearance.data.layouts import OTHER_KINDS, ReIDData, Sample, images, sequence_hint
from appearance.data.names import UNKNOWN
from appearance.data.similarity import thumbnail
from appearance.identities import DISTRACTOR, JUNK, nobody
from appearance.machine import by_threads, cores, side_by_side
from appearance.progress import progress

SMALLEST_SIDE = 16  # pixels; smaller crops are warned about
BLANK = 4  # largest difference between pixel values (0 to 255) of an image that counts as blank
FEW_LINES = 5  # up to so many images of one problem get a line each
WORTH_PROCESSES = 1000  # images; fewer are read faster by one process
STEP = 16  # pixels; proposed heights and widths are multiples
FAR = 1.4  # ratio to the aspect ratio of 128x64 above which another input size is proposed
MOST_CAMERAS = 20  # more camera numbers than this are warned about


@dataclass
class Problem:
    """A problem of a dataset. A fatal one makes training or evaluation impossible."""

    fatal: bool
    text: str
    path: str = ""  # of the image, if the problem is about one


def summary(data: ReIDData) -> str:
    """A table with the identities, images and cameras (or sessions) of each split, as text."""
    seen_by = "sessions" if data.by_session else "cameras"
    lines = [f"{data.root}: {data.layout}", f"  {'split':<8} {'identities':>10} {'images':>8} {seen_by:>8}"]
    for split, samples in data.splits().items():
        # in train, identity 0 is a person
        without = nobody(s.pid for s in (samples if split == "train" else data.query))
        people = [s for s in samples if s.pid not in without]
        known = [s.camera for s in people if s.camera != UNKNOWN]
        line = f"  {split:<8} {len({s.pid for s in people}):>10,} {len(people):>8,} {len(set(known)) or 'unknown':>8}"
        extras = Counter(s.pid for s in samples if s.pid in without)
        notes = [
            f"{extras[pid]:,} {name}" for pid, name in ((DISTRACTOR, "distractors"), (JUNK, "junk")) if extras[pid]
        ]
        line += f"   and {', '.join(notes)}" if notes else ""
        lines.append(line + (f"   (in {len(known):,} file names)" if 0 < len(known) < len(people) else ""))
    return "\n".join(lines)


def find_problems(data: ReIDData) -> list[Problem]:
    """The problems that show in names and folders, without opening an image."""
    return _folder_problems(data) + _training_problems(data) + _camera_problems(data) + _evaluation_problems(data)


def one_camera(samples: Iterable[Sample]) -> bool:
    """Whether all cameras are known and each person is in one only: no cross-camera matches."""
    cameras = {(sample.pid, sample.camera) for sample in samples}
    return 0 < len(cameras) == len({pid for pid, _ in cameras}) and all(camera != UNKNOWN for _, camera in cameras)


def _folder_problems(data: ReIDData) -> list[Problem]:
    """Files and folders of the dataset that are not used."""
    problems = [Problem(True, f"train: {sequence_hint(folder)}") for folder in data.sequences]
    problems += [Problem(False, note) for note in data.notes]
    for folder in _empty_identity_folders(data):
        problems.append(Problem(False, f"{folder}: this identity folder has no images"))
    problems += _deeper_identities(data)
    kinds = defaultdict(list)
    for path in (path for root in split_folders(data) for path in images(root, OTHER_KINDS)):
        kinds[os.path.splitext(path)[1].lower()].append(path)
    for kind, paths in sorted(kinds.items()):
        text = f"{counted(len(paths), kind + ' file')} not used ({few(inside(data, paths))}): format not supported; "
        problems.append(Problem(False, text + "convert to .jpg or .png"))
    if data.folders:
        inner = [path for root in split_folders(data) for path in sorted(root.iterdir())]
        beside = [path for path in inner if path.suffix.lower() in IMG_EXTENSIONS]
        if beside:
            text = (
                f"{counted(len(beside), 'image')} not used ({few(inside(data, beside))}): not in an identity folder; "
            )
            problems.append(Problem(False, text + "move each person's images into a folder"))
    return problems


def _training_problems(data: ReIDData) -> list[Problem]:
    problems = []
    counts = Counter(sample.pid for sample in data.train)
    if len(counts) == 1:
        name = data.names.get(next(iter(counts)), "?")
        problems.append(Problem(True, f"train: only one identity ({name}); training needs at least two"))
    if not counts:
        problems.append(Problem(not data.can_evaluate, "train: no images"))
    alone = [data.names.get(pid, str(pid)) for pid, count in counts.items() if count == 1]
    if alone and len(counts) > 1:
        problems.append(Problem(False, f"train: {counted(len(alone), 'identity')} with a single image ({few(alone)})"))
    (pid, most), *_ = counts.most_common(1) or [(0, 0)]
    if len(counts) > 2 and most > len(data.train) / 2:
        text = f"train: {data.names.get(pid, pid)} has {most:,} of {len(data.train):,} images, so training sees "
        text += "little else; delete most of them, for example near-identical frames"
        problems.append(Problem(False, text))
    return problems


def _camera_problems(data: ReIDData) -> list[Problem]:
    """Problems with cameras and sessions, which are read from file names."""
    test = data.tested()
    people = data.train + test
    known = {s.camera for s in people} - {UNKNOWN}
    problems = []
    if data.by_session:
        text = "sessions are used in place of cameras: a right answer is an image of the same identity from another "
        return [Problem(False, text + "session, and recognition across cameras is not measured")]
    if people and one_camera(people):
        text = "all images are from one camera" if len(known) == 1 else "each person is in one camera only"
        text += ": recognition across cameras can be neither trained nor measured, so images of the same camera count "
        text += "as right answers (`evaluate.py --protocol reappear` requires a time gap between them)"
        problems.append(Problem(False, text))
    if len(known) > MOST_CAMERAS and len(known) > len(people) / 4:
        text = f"{len(known):,} different cameras in the file names of {len(people):,} images "
        text += f"({few([s.path for s in people])}); the number after c, cam or camera is read as the camera: if it is "
        text += "something else, rename the files"
        problems.append(Problem(False, text))
    unknown = [s for s in test if s.camera == UNKNOWN]
    if unknown:
        text = f"{len(unknown)} of {len(test)} test images have no camera in the file name"
        problems.append(Problem(False, f"{text}, so same-camera images count as right answers for them"))
    unknown = [s for s in data.train if s.camera == UNKNOWN]
    if known and unknown and not test:
        text = f"{len(unknown):,} of {len(data.train):,} images have no camera in the file name "
        text += f"({few(inside(data, [s.path for s in unknown]))}) and will count as right answers in every camera; "
        problems.append(Problem(False, text + "rename them, as in anna_cam2_0017.jpg"))
    return problems


def _evaluation_problems(data: ReIDData) -> list[Problem]:
    if data.untestable:
        return [
            Problem(False, f"rank-1 and mAP cannot be measured, as query and gallery cannot be read: {data.untestable}")
        ]
    if not data.query and not data.gallery:
        return [
            Problem(False, "no query/ and gallery/, which rank-1 and mAP need; `python datasets.py split` makes them")
        ]
    problems = []
    for split in ("query", "gallery"):
        if not getattr(data, split):
            problems.append(Problem(True, f"{split}: no images, so evaluation is impossible"))
    if problems:
        return problems

    people = data.tested()
    both = {s.pid for s in data.train} & {s.pid for s in people}
    if both:
        names = few([data.names.get(pid, str(pid)) for pid in sorted(both)])
        problems.append(
            Problem(
                False,
                f"{counted(len(both), 'identity')} in both train and query/gallery: {names}; move each to one side",
            )
        )
    lost = unmatched_queries(data.query, data.gallery)
    if lost:
        whole = len(lost) == len(data.query)
        text = f"{len(lost)} of {len(data.query)} query images have no correct gallery image"
        text += "" if one_camera(people) else f" from another {'session' if data.by_session else 'camera'}"
        problems.append(Problem(whole, f"{text} ({few([Path(s.path).name for s in lost])})"))
    return problems


def unmatched_queries(query: Sequence[Sample], gallery: Sequence[Sample]) -> list[Sample]:
    """Query samples without a right answer in the gallery: same identity, and another or an unknown camera.

    If everything is from one camera, that camera counts as unknown.
    """
    without = nobody(s.pid for s in query)
    single = one_camera(s for s in (*query, *gallery) if s.pid not in without)
    cameras = defaultdict(set)
    for sample in gallery:
        cameras[sample.pid].add(UNKNOWN if single else sample.camera)
    return [
        s
        for s in query
        if not cameras[s.pid] or (s.camera != UNKNOWN and cameras[s.pid] == {s.camera}) or s.pid in without
    ]


def across_cores(work: Callable, paths: Sequence[str]) -> Iterator:
    """`map` in parallel processes if there are at least WORTH_PROCESSES paths."""
    return side_by_side(work, paths, cores() if len(paths) >= WORTH_PROCESSES else 1, chunk=64)


def look(samples: Sequence[Sample], apply: Callable = across_cores) -> tuple[list[Problem], list[bytes | None]]:
    """Open every image once: unreadable, blank and tiny images, and N thumbnails (None for an unreadable image).

    Args:
        apply: like `map`: calls a function on each path, results in order.
    """
    problems, thumbnails, _ = survey(samples, apply)
    return problems, thumbnails


def survey(
    samples: Sequence[Sample], apply: Callable = across_cores
) -> tuple[list[Problem], list[bytes | None], np.ndarray]:
    """As `look`, and (n, 2) int: width and height in pixels of the n readable images."""
    seen = apply(_open, [sample.path for sample in samples])
    bar = progress(seen, total=len(samples), desc="reading images", unit="img")
    problems, thumbnails, sizes, blank = zip(*bar, strict=True) if samples else ((), (), (), ())
    found = [problem for problem in problems if problem]
    small = [
        (sample.path, size) for sample, size in zip(samples, sizes, strict=True) if size and min(size) < SMALLEST_SIDE
    ]
    found += _one_by_one(
        [path for path, _ in small],
        [f"only {width}x{height} pixels (under {SMALLEST_SIDE})" for _, (width, height) in small],
        f"images are under {SMALLEST_SIDE} pixels wide or high",
    )
    empty = [sample.path for sample, it_is in zip(samples, blank, strict=True) if it_is]
    found += _one_by_one(empty, ["blank: all pixels have nearly the same colour"] * len(empty), "images are blank")
    return found, list(thumbnails), np.array([size for size in sizes if size], int).reshape(-1, 2)


def _open(path: str) -> tuple[Problem | None, bytes | None, tuple[int, int] | None, bool]:
    """(problem or None, thumbnail, (width, height), whether it is blank) of an image."""
    try:
        image = load_rgb(path)
    except InputError as error:
        return Problem(True, str(error), path), None, None, False
    return None, thumbnail(image), image.size, all(high - low <= BLANK for low, high in image.getextrema())


def _one_by_one(paths: Sequence[str], faults: Sequence[str], together: str) -> list[Problem]:
    """One warning per image, or a single one if there are more than FEW_LINES images."""
    if len(paths) > FEW_LINES:
        return [Problem(False, f"{len(paths):,} {together} ({few(paths)})")]
    return [Problem(False, f"{path}: {fault}", path) for path, fault in zip(paths, faults, strict=True)]


def size_line(sizes: np.ndarray) -> str:
    """A line with the median, smallest and largest image size, and flags for train.py if 128x64 fits badly.

    Args:
        sizes: width and height in pixels (n, 2).
    """
    if not len(sizes):
        return ""
    area = sizes.prod(1)
    (width, height), smallest, largest = np.median(sizes, 0), sizes[area.argmin()], sizes[area.argmax()]
    line = f"image sizes, width x height: median {width:.0f}x{height:.0f}, smallest {smallest[0]}x{smallest[1]}, "
    line += f"largest {largest[0]}x{largest[1]}"
    flags = " ".join(fitting_size(sizes))
    return f"{line}; unlike the default input of 128x64, so train with {flags}" if flags else line


def fitting_size(sizes: np.ndarray) -> list[str]:
    """Flags of train.py for an input size with the images' aspect ratio; none if the default, 128x64, is close.

    The size is in multiples of STEP, with about the area of 128x64, or of the images if they are smaller.

    Args:
        sizes: width and height in pixels (n, 2).
    """
    if not len(sizes):
        return []
    shape = float(np.median(sizes[:, 1] / sizes[:, 0]))  # height / width
    if 1 / FAR <= shape / 2 <= FAR:
        return []
    area = min(128 * 64, float(np.median(sizes.prod(1))))
    height, width = (max(STEP, STEP * round((area * side) ** 0.5 / STEP)) for side in (shape, 1 / shape))
    return ["--height", str(height), "--width", str(width)]


def image_problems(samples: Sequence[Sample], threads: int) -> list[Problem]:
    """The problems that `look` finds, with threads: a process that uses a GPU must not fork."""
    return look(samples, lambda work, paths: by_threads(work, paths, threads))[0]


def _empty_identity_folders(data: ReIDData) -> list[Path]:
    if not data.folders:
        return []
    used = {os.path.dirname(s.path) for samples in data.splits().values() for s in samples}
    used = {folder for parent in used for folder in (parent, *map(str, Path(parent).parents))}
    folders = [child for root in split_folders(data) for child in sorted(root.iterdir()) if child.is_dir()]
    folders = [f for f in folders if str(f) not in used and not f.name.startswith(".")]
    return [folder for folder in folders if folder not in data.sequences]


def _deeper_identities(data: ReIDData) -> list[Problem]:
    """Warnings about identity folders with images in several subfolders: each may be an identity of its own."""
    below = defaultdict(set)  # identity folder -> its folders with images, "" for itself
    for split, folder in data.folders.items() if data.layout == "class folders" else ():
        for sample in getattr(data, split):
            identity, *inner = sample.path.split(os.sep)[len(folder.parts) : -1]
            below[folder / identity].add(inner[0] if inner else "")
    deeper = {folder: sorted(inner) for folder, inner in below.items() if len(inner) > 1 and "" not in inner}
    if len(deeper) > len(below) / 2:
        return []
    how = "count as one identity; if each is a person, move the folders one level up"
    return [
        Problem(False, f"{folder}: its {len(inner)} subfolders ({few(inner)}) {how}")
        for folder, inner in sorted(deeper.items())
    ]


def split_folders(data: ReIDData) -> list[Path]:
    """The folders that hold the identity folders; the root for other layouts."""
    return list(data.folders.values()) or [data.root]


def inside(data: ReIDData, paths: Iterable[str | Path]) -> list[str]:
    """Paths relative to the dataset's root."""
    return [os.path.relpath(path, data.root) for path in paths]
