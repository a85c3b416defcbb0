"""Report images in a dataset's folder that are in no split, so that nothing is left out unnoticed."""

import os
from collections import defaultdict
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from appearance.cli import command, counted
from appearance.data.check import Problem, inside, split_folders
from appearance.data.folders import few
from appearance.data.layouts import OTHER_KINDS, ReIDData, images

# folders of official downloads and of well-known preparation scripts that need no reading
KNOWN = {
    "gt_bbox": "hand-drawn boxes of Market-1501",
    "gt_query": "lists of right and wrong answers to Market-1501's queries",
    "multi-query": "further query images, for Market-1501's multi-query protocol",
    "pytorch": "copies made by a preparation script",
    "train_all": "the images of train and val again",
}
CLOSED_SET = ("test", "testing", "val", "valid", "validation", "dev", "eval")


def unread(data: ReIDData) -> list[Problem]:
    """A warning for each folder below the root with images that are in no split.

    Fatal if most images are unused and none is a training image: probably another folder is meant.
    """
    read = {sample.path for part in data.splits().values() for sample in part}
    folders = {os.path.dirname(path) for path in read}
    told_elsewhere = {str(folder) for folder in split_folders(data)} if data.folders else set()
    left, unknown = defaultdict(list), 0
    for path in images(data.root, IMG_EXTENSIONS + OTHER_KINDS):
        if path in read or any(path.startswith(f"{video}{os.sep}") for video in data.sequences):
            continue
        part = _part(data, path)
        unknown += part.lower() not in KNOWN
        of_another_kind = path.lower().endswith(OTHER_KINDS) and os.path.dirname(path) in folders
        if (
            os.path.dirname(path) not in told_elsewhere and not of_another_kind
        ):  # `check.find_problems` reports the others
            left[part].append(path)
    problems = [Problem(False, _told(data, part, paths)) for part, paths in sorted(left.items())]
    if unknown > len(read):
        text = f"most images in {data.root} are not used: {unknown:,} of {unknown + len(read):,}"
        if data.train:
            used = f"only {', '.join(split for split, samples in data.splits().items() if samples)}"
            problems.append(Problem(False, f"{text}; used: {used}; to use the others, give their folder"))
        else:
            problems.append(
                Problem(True, f"{text}; give the folder of the dataset itself, or move the other images away")
            )
    return problems


def _part(data: ReIDData, path: str) -> str:
    """The top-level folder of an image, "" if it lies directly in the root."""
    return inside(data, [path])[0].split(os.sep)[0] if os.path.dirname(path) != str(data.root) else ""


def _told(data: ReIDData, part: str, paths: list[str]) -> str:
    """The warning about the unused images of a top-level folder."""
    folder = data.root / part
    number = counted(len(paths), "image")
    if not part:
        return f"{number} directly in {data.root} not used ({few([os.path.basename(path) for path in paths])})"
    if part.lower() in KNOWN:
        return f"{part}/: {number} not used: {KNOWN[part.lower()]}"
    if any(Path(sample.path).is_relative_to(folder) for samples in data.splits().values() for sample in samples[:1]):
        return f"{part}/: {number} not used ({few(inside(data, paths))}): junk, or not in the official lists"
    identities = {path.split(os.sep)[len(folder.parts)] for path in paths if os.path.dirname(path) != str(folder)}
    if not identities:
        return f"{part}/: {number} not used"
    told = f"{part}/: {number} in {counted(len(identities), 'folder')} not used"
    if not data.folders or part.lower() not in CLOSED_SET:
        return f"{told}; if this is the dataset, give this folder: `{command('datasets.py', 'check', folder)}`"
    shared = identities & {data.names[pid] for pid in data.train_pids()}
    if shared == identities:
        told += ": it has the identities of train/, but rank-1 needs others; for validation, train.py holds out images "
        return told + "of train/ (--val-ratio)"
    if shared:
        told += (
            f": {counted(len(shared), 'identity')} in train/ as well ({few(sorted(shared))}), but a test needs other "
        )
        return told + "identities; move each identity's images to one side"
    split = command("datasets.py", "split", folder, "OUT", "--test-ratio", 1)
    return f"{told}: its identities are not in train/; run `{split}` to make query/ and gallery/ for test.py"
