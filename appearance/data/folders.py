"""Which folder of a tree is an identity: read from the names of folders, or asked for.

Most trees have one folder for each identity, and whatever lies below belongs to it. Others have a level above: cameras
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
MOST_CAMERAS = 20  # folders that a level of cameras holds at most
NEARLY_ALL = 0.9


IDENTITY, CAMERA_BELOW, CAMERA_ABOVE = "identity/", "identity/camera/", "camera/identity/"  # what a tree's levels are


class _Image(NamedTuple):
    path: str
    upper: str  # the folder among the identities, or above them
    below: tuple[str, ...]  # the folders from there to the image


def named(folder: Path, *names: str) -> Path | None:
    """The first of these that is in `folder`, in upper or lower case; where both are, the exact spelling."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    if not folder.is_dir():
        return None
    others = {child.name.lower(): child for child in sorted(folder.iterdir(), reverse=True)}
    return next((others[name.lower()] for name in names if name.lower() in others), None)


def identity_and_camera(path: str, folder: Path, level: str) -> tuple[str, str] | None:
    """The folders that are an image's identity and its camera ("" if none is), where `folder` holds the upper level.

    None for an image that lies beside the identity folders.
    """
    upper, *below = _folders(path, folder)
    if level == CAMERA_ABOVE:
        return (below[0], upper) if below else None
    return upper, below[0] if level == CAMERA_BELOW and below else ""


def _folders(path: str, folder: Path) -> list[str]:
    """The folders from `folder` to an image in it."""
    return path.split(os.sep)[len(folder.parts) : -1]


def level_of(root: Path, listing: dict[Path, dict[str, list[str]]]) -> str:
    """What the upper two levels of folders are: IDENTITY, CAMERA_BELOW or CAMERA_ABOVE.

    Args:
        root: the folder that the user named.
        listing: of each folder with folders of images (`root`, or those of its splits): their names and their images.

    Raises:
        InputError: the names do not tell which folders are identities; says which readings there are.
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
                f"{folder}: its folders are called after cameras ({few(uppers)}) and none after an identity; if the "
                f"file names tell the identity, type `{flat}` with a pattern that fits them"
            )
        return IDENTITY
    pairs = sorted({(image.upper, image.below[0]) for image in deep})
    lowers = sorted({lower for _, lower in pairs})
    if {upper.lower() for upper in uppers} <= OTHER_SPLITS:
        told = ", ".join(f"{name}/ ({counted(n, 'image')})" for name, n in Counter(i.upper for i in images).items())
        raise InputError(
            f"{root}: holds {told} and no train/, query/ or gallery/; name one of its folders, as in "
            f"`{command('datasets.py', 'check', folder / uppers[0])}`"
        )
    tree = _Tree(deep, uppers, lowers, pairs)
    level = tree.level()
    if level is None:
        raise InputError(_question(folder, len(images), uppers, lowers))
    return level


class _Tree:
    """Two levels of folders, and what their names say of them."""

    def __init__(self, images: list[_Image], uppers: list[str], lowers: list[str], pairs: list[tuple[str, str]]):
        self.images, self.uppers, self.lowers = images, uppers, lowers
        self.in_each = median(Counter(upper for upper, _ in pairs).values())  # lower folders in an upper one
        self.shared = len(pairs) > len(lowers)  # a name stands in two upper folders
        self.tracks = _are_tracks(lowers)

    def level(self) -> str | None:
        people = _all(PERSON, self.lowers)
        if _all(CAMERA, self.uppers):
            alike = len({re.sub(r"\d+", "0", lower) for lower in self.lowers}) == 1
            # the trackers of two cameras number their tracks without knowing of each other
            return CAMERA_ABOVE if not self.tracks and (self.shared or alike or people) else None
        if _all(CAMERA, self.lowers) or _all(MAYBE_CAMERA, self.lowers):
            return CAMERA_BELOW
        if _all(MAYBE_CAMERA, self.uppers) and (people or self._as_cameras()):
            return CAMERA_ABOVE
        return IDENTITY if not people and self._people_above() else None

    def _as_cameras(self) -> bool:
        """Whether upper folders called c1 may be cameras, and are not identities such as C001."""
        few_uppers = len(self.uppers) <= min(MOST_CAMERAS, self.in_each)
        return few_uppers and self.shared and not self.tracks and not self._files_named_after_upper()

    def _people_above(self) -> bool:
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
        """Whether file names begin with the upper folder's name and not with the lower one's: DukeMTMC-VideoReID."""
        telling = [image for image in self.images if image.upper != image.below[0]]
        after = sum(_begins_with(os.path.basename(image.path), image.upper) for image in telling)
        return bool(telling) and after >= NEARLY_ALL * len(telling)


def _begins_with(name: str, word: str) -> bool:
    """Whether a file name begins with a folder's name, and no longer number or word does."""
    end = r"(?!\d)" if word.isdecimal() else r"(?![^\W_])"
    return bool(re.match(re.escape(word) + end, name, re.IGNORECASE))


def _are_tracks(names: list[str]) -> bool:
    return all(TRACK.match(name) or MOMENT.search(name) for name in names)


def _question(folder: Path, images: int, uppers: list[str], lowers: list[str]) -> str:
    """The two readings of a tree, and what makes each of them plain."""
    kind = "session" if _all(TRACK, uppers) else "camera"
    upper = f"{counted(len(uppers), 'upper folder')} ({few(uppers)})"
    lower = f"{counted(len(lowers), 'folder')} below ({few(lowers)})"
    above, below = "^(?P<identity>[^/]+)/", f"^(?P<{kind}>[^/]+)/(?P<identity>[^/]+)/"
    return (
        f"{folder}: {images:,} images lie two folders deep, and the names do not tell whether an identity is one of "
        f"the {upper} or one of the {lower}; if an upper one is, type `{_flat(folder, above)}`; if a lower one is, "
        f"`{_flat(folder, below)}`, or call the upper ones cam1, cam2, ... if they are cameras"
    )


def _flat(folder: Path, pattern: str) -> str:
    return command("datasets.py", "split", folder, "OUT", "--identity", pattern)


def _refuse_datasets(root: Path, deep: list[_Image]) -> None:
    """Say where the dataset lies, if it is not `root` but a folder below.

    Raises:
        InputError: it does.
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
            f"{root}: {told} {'is a dataset' if len(found) == 1 else 'are datasets'} below it; name that folder, as in "
            f"`{command('datasets.py', 'check', first)}`"
        )


def _all(pattern: re.Pattern, names: Iterable[str]) -> bool:
    return all(pattern.match(name) for name in names)


def few(names: Sequence[str], limit: int = 3) -> str:
    """The first of the names, with dots if there are more."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def camera_numbers(names: Iterable[str]) -> dict[str, int]:
    """A number for each camera's folder: the one in its name where all have one of their own, else counted from 1."""
    names = sorted({name for name in names if name})
    told = [int(found[-1]) for name in names if (found := re.findall(r"\d{1,9}", name))]
    own = len(told) == len(names) == len(set(told))
    return dict(zip(names, told if own else range(1, len(names) + 1), strict=True))
