"""From a folder to samples: recognise the layout, read identities and cameras from names.

Layouts:

* class folders: `ROOT/<identity>/*.jpg`, or `ROOT/train/<identity>/` with `ROOT/query/` and `ROOT/gallery/`; with
  camera folders above (`ROOT/cam_a/<identity>/*.jpg`) or below the identities (see `folders.py`);
* Market-1501, DukeMTMC-reID and VeRi: `bounding_box_train/`, `query/`, `bounding_box_test/`
  (`image_train/`, `image_query/`, `image_test/`), identities and cameras in the file names;
* MARS: `bbox_train/`, `bbox_test/` and `info/` with the official tracklets;
* MSMT17: `train/`, `test/` (`mask_train_v2/`, `mask_test_v2/`) and the official lists, `list_train.txt` and so on;
* RandPerson: `randperson_subset/` with images such as `000012_s03_c01_f000776.jpg`, training only;
* ClonedPerson: the same names in `train/`, `test/query/` and `test/gallery/`.

Folder names are matched ignoring case.
"""

import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from appearance.cli import InputError, command
from appearance.data.folders import (
    CAMERA_ABOVE,
    NEARLY_ALL,
    SPLITS,
    camera_numbers,
    few,
    identity_and_camera,
    level_of,
    named,
)
from appearance.data.names import (
    OWN_CAMERA,
    SEQUENCE_FRAMES,
    UNKNOWN,
    NameParts,
    are_serial,
    parse_name,
    without_word,
)
from appearance.identities import DISTRACTOR, JUNK, nobody
from appearance.reading import matlab_arrays, text_of

OTHER_KINDS = (
    ".gif",
    ".avif",
    ".heic",
    ".heif",
    ".jxl",
    ".jp2",
    ".jfif",
    ".tga",
)  # image formats that are not supported


# ---------------------------------------------------------------------------------------------------------------------
# Layouts


class Sample(NamedTuple):
    """One image. Camera, tracklet and time (in frames) are -1 if unknown; `identities.py` explains `pid` -1 and 0."""

    path: str
    pid: int
    camera: int = UNKNOWN
    tracklet: int = UNKNOWN
    time: int = UNKNOWN


@dataclass
class ReIDData:
    """A dataset's splits, each sorted by path."""

    root: Path
    layout: str
    train: list[Sample] = field(default_factory=list)
    query: list[Sample] = field(default_factory=list)
    gallery: list[Sample] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)  # pid -> name of its folder, or its number in file names
    untestable: str = ""  # why query and gallery could not be read
    sequences: list[Path] = field(default_factory=list)  # video folders among the identity folders, not read
    folders: dict[str, Path] = field(default_factory=dict)  # class folders only: split -> its folder
    by_session: bool = False  # `camera` is a session number
    notes: list[str] = field(default_factory=list)  # for the user, mostly about file names

    @property
    def can_evaluate(self) -> bool:
        """Whether query and gallery both have images."""
        return bool(self.query and self.gallery)

    def splits(self) -> dict[str, list[Sample]]:
        """Split name -> its samples."""
        return {"train": self.train, "query": self.query, "gallery": self.gallery}

    def tested(self) -> list[Sample]:
        """The query and gallery samples without distractors and junk."""
        without = nobody(sample.pid for sample in self.query)
        return [sample for sample in self.query + self.gallery if sample.pid not in without]

    def train_pids(self) -> list[int]:
        """The training identities, sorted: a sample's label is the position of its pid here."""
        return sorted({sample.pid for sample in self.train})


def find(root: str | os.PathLike) -> ReIDData:
    """Recognise the layout under `root` and list its samples. Images are not opened.

    Raises:
        InputError: `root` is not a folder, is a video sequence, or has no recognised layout.
    """
    root = Path(root)
    try:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; check the path")
        if is_sequence(root):
            raise InputError(sequence_hint(root))
        data = _without_serials(_read(root))
        if data.sequences and not (data.train or data.query or data.gallery):
            raise InputError(sequence_hint(data.sequences[0]))
        if not (data.train or data.query or data.gallery):
            raise InputError(f"{root}: {_why_empty(root)}")
    except OSError as error:
        raise InputError(f"{error.filename or root}: cannot be read ({error.strerror})") from None
    return data


def _read(root: Path) -> ReIDData:
    for name, marks, read in LAYOUTS:
        if any(_below(root, mark) for mark in marks):
            return read(root, name)
    return _read_class_folders(root)


def _below(root: Path, path: str) -> Path | None:
    """The file or folder `path` below `root`, ignoring case; None if missing."""
    found: Path | None = root
    for name in path.split("/"):
        found = found and named(found, name)
    return found


def _without_serials(data: ReIDData) -> ReIDData:
    """Drop `time` if the numbers in the file names count all images of the dataset and are not frame numbers."""
    samples = [sample for part in data.splits().values() for sample in part if sample.tracklet == UNKNOWN]
    timed = [sample for sample in samples if sample.time != UNKNOWN]
    if timed and are_serial([s.time for s in timed], [s.pid for s in timed]):
        examples = few([os.path.basename(sample.path) for sample in timed], 2)
        data.notes.append(
            f"the numbers in the file names count all images ({examples}) and are not used as frame numbers"
        )
        for part in data.splits().values():
            part[:] = [sample._replace(time=UNKNOWN) for sample in part]
    return data


def merged(sets: Sequence[ReIDData]) -> ReIDData:
    """Combine datasets for training; identities and cameras of different datasets stay different.

    Root, query and gallery are those of the first dataset that has both. The name of an identity is
    "<dataset folder>/<its name there>".
    """
    tested = next((data for data in sets if data.can_evaluate), sets[0])
    whole = ReIDData(tested.root, " + ".join(data.layout for data in sets))
    whole.by_session = all(data.by_session for data in sets)
    whole.notes = [note for data in sets for note in data.notes]
    cameras = 0
    for data in sets:
        splits = data.splits() if data is tested else {"train": data.train}
        everything = [sample for samples in splits.values() for sample in samples]
        without = nobody(s.pid for s in data.query)
        people = {s.pid for s in data.train} | {s.pid for s in everything if s.pid not in without}
        pids = {pid: number for number, pid in enumerate(sorted(people), start=max(whole.names, default=0) + 1)}
        whole.names |= {pids[pid]: f"{data.root.name}/{data.names[pid]}" for pid in people}
        for split, samples in splits.items():
            getattr(whole, split).extend(
                s._replace(
                    pid=s.pid if split != "train" and s.pid in without else pids[s.pid],
                    camera=s.camera if s.camera == UNKNOWN else s.camera + cameras,
                )
                for s in samples
            )
        cameras += max((s.camera for s in everything), default=0) + 1
    return whole


def _named_images(
    root: Path, folders: dict[str, tuple[str, ...]], as_in: str
) -> Iterator[tuple[str, str, str, NameParts]]:
    """(split, path, file name, parsed name) of each image.

    Args:
        folders: split -> possible names of its folder; the first that exists is read.
        as_in: end of the error message: what a name must contain, with an example.

    Raises:
        InputError: a file name has no identity.
    """
    for split, names in folders.items():
        folder = next((found for name in names if (found := _below(root, name)) and found.is_dir()), None)
        for path in images(folder) if folder else []:
            name = os.path.basename(path)
            parts = parse_name(name)
            if parts.pid is None:
                raise InputError(f"{path}: the file name does not have {as_in}; rename it, or use class folders")
            yield split, path, name, parts


def _read_market(root: Path, layout: str) -> ReIDData:
    data = ReIDData(root, layout)
    folders = {
        "train": ("bounding_box_train", "image_train"),
        "query": ("query", "image_query"),
        "gallery": ("bounding_box_test", "image_test"),
    }
    for split, path, name, parts in _named_images(root, folders, "identity and camera as in 0002_c1s1_000451_03.jpg"):
        if split == "train" and parts.pid == JUNK:
            continue
        getattr(data, split).append(Sample(path, parts.pid, parts.camera, time=parts.time))
        data.names.setdefault(parts.pid, name.split("_")[0])
    return data


def _read_mars(root: Path, layout: str) -> ReIDData:
    data = ReIDData(root, layout)
    tracklets: dict[str, int] = {}
    for path in images(_below(root, "bbox_train") or root / "bbox_train"):
        sample = _mars_sample(path, tracklets)
        if sample.pid != JUNK:
            data.train.append(sample)
            data.names.setdefault(sample.pid, f"{sample.pid:04d}")
    if _below(root, "bbox_test"):
        try:
            data.query, data.gallery = _read_mars_test(root)
            data.names |= {s.pid: f"{s.pid:04d}" for s in data.tested()}
        except NotThere as missing:  # training is still possible
            data.untestable = str(missing)
    return data


class NotThere(InputError):
    """Files that only testing needs are missing."""


def _mars_sample(path: str, tracklets: dict[str, int]) -> Sample:
    name = os.path.basename(path)
    parts = parse_name(name)
    if parts.pid is None or parts.tracklet == UNKNOWN:
        raise InputError(f"{path}: is not a MARS file name such as 0001C1T0002F003.jpg; rename or remove it")
    key = name.split("F")[0]
    tracklet = tracklets.setdefault(key, len(tracklets))
    return Sample(path, parts.pid, parts.camera, tracklet, parts.tracklet * SEQUENCE_FRAMES + parts.frame)


def _read_mars_test(root: Path) -> tuple[list[Sample], list[Sample]]:
    """Query and gallery samples from the official tracklet lists; query tracklets are not in the gallery."""
    info, test = _below(root, "info") or root / "info", _below(root, "bbox_test")
    tracks = _mat(info / "tracks_test_info.mat", "track_test_info").astype(
        np.int64
    )  # (T, 4) first image, last image, pid, camera
    query_rows = set((_mat(info / "query_IDX.mat", "query_IDX").astype(np.int64).ravel() - 1).tolist())
    names_file = info / "test_name.txt"
    if not names_file.is_file():
        raise NotThere(f"{names_file}: missing; testing on MARS needs the official info/ folder")
    names = text_of(names_file).split()
    fits = tracks.ndim == 2 and tracks.shape[1] == 4 and len(tracks) > 0
    if not fits or tracks[:, 0].min() < 1 or tracks[:, 1].max() > len(names):
        raise InputError(f"{info / 'tracks_test_info.mat'}: does not fit test_name.txt; use the official files")
    query, gallery = [], []
    for row, (first, last, pid, camera) in enumerate(tracks.tolist()):
        split = query if row in query_rows else gallery
        for name in names[first - 1 : last]:
            path = test / name[:4] / name
            parts = parse_name(name)
            split.append(Sample(str(path), pid, camera, row, max(parts.tracklet, 0) * SEQUENCE_FRAMES + parts.frame))
    return query, gallery


def _mat(path: Path, key: str) -> np.ndarray:
    """The array `key` of a MATLAB file, or the file's only array."""
    if not path.is_file():
        raise NotThere(f"{path}: missing; testing on MARS needs the official info/ folder")
    try:
        content = matlab_arrays(path)
    except ImportError:
        raise NotThere(f"{path}: reading this file needs scipy: pip install scipy") from None
    array = content.get(key, next(iter(content.values())) if len(content) == 1 else None)
    if array is None:
        raise InputError(f"{path}: has no numeric array {key}; use the official file")
    return array


def _read_msmt(root: Path, layout: str) -> ReIDData:
    """Samples from the official lists. Train and test both count identities from 0; here test follows after train."""
    data = ReIDData(root, layout)
    lists = {"train": ("train", "val"), "query": ("query",), "gallery": ("gallery",)}
    first = 1
    for split, names in lists.items():
        half = "train" if split == "train" else "test"
        folder = named(root, half, f"mask_{half}_v2") or root / half
        for file in filter(None, (named(root, f"list_{name}.txt") for name in names)):
            for line in text_of(file).splitlines():
                try:
                    name, label = line.split()  # 0000/0000_000_01_0303morning_0008_0.jpg 0
                    sample = Sample(str(folder / name), first + int(label), int(name.split("_")[2]))
                except (ValueError, IndexError):
                    raise InputError(
                        f"{file}: {line[:80]!r} is not an image and its identity number; use the official list"
                    ) from None
                getattr(data, split).append(sample)
                data.names.setdefault(sample.pid, f"{half} {int(label):04d}")
        if split == "train":
            first = max(data.names, default=0) + 1
        getattr(data, split).sort()
    return data


def _read_scenes(root: Path, layout: str) -> ReIDData:
    """RandPerson and ClonedPerson: file names have identities (from 0), scenes, and cameras numbered per scene."""
    data = ReIDData(root, layout)
    folders = {"train": ("randperson_subset", "train"), "query": ("test/query",), "gallery": ("test/gallery",)}
    as_in = "identity, scene and camera as in 000012_s03_c01_f000776.jpg"
    for split, path, name, parts in _named_images(root, folders, as_in):
        getattr(data, split).append(Sample(path, parts.pid + 1, parts.camera, time=parts.time))
        data.names.setdefault(parts.pid + 1, name.split("_")[0])
    return data


LAYOUTS: tuple[tuple[str, tuple[str, ...], Callable[[Path, str], ReIDData]], ...] = (
    ("Market-1501", ("bounding_box_train", "bounding_box_test", "image_train", "image_test"), _read_market),
    ("MARS", ("bbox_train", "bbox_test"), _read_mars),
    ("MSMT17", ("list_train.txt", "list_query.txt"), _read_msmt),
    ("RandPerson", ("randperson_subset",), _read_scenes),
    ("ClonedPerson", ("test/query", "test/gallery"), _read_scenes),
)


def _read_class_folders(root: Path) -> ReIDData:
    folders = {split: found for split in SPLITS if (found := named(root, split)) and found.is_dir()} or {"train": root}
    listing = {split: _identity_folders(folder) for split, folder in folders.items()}
    sequences = []
    for split, identities in listing.items():
        for name in [name for name in identities if is_sequence(folders[split] / name)]:
            del identities[name]
            sequences.append(folders[split] / name)
    level = level_of(root, {folders[split]: identities for split, identities in listing.items()})
    found = {
        split: [
            (path, *place)
            for paths in identities.values()
            for path in paths
            if (place := identity_and_camera(path, folders[split], level))
        ]
        for split, identities in listing.items()
    }
    names = listing if level != CAMERA_ABOVE else {split: {who for _, who, _ in part} for split, part in found.items()}
    data = ReIDData(root, "class folders", sequences=sequences, folders=folders)
    if level == CAMERA_ABOVE:
        data.layout = "class folders below camera folders"
    add_class_samples(data, found, number_identities(names), always=level == CAMERA_ABOVE)
    return data


def add_class_samples(
    data: ReIDData, found: dict[str, list[tuple[str, str, str]]], pids: dict[str, int], always: bool = True
) -> None:
    """Add samples to `data`, with identity and camera given by name.

    Args:
        found: split -> list of (path, identity, camera); camera "" if unknown.
        pids: identity -> pid.
        always: use `camera` even if the file name contains a camera as well.
    """
    data.names = {pid: name for name, pid in pids.items()}
    everything = [one for part in found.values() for one in part]
    cameras = camera_numbers(camera for _, _, camera in everything)
    own = _own_names([(path, identity) for path, identity, _ in everything])
    for split, part in found.items():
        samples = getattr(data, split)
        for path, identity, camera in part:
            name = os.path.basename(path)
            parts = parse_name(without_word(name, identity) if identity in own else name)
            if camera and (always or parts.camera == UNKNOWN):
                parts = parts._replace(camera=cameras[camera])
            data.by_session |= parts.by_session
            samples.append(Sample(path, pids[identity], parts.camera, time=parts.time))
        samples.sort(key=lambda sample: sample.path.split(os.sep))
    people = [s for s in (*data.train, *data.tested()) if s.camera != UNKNOWN]
    if own:
        data.notes.append(f"the file names contain the identity ({few(sorted(own))}), which is not used as a camera")
    elif _number_identity(people):
        data.notes.append(
            f"the number after c in the file names ({few([os.path.basename(s.path) for s in people], 2)}) numbers the "
            "identities and is not used as a camera"
        )
        for part in data.splits().values():
            part[:] = [sample._replace(camera=UNKNOWN) for sample in part]


def _own_names(images: list[tuple[str, str]]) -> set[str]:
    """Identities that look like cameras (C001) and are repeated in their images' names (C001_0007.jpg)."""
    images = [(path, who) for path, who in images if OWN_CAMERA.match(who)]
    repeated = [who for path, who in images if without_word(os.path.basename(path), who) != os.path.basename(path)]
    return set(repeated) if len(repeated) >= NEARLY_ALL * len(images) else set()


def _number_identity(samples: list[Sample]) -> bool:
    """Whether the number read as a camera (after a plain c) is really an identity number."""
    pairs = {(sample.pid, sample.camera) for sample in samples}
    one_each = len(pairs) == len({pid for pid, _ in pairs}) == len({camera for _, camera in pairs}) >= 3
    return one_each and all(
        parse_name(os.path.basename(s.path)).pid is None and "cam" not in s.path.rsplit(os.sep, 1)[-1].lower()
        for s in samples
    )


def number_identities(listing: dict[str, Iterable[str]]) -> dict[str, int]:
    """Folder name -> pid. If all names are numbers they are the pids, else names are numbered from 1 in sorted order.

    A gallery may have Market-1501's special folders `-1` (junk) and `0000` (distractors). Anywhere else 0 is an
    ordinary person, so numbers are the pids only if 0 is not among them.
    """
    special = {}
    if "gallery" in listing:
        elsewhere = {name for split, identities in listing.items() if split != "gallery" for name in identities}
        special = {n: p for n, p in (("-1", JUNK), ("0000", DISTRACTOR)) if n not in elsewhere}
    people = sorted({name for identities in listing.values() for name in identities} - set(special))
    numbers = {int(name) for name in people if name.isdecimal() and len(name) <= 18}  # 18 digits fit in an int64
    if len(numbers) == len(people) and 0 not in numbers:
        return special | {name: int(name) for name in people}
    return special | {name: number for number, name in enumerate(people, start=1)}


def _identity_folders(folder: Path) -> dict[str, list[str]]:
    """Identity folder -> paths of its images, sorted. Images have the extensions of torchvision's ImageFolder."""
    return {
        child.name: images(child)
        for child in sorted(folder.iterdir())
        if child.is_dir() and not child.name.startswith(".")
    }


def images(folder: Path, kinds: tuple[str, ...] = IMG_EXTENSIONS) -> list[str]:
    """All files below `folder` with these extensions, sorted; follows links, skips hidden files."""
    found, seen = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_unless_missing):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder already visited
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [os.path.join(parent, f) for f in files if f.lower().endswith(kinds) and not f.startswith(".")]
    return sorted(found, key=lambda path: path.split(os.sep))


def is_sequence(folder: Path) -> bool:
    """Whether a folder is a video in MOT format."""
    return (folder / "img1").is_dir()


def sequence_hint(folder: Path) -> str:
    """The error text for a video in place of a dataset or an identity folder."""
    crops = f"python datasets.py crops {shlex.quote(str(folder))} OUT"
    return f"{folder}: is a video sequence (it has img1/), not a folder of crops; run `{crops}` first"


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _why_empty(root: Path) -> str:
    """The error text for a folder without samples."""
    flat = images(root)
    if flat:
        told = f"its {len(flat):,} images are not in identity folders, such as {os.path.relpath(flat[0], root)}; "
        if all(parse_name(os.path.basename(path)).pid is not None for path in flat):
            return told + f"the file names contain identities, so run `{command('datasets.py', 'split', root, 'OUT')}`"
        between = next((c for c in Path(flat[0]).stem if c in "_- ."), "_")  # the separator after the first word
        how = command("datasets.py", "split", root, "OUT", "--identity", f"^([^{between}]+)")
        told += "move each person's images into a folder, ROOT/<identity>/*.jpg, or give a pattern or CSV file for the "
        return told + f"identities, as in `{how}` (docs/data.md)"
    others = images(root, OTHER_KINDS)
    if others:
        return f"{len(others):,} images in formats that are not supported, such as {others[0]}; convert to .jpg or .png"
    return (
        "no images found; expected ROOT/<identity>/*.jpg, or train/ query/ gallery/ with such folders, "
        "or the layout of Market-1501, MARS, MSMT17, RandPerson or ClonedPerson"
    )
