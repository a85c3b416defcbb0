"""What lies in a dataset's folder and is not read: named with its number of images, so that nothing is lost unseen."""

import os
from collections import defaultdict
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from appearance.cli import command, counted
from appearance.data.check import Problem, inside, split_folders
from appearance.data.folders import few
from appearance.data.layouts import OTHER_KINDS, ReIDData, images

# of official downloads and of well-known scripts that prepare them: what it is that nobody has to read
KNOWN = {
    "gt_bbox": "hand-drawn boxes of Market-1501's authors",
    "gt_query": "lists of good and bad answers to Market-1501's queries",
    "multi-query": "more images of the queries' people, for Market-1501's multiple-query setting",
    "pytorch": "copies made by a script that prepares Market-1501",
    "train_all": "train and val together",
}
CLOSED_SET = ("test", "testing", "val", "valid", "validation", "dev", "eval")


def unread(data: ReIDData) -> list[Problem]:
    """Each folder below the root with images that are in no split.

    Fatal if they are more than those that are, and none of these are to train on: then another folder is meant. Else
    `train.py` takes what it knows, and so does `check`.
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
        if os.path.dirname(path) not in told_elsewhere and not of_another_kind:  # `check.find_problems` names these
            left[part].append(path)
    problems = [Problem(False, _told(data, part, paths)) for part, paths in sorted(left.items())]
    if unknown > len(read):
        text = f"most images below {data.root} are not used: {unknown:,} of {unknown + len(read):,}"
        if data.train:
            used = f"those of {', '.join(split for split, samples in data.splits().items() if samples)}"
            problems.append(Problem(False, f"{text}; {used} are; if others are meant, name their folder"))
        else:
            problems.append(Problem(True, f"{text}; name the folder that is meant, or move the others out of it"))
    return problems


def _part(data: ReIDData, path: str) -> str:
    """The folder of the root in which an image lies, or "" for the root."""
    return inside(data, [path])[0].split(os.sep)[0] if os.path.dirname(path) != str(data.root) else ""


def _told(data: ReIDData, part: str, paths: list[str]) -> str:
    """A sentence on the unread images of a part, and what to do about it."""
    folder = data.root / part
    number = counted(len(paths), "image")
    if not part:
        return f"{number} directly in {data.root} not used ({few([os.path.basename(path) for path in paths])})"
    if part.lower() in KNOWN:
        return f"{part}/: {number} not used: {KNOWN[part.lower()]}"
    if any(Path(sample.path).is_relative_to(folder) for samples in data.splits().values() for sample in samples[:1]):
        return f"{part}/: {number} in it not used ({few(inside(data, paths))}): junk, or on no list of this layout"
    identities = {path.split(os.sep)[len(folder.parts)] for path in paths if os.path.dirname(path) != str(folder)}
    if not identities:
        return f"{part}/: {number} not used"
    told = f"{part}/: {number} in {counted(len(identities), 'folder')} not used"
    if not data.folders or part.lower() not in CLOSED_SET:
        return f"{told}; if that is the data set, name it: `{command('datasets.py', 'check', folder)}`"
    shared = identities & {data.names[pid] for pid in data.train_pids()}
    if shared == identities:
        told += ": the identities of train/ again, a closed-set test, while train.py holds out images of train/ itself "
        return told + "(--val-ratio) and rank-1 needs identities that are not in train/"
    if shared:
        told += f": {len(shared)} of its identities are in train/ too ({few(sorted(shared))}), so it is no test of new "
        return told + "ones: move each identity's images to one side"
    split = command("datasets.py", "split", folder, "OUT", "--test-ratio", 1)
    return f"{told}: other identities than in train/; `{split}` makes query/ and gallery/ of them for test.py"
