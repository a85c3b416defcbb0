"""Decide which level of folders holds the identities, from the folder names, or ask the user.

Most trees have one folder per identity, with everything below belonging to it. Others have a level above: cameras
(`cam_a/person_0001/`), sessions, splits, or a whole dataset.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from appearance.cli import InputError, command, counted
from appearance.data.names import MOMENT

# cam_a, cam1, camB
CAMERA = re.compile(r"(?:.*[-_. ])?cam(?:era)?s?(?:[-_. ]*\d+\w?|[-_. ]+\w+|[a-z])$", re.IGNORECASE)
MAYBE_CAMERA = re.compile(r"c[-_. ]?\d+$", re.IGNORECASE)  # c1, or an identity called C001
PERSON = re.compile(
    r"(?:p|ped|pedestrian|person|people|pid|id|identity|subject|man|woman|cow|car|veh|vehicle|animal|player|dog)"
    r"[-_. ]?\d+$",
    re.IGNORECASE,
)
TRACK = re.compile(
    r"(?:(?:t|tr|trk|s|d|v|seq)[-_. ]?\d+|(?:track|tracklet|trajectory|sequence|clip|video|session|day|date|scene|take)"
    r"(?:[-_. ]?\w+)?)$",
    re.IGNORECASE,
)
SPLITS = ("train", "query", "gallery")
OTHER_SPLITS = {"training", "train_all", "val", "valid", "validation", "dev", "test", "testing", "eval", "probe"}
DATASETS = {"bounding_box_train", "bounding_box_test", "image_train", "image_test", "bbox_train", "bbox_test", *SPLITS}
MOST_CAMERAS = 20  # a level with more folders is not taken for cameras
NEARLY_ALL = 0.9  # fraction of images that must agree


IDENTITY, CAMERA_BELOW, CAMERA_ABOVE = (
    "identity/",
    "identity/camera/",
    "camera/identity/",
)  # meaning of the upper two folder levels


class _Image(NamedTuple):
    path: str
    upper: str  # the folder directly below the root or split
    below: tuple[str, ...]  # the folders between `upper` and the image


def named(folder: Path, *names: str) -> Path | None:
    """The first of `names` that exists in `folder`, ignoring case but exact spelling first; else None."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    if not folder.is_dir():
        return None
    others = {child.name.lower(): child for child in sorted(folder.iterdir(), reverse=True)}
    return next((others[name.lower()] for name in names if name.lower() in others), None)


def identity_and_camera(path: str, folder: Path, level: str) -> tuple[str, str] | None:
    """(identity, camera) of an image in `folder`, from its folders; camera "" if unknown.

    None for an image that is in no identity folder.
    """
    upper, *below = _folders(path, folder)
    if level == CAMERA_ABOVE:
        return (below[0], upper) if below else None
    return upper, below[0] if level == CAMERA_BELOW and below else ""


def _folders(path: str, folder: Path) -> list[str]:
    """The names of the folders between `folder` and an image in it."""
    return path.split(os.sep)[len(folder.parts) : -1]


def level_of(root: Path, listing: dict[Path, dict[str, list[str]]]) -> str:
    """The meaning of the upper two folder levels: IDENTITY, CAMERA_BELOW or CAMERA_ABOVE.

    Args:
        root: the folder that the user named.
        listing: `root` or the folders of its splits -> {name of a folder inside: paths of its images}.

    Raises:
        InputError: the folder names are ambiguous; the message has the command for each reading.
    """
    images = []
    for folder, uppers in listing.items():
        for path in (path for paths in uppers.values() for path in paths):
            upper, *below = _folders(path, folder)
            images.append(_Image(path, upper, tuple(below)))
    folder = next(iter(listing), root)
    uppers = sorted({image.upper for image in images})
    deep = [image for image in images if image.below]
    if folder == root:
        _refuse_datasets(root, deep)
    if not images or len(deep) < NEARLY_ALL * len(images):
        if len(uppers) > 1 and _all(CAMERA, uppers):
            flat = _flat(folder, "^(?P<camera>[^/]+)/(?P<identity>[^/]+)[.]")
            raise InputError(
                f"{folder}: its folders are cameras ({few(uppers)}) and none is an identity; if the file names "
                f"contain the identity, run `{flat}` with a pattern that fits them"
            )
        return IDENTITY
    pairs = sorted({(image.upper, image.below[0]) for image in deep})
    lowers = sorted({lower for _, lower in pairs})
    if {upper.lower() for upper in uppers} <= OTHER_SPLITS:
        told = ", ".join(f"{name}/ ({counted(n, 'image')})" for name, n in Counter(i.upper for i in images).items())
        raise InputError(
            f"{root}: holds {told} but no train/, query/ or gallery/; give one of its folders, as in "
            f"`{command('datasets.py', 'check', folder / uppers[0])}`"
        )
    tree = _Tree(deep, uppers, lowers, pairs)
    level = tree.level()
    if level is None:
        raise InputError(_question(folder, len(images), uppers, lowers))
    return level


class _Tree:
    """Two levels of folders, and evidence from their names."""

    def __init__(self, images: list[_Image], uppers: list[str], lowers: list[str], pairs: list[tuple[str, str]]):
        self.images, self.uppers, self.lowers = images, uppers, lowers
        self.in_each = median(Counter(upper for upper, _ in pairs).values())  # lower folders per upper folder
        self.shared = len(pairs) > len(lowers)  # a lower name occurs in several upper folders
        self.tracks = _are_tracks(lowers)

    def level(self) -> str | None:
        """IDENTITY, CAMERA_BELOW or CAMERA_ABOVE; None if ambiguous."""
        people = _all(PERSON, self.lowers)
        if _all(CAMERA, self.uppers):
            alike = len({re.sub(r"\d+", "0", lower) for lower in self.lowers}) == 1
            # not for tracks: track 1 of two cameras is not the same person
            return CAMERA_ABOVE if not self.tracks and (self.shared or alike or people) else None
        if _all(CAMERA, self.lowers) or _all(MAYBE_CAMERA, self.lowers):
            return CAMERA_BELOW
        if _all(MAYBE_CAMERA, self.uppers) and (people or self._as_cameras()):
            return CAMERA_ABOVE
        return IDENTITY if not people and self._people_above() else None

    def _as_cameras(self) -> bool:
        """Whether upper folders named like c1 are cameras, and not identities such as C001."""
        few_uppers = len(self.uppers) <= min(MOST_CAMERAS, self.in_each)
        return few_uppers and self.shared and not self.tracks and not self._files_named_after_upper()

    def _people_above(self) -> bool:
        """Whether the upper folders are the identities."""
        if _all(PERSON, self.uppers):
            return True
        if _are_tracks(self.uppers):
            return False
        if self.tracks or self._files_named_after_upper():
            return True
        if _all(MAYBE_CAMERA, self.uppers) and self.shared and len(self.uppers) <= MOST_CAMERAS:
            return False
        numbers = all(name.isdecimal() for name in self.uppers + self.lowers)
        return len(self.uppers) > self.in_each or (numbers and not self.shared and len(self.uppers) > 1)

    def _files_named_after_upper(self) -> bool:
        """Whether file names begin with the upper folder's name, as in DukeMTMC-VideoReID."""
        telling = [image for image in self.images if image.upper != image.below[0]]
        after = sum(_begins_with(os.path.basename(image.path), image.upper) for image in telling)
        return bool(telling) and after >= NEARLY_ALL * len(telling)


def _begins_with(name: str, word: str) -> bool:
    """Whether a file name begins with `word` as a whole word or number."""
    end = r"(?!\d)" if word.isdecimal() else r"(?![^\W_])"
    return bool(re.match(re.escape(word) + end, name, re.IGNORECASE))


def _are_tracks(names: list[str]) -> bool:
    return all(TRACK.match(name) or MOMENT.search(name) for name in names)


def _question(folder: Path, images: int, uppers: list[str], lowers: list[str]) -> str:
    """The error text for an ambiguous tree, with a command for each reading."""
    kind = "session" if _all(TRACK, uppers) else "camera"
    upper = f"{counted(len(uppers), 'upper folder')} ({few(uppers)})"
    lower = f"{counted(len(lowers), 'folder')} below ({few(lowers)})"
    above, below = "^(?P<identity>[^/]+)/", f"^(?P<{kind}>[^/]+)/(?P<identity>[^/]+)/"
    return (
        f"{folder}: {images:,} images lie two folders deep, and it is unclear which folders are the identities: the "
        f"{upper} or the {lower}; if the upper ones, run `{_flat(folder, above)}`; if the lower ones, run "
        f"`{_flat(folder, below)}`, or rename the upper folders to cam1, cam2, ... if they are cameras"
    )


def _flat(folder: Path, pattern: str) -> str:
    return command("datasets.py", "split", folder, "OUT", "--identity", pattern)


def _refuse_datasets(root: Path, deep: list[_Image]) -> None:
    """Refuse a `root` that holds a dataset in a folder below.

    Raises:
        InputError: there is one; the message names its folder.
    """
    inside = [(image.upper, *image.below) for image in deep]
    found = {parts[:depth]: 0 for parts in inside for depth in range(1, len(parts)) if parts[depth].lower() in DATASETS}
    for parts in inside:
        for one in found:
            found[one] += parts[: len(one)] == one
    if found:
        told = ", ".join(f"{'/'.join(parts)}/ ({counted(images, 'image')})" for parts, images in found.items())
        first = root.joinpath(*max(found, key=found.get))
        raise InputError(
            f"{root}: the {'dataset is' if len(found) == 1 else 'datasets are'} in {told}; give that folder, as in "
            f"`{command('datasets.py', 'check', first)}`"
        )


def _all(pattern: re.Pattern, names: Iterable[str]) -> bool:
    return all(pattern.match(name) for name in names)


def few(names: Sequence[str], limit: int = 3) -> str:
    """The first `limit` names as text, with dots if there are more."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def camera_numbers(names: Iterable[str]) -> dict[str, int]:
    """Camera folder -> number: the last number in its name if all differ, else 1, 2, ... in sorted order."""
    names = sorted({name for name in names if name})
    told = [int(found[-1]) for name in names if (found := re.findall(r"\d{1,9}", name))]
    own = len(told) == len(names) == len(set(told))
    return dict(zip(names, told if own else range(1, len(names) + 1), strict=True))
