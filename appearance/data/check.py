"""What a dataset holds and what is wrong with it, before any work begins: all that names and folders tell.

`duplicates.py` tells what only a look at the pictures shows.
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

SMALLEST_SIDE = 16  # pixels; below it a crop holds nothing to recognise
BLANK = 4  # grey levels between the darkest and the brightest pixel of an image that shows nothing
FEW_LINES = 5  # images with one fault that get a line each
WORTH_PROCESSES = 1000  # images, fewer are looked at before processes have begun
STEP = 16  # pixels, of which height and width of a network's input are multiples
FAR = 1.4  # times taller or wider than 128x64, from which another shape is proposed
MOST_CAMERAS = 20  # from which a number in nearly every name is doubted to be a camera's


@dataclass
class Problem:
    """One thing found by `check`; a fatal one makes training or evaluation impossible."""

    fatal: bool
    text: str
    path: str = ""  # of the image, where it is about one


def summary(data: ReIDData) -> str:
    """The table of identities, images and cameras, or sessions in their place, per split."""
    seen_by = "sessions" if data.by_session else "cameras"
    lines = [f"{data.root}: {data.layout}", f"  {'split':<8} {'identities':>10} {'images':>8} {seen_by:>8}"]
    for split, samples in data.splits().items():
        # everybody among the training images is a person
        without = nobody(s.pid for s in (samples if split == "train" else data.query))
        people = [s for s in samples if s.pid not in without]
        known = [s.camera for s in people if s.camera != UNKNOWN]
        line = f"  {split:<8} {len({s.pid for s in people}):>10,} {len(people):>8,} {len(set(known)) or 'unknown':>8}"
        extras = Counter(s.pid for s in samples if s.pid in without)
        notes = [
            f"{extras[pid]:,} {name}" for pid, name in ((DISTRACTOR, "distractors"), (JUNK, "junk")) if extras[pid]
        ]
        line += f"   and {', '.join(notes)}" if notes else ""
        lines.append(line + (f"   ({len(known):,} names tell one)" if 0 < len(known) < len(people) else ""))
    return "\n".join(lines)


def find_problems(data: ReIDData) -> list[Problem]:
    """Everything wrong that names and folders tell, without opening an image."""
    return _folder_problems(data) + _training_problems(data) + _camera_problems(data) + _evaluation_problems(data)


def one_camera(samples: Iterable[Sample]) -> bool:
    """Whether all names tell a camera, and each person is seen by one alone: nobody can be recognised in another."""
    cameras = {(sample.pid, sample.camera) for sample in samples}
    return 0 < len(cameras) == len({pid for pid, _ in cameras}) and all(camera != UNKNOWN for _, camera in cameras)


def _folder_problems(data: ReIDData) -> list[Problem]:
    """What lies there and is not used."""
    problems = [Problem(True, f"train: {sequence_hint(folder)}") for folder in data.sequences]
    problems += [Problem(False, note) for note in data.notes]
    for folder in _empty_identity_folders(data):
        problems.append(Problem(False, f"{folder}: an identity folder without any image"))
    problems += _deeper_identities(data)
    kinds = defaultdict(list)
    for path in (path for root in split_folders(data) for path in images(root, OTHER_KINDS)):
        kinds[os.path.splitext(path)[1].lower()].append(path)
    for kind, paths in sorted(kinds.items()):
        text = (
            f"{counted(len(paths), kind + ' file')} left out ({few(inside(data, paths))}): that kind is not read; save "
        )
        problems.append(Problem(False, text + "them as .jpg or .png"))
    if data.folders:
        inner = [path for root in split_folders(data) for path in sorted(root.iterdir())]
        beside = [path for path in inner if path.suffix.lower() in IMG_EXTENSIONS]
        if beside:
            text = (
                f"{counted(len(beside), 'image')} left out ({few(inside(data, beside))}), beside the identity folders; "
            )
            problems.append(Problem(False, text + "give each person a folder"))
    return problems


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
        problems.append(Problem(False, f"train: {len(alone)} identities have a single image ({few(alone)})"))
    (pid, most), *_ = counts.most_common(1) or [(0, 0)]
    if len(counts) > 2 and most > len(data.train) / 2:
        text = f"train: {data.names.get(pid, pid)} has {most:,} of {len(data.train):,} images; the network sees little "
        text += "else and learns little from the others: delete most of them, such as frames that hardly differ"
        problems.append(Problem(False, text))
    return problems


def _camera_problems(data: ReIDData) -> list[Problem]:
    """What the names tell of cameras, and what that makes impossible."""
    test = data.tested()
    people = data.train + test
    known = {s.camera for s in people} - {UNKNOWN}
    problems = []
    if data.by_session:
        text = "the names tell sessions and no cameras: images of an identity count as answers in another session; "
        return [Problem(False, text + "whether it is recognised in another camera is not measured")]
    if people and one_camera(people):
        text = "one camera in all names" if len(known) == 1 else "each person is seen by one camera alone"
        text += ": whether a person is recognised in another camera can be neither learnt nor measured; images of the "
        text += "same camera count as matches (`evaluate.py --protocol reappear` asks for a gap in time between them)"
        problems.append(Problem(False, text))
    if len(known) > MOST_CAMERAS and len(known) > len(people) / 4:
        text = f"the names tell {len(known):,} cameras of {len(people):,} images ({few([s.path for s in people])}); if "
        text += "that number is not the camera's, rename them: what follows a c, cam or camera is taken for one"
        problems.append(Problem(False, text))
    unknown = [s for s in test if s.camera == UNKNOWN]
    if unknown:
        text = f"{len(unknown)} of {len(test)} test images have no known camera: same-camera images count as matches"
        problems.append(Problem(False, f"{text} for them"))
    unknown = [s for s in data.train if s.camera == UNKNOWN]
    if known and unknown and not test:
        text = f"{len(data.train) - len(unknown):,} of {len(data.train):,} names tell a camera; images of the others "
        text += f"({few(inside(data, [s.path for s in unknown]))}) will count as matches of any image: rename them, "
        problems.append(Problem(False, text + "as anna_cam2_0017.jpg"))
    return problems


def _evaluation_problems(data: ReIDData) -> list[Problem]:
    if data.untestable:
        return [
            Problem(False, f"query and gallery are not read, so rank-1 and mAP cannot be measured: {data.untestable}")
        ]
    if not data.query and not data.gallery:
        return [
            Problem(False, "no query/ and gallery/: rank-1 and mAP need them; `python datasets.py split` makes them")
        ]
    problems = []
    for split in ("query", "gallery"):
        if not getattr(data, split):
            problems.append(Problem(True, f"{split}: no images, so nothing can be evaluated"))
    if problems:
        return problems

    people = data.tested()
    both = {s.pid for s in data.train} & {s.pid for s in people}
    if both:
        names = few([data.names.get(pid, str(pid)) for pid in sorted(both)])
        problems.append(Problem(False, f"{len(both)} identities are both in train and in query/gallery: {names}"))
    lost = unmatched_queries(data.query, data.gallery)
    if lost:
        whole = len(lost) == len(data.query)
        text = f"{len(lost)} of {len(data.query)} query images have no correct gallery image"
        text += "" if one_camera(people) else f" from another {'session' if data.by_session else 'camera'}"
        problems.append(Problem(whole, f"{text} ({few([Path(s.path).name for s in lost])})"))
    return problems


def unmatched_queries(query: Sequence[Sample], gallery: Sequence[Sample]) -> list[Sample]:
    """Query samples without any correct gallery sample: same identity, and another or an unknown camera.

    Where all are of one camera, it counts like an unknown one.
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
    """`map` by processes, where they are worth starting."""
    return side_by_side(work, paths, cores() if len(paths) >= WORTH_PROCESSES else 1, chunk=64)


def look(samples: Sequence[Sample], apply: Callable = across_cores) -> tuple[list[Problem], list[bytes | None]]:
    """Open every image, in one pass: unreadable files, blank images and those too small to show anyone; and thumbnails.

    The thumbnail of an image that cannot be read is None.

    Args:
        apply: as `map`; calls a function with each of the paths, in order.
    """
    problems, thumbnails, _ = survey(samples, apply)
    return problems, thumbnails


def survey(
    samples: Sequence[Sample], apply: Callable = across_cores
) -> tuple[list[Problem], list[bytes | None], np.ndarray]:
    """`look`, and the width and height of each image that can be read, in pixels (n, 2)."""
    seen = apply(_open, [sample.path for sample in samples])
    bar = progress(seen, total=len(samples), desc="reading images", unit="img")
    problems, thumbnails, sizes, blank = zip(*bar, strict=True) if samples else ((), (), (), ())
    found = [problem for problem in problems if problem]
    small = [
        (sample.path, size) for sample, size in zip(samples, sizes, strict=True) if size and min(size) < SMALLEST_SIDE
    ]
    found += _one_by_one(
        [path for path, _ in small],
        [f"{width}x{height} pixels, smaller than {SMALLEST_SIDE}" for _, (width, height) in small],
        f"images are smaller than {SMALLEST_SIDE} pixels",
    )
    empty = [sample.path for sample, it_is in zip(samples, blank, strict=True) if it_is]
    found += _one_by_one(empty, ["blank: all pixels have nearly one colour"] * len(empty), "images are blank")
    return found, list(thumbnails), np.array([size for size in sizes if size], int).reshape(-1, 2)


def _open(path: str) -> tuple[Problem | None, bytes | None, tuple[int, int] | None, bool]:
    """What is wrong with an image that cannot be read; its thumbnail, width and height, and whether it is blank."""
    try:
        image = load_rgb(path)
    except InputError as error:
        return Problem(True, str(error), path), None, None, False
    return None, thumbnail(image), image.size, all(high - low <= BLANK for low, high in image.getextrema())


def _one_by_one(paths: Sequence[str], faults: Sequence[str], together: str) -> list[Problem]:
    """A warning for each of a few images, or one for all of many."""
    if len(paths) > FEW_LINES:
        return [Problem(False, f"{len(paths):,} {together} ({few(paths)})")]
    return [Problem(False, f"{path}: {fault}", path) for path, fault in zip(paths, faults, strict=True)]


def size_line(sizes: np.ndarray) -> str:
    """The median image size and the smallest and largest ones by area, with a proposal where 128x64 fits them badly.

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
    return f"{line}; their shape is not that of 128x64: train with {flags}" if flags else line


def fitting_size(sizes: np.ndarray) -> list[str]:
    """The flags of train.py for a network input of the images' shape; none where 128x64, the default, is near enough.

    Multiples of STEP with about the area of 128x64, or that of the images where they are smaller.

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
    """The problems that `look` finds; by threads, as a process that holds a GPU had better not fork."""
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
    """Folders that hold folders of images, where the others hold images: other identities, or an identity's tracks."""
    below = defaultdict(set)  # identity folder -> its folders with images, "" for itself
    for split, folder in data.folders.items() if data.layout == "class folders" else ():
        for sample in getattr(data, split):
            identity, *inner = sample.path.split(os.sep)[len(folder.parts) : -1]
            below[folder / identity].add(inner[0] if inner else "")
    deeper = {folder: sorted(inner) for folder, inner in below.items() if len(inner) > 1 and "" not in inner}
    if len(deeper) > len(below) / 2:
        return []
    how = "are read as one identity's; if each is an identity, move it up"
    return [
        Problem(False, f"{folder}: the images of {len(inner)} folders in it ({few(inner)}) {how}")
        for folder, inner in sorted(deeper.items())
    ]


def split_folders(data: ReIDData) -> list[Path]:
    """The folders that hold the identity folders; of other layouts, the whole."""
    return list(data.folders.values()) or [data.root]


def inside(data: ReIDData, paths: Iterable[str | Path]) -> list[str]:
    """Paths as seen from the dataset's folder."""
    return [os.path.relpath(path, data.root) for path in paths]
