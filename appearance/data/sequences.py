"""Sequences of frames in MOT format: frames, annotations, detections and the results of trackers.

    SEQUENCE/img1/000001.jpg   frames; the digits that end a name are its number (frame_000001.jpg is frame 1)
    SEQUENCE/gt/gt.txt         annotations: frame, track, left, top, width, height, consider, class, visibility
    SEQUENCE/gt/labels.txt     names of the classes, one a line, where they are not MOTChallenge's (CVAT writes it)
    SEQUENCE/det/det.txt       detections: frame, -1, left, top, width, height, confidence
    SEQUENCE/seqinfo.ini       name, imDir, frameRate; may be missing

A tracker's results have the columns of detections with a track number in the second. Columns are separated by commas
or spaces, and those after the sixth may be missing. MOT15 and results have coordinates in the world, mostly -1, where
MOT16, 17 and 20 have class and visibility: those are taken for what they are by their values.
"""

import configparser
import re
import shlex
import warnings
from collections.abc import Sequence as Rows
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from appearance.cli import InputError

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
FRAME_RATE = 25.0  # frames a second where nothing tells
NO_CLASS = -1
MOT_CLASSES = {
    **{1: "pedestrian", 2: "person on vehicle", 3: "car", 4: "bicycle", 5: "motorbike", 6: "non-motorised vehicle"},
    **{7: "static person", 8: "distractor", 9: "occluder", 10: "occluder on the ground", 11: "occluder full"},
    **{12: "reflection", 13: "crowd"},
}
PEOPLE = {"pedestrian", "person", "people", "human"}


@dataclass
class Boxes:
    """The N rows of a file, by frame."""

    frame: np.ndarray  # (N,) int
    track: np.ndarray  # (N,) int, negative where there is none
    box: np.ndarray  # (N, 4) float: left, top, width, height in pixels
    confidence: np.ndarray  # (N,) float: a detector's, or 0 where an annotation is not to be considered; 1 if unknown
    kind: np.ndarray  # (N,) int: class, NO_CLASS where the file does not tell
    visibility: np.ndarray  # (N,) float: visible share, NaN where the file does not tell

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows) -> "Boxes":
        return Boxes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def by_frame(self) -> dict[int, "Boxes"]:
        numbers, starts = np.unique(self.frame, return_index=True)
        stops = [*starts[1:], len(self)]
        return {int(n): self[start:stop] for n, start, stop in zip(numbers, starts, stops, strict=False)}


def read_boxes(path: Path) -> Boxes:
    """Annotations, detections or results.

    Raises:
        InputError: the file is missing, or is no table of six numeric columns or more.
    """
    try:
        lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip() and line[0] != "#"]
        delimiter = "," if lines and "," in lines[0] else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no rows: a video in which nothing was found
            table = np.loadtxt(lines, delimiter=delimiter, ndmin=2) if lines else np.empty((0, 10))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error).split(";")[0]
        raise InputError(f"{path}: not a table of frame, track, left, top, width, height, ... ({reason})") from None
    if table.shape[1] < 6:
        raise InputError(f"{path}: has {table.shape[1]} columns; frame, track, left, top, width and height are needed")
    known = table[:, :6]
    if not np.isfinite(known).all() or (table[:, :2] % 1 != 0).any():
        row = int((~np.isfinite(known).all(1) | (table[:, :2] % 1 != 0).any(1)).argmax())
        raise InputError(f"{path}: row {row + 1} has frame, track or box numbers that are none: {lines[row].strip()}")
    table = table[table[:, 0].argsort(kind="stable")]
    count, columns = table.shape
    confidence = table[:, 6] if columns > 6 else np.ones(count)
    kind, visibility = np.full(count, NO_CLASS), np.full(count, np.nan)
    if columns > 8 and (table[:, 7] % 1 == 0).all() and ((table[:, 8] >= 0) & (table[:, 8] <= 1)).all():
        kind, visibility = table[:, 7].astype(int), table[:, 8]
    return Boxes(table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2:6], confidence, kind, visibility)


def result_lines(frame: Rows[int], track: Rows[int], box: np.ndarray) -> str:
    """Results in MOT format, one line a box."""
    rows = zip(frame, track, box, strict=True)
    return "".join(f"{f},{t},{b[0]:.2f},{b[1]:.2f},{b[2]:.2f},{b[3]:.2f},1,-1,-1,-1\n" for f, t, b in rows)


class Sequence:
    """One camera's frames and what is known about them.

    Raises:
        InputError: it is a video, or a folder without frames; says how to make frames.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        if self.folder.suffix.lower() in VIDEOS and not self.folder.is_dir():
            raise InputError(f"{folder}: is a video; make frames of it first: {_ffmpeg(self.folder)}")
        if not self.folder.is_dir():
            raise InputError(f"{folder}: no such sequence; a folder with img1/ is needed")
        info = self._info()
        self.name = info.get("name", self.folder.resolve().name)
        self.rate = _number(info.get("frameRate")) or FRAME_RATE
        self.gt, self.det = self.folder / "gt" / "gt.txt", self.folder / "det" / "det.txt"
        self.frames = self._frames(self.folder / info.get("imDir", "img1"))

    @cached_property
    def annotations(self) -> Boxes:
        if not self.gt.is_file():
            raise InputError(
                f"{self.gt}: missing; annotate people there, or take a tracker's results as they are: --tracks FILE"
            )
        return read_boxes(self.gt)

    @cached_property
    def detections(self) -> Boxes:
        if not self.det.is_file():
            raise InputError(f"{self.det}: missing; write a detector's boxes there: frame,-1,left,top,width,height,1")
        return read_boxes(self.det)

    def classes(self) -> dict[int, str]:
        """Number -> name of the classes in the annotations, of labels.txt or else MOTChallenge's."""
        labels = self.gt.with_name("labels.txt")
        if not labels.is_file():
            return MOT_CLASSES
        names = labels.read_text("utf-8-sig", errors="replace").splitlines()
        return {number: name.strip() for number, name in enumerate(names, start=1) if name.strip()}

    def of_classes(self, rows: Boxes, names: Rows[str] = ()) -> tuple[np.ndarray, str]:
        """Which annotations are of these classes, names or numbers (N,), and what the others are.

        Without names those of people, or of the one class there is; where the file tells no classes, all.

        Raises:
            InputError: there is no such class, or none of them is of people; lists those there are.
        """
        if (rows.kind == NO_CLASS).all():
            if names:
                raise InputError(f"--classes: {self.gt} does not tell classes")
            return np.ones(len(rows), bool), ""
        classes = self.classes()
        by_name = {name.lower(): number for number, name in classes.items()}
        if names:
            wanted = {name: by_name.get(name.lower(), int(name) if name.isdecimal() else None) for name in names}
        else:
            wanted = {name: number for name, number in by_name.items() if name in PEOPLE or len(classes) == 1}
        missing = [name for name, number in wanted.items() if number is None]
        if missing or not wanted:
            what = f"{missing[0]}: no class" if missing else "choose what to keep"
            raise InputError(f"--classes {what} of {self.folder}; it has {', '.join(classes.values())}")
        return np.isin(rows.kind, list(wanted.values())), f"of other classes than {', '.join(wanted)}"

    @staticmethod
    def considered(rows: Boxes, names: Rows[str] = ()) -> np.ndarray:
        """Which annotations are to be considered (N,).

        MOTChallenge considers pedestrians alone: of classes that were asked for by `names` and of which nothing is to
        be considered, the flag says nothing.
        """
        considered = rows.confidence != 0
        for kind in np.unique(rows.kind) if names else ():
            considered |= (rows.kind == kind) & ~considered[rows.kind == kind].any()
        return considered

    def people(self) -> Boxes:
        """The annotated people that a tracker is to find."""
        rows = self.annotations[self.of_classes(self.annotations)[0]]
        return rows[self.considered(rows)]

    def _info(self) -> dict[str, str]:
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # names as they are
        try:
            parser.read(self.folder / "seqinfo.ini", "utf-8-sig")
        except (configparser.Error, UnicodeDecodeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.folder / 'seqinfo.ini'}: cannot be read ({reason}); it may be left out") from None
        return dict(parser["Sequence"]) if parser.has_section("Sequence") else {}

    def _frames(self, images: Path) -> dict[int, Path]:
        """Frame number -> file. Files from 0 on are counted from 1, as MOT does, unless a box names frame 0."""
        if not images.is_dir():
            raise InputError(f"{self.folder}: has no {images.name}/ with frames{self._hint()}")
        frames: dict[int, Path] = {}
        for path in sorted(images.iterdir()):
            digits = re.search(r"(\d+)$", path.stem)
            if digits and path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith("."):
                number = int(digits[1])
                if number in frames:
                    raise InputError(f"{images}: {frames[number].name} and {path.name} are both frame {number}")
                frames[number] = path
        if not frames:
            raise InputError(f"{images}: no frames; they are images whose names end in their number, as 000001.jpg")
        named = [read_boxes(path).frame for path in (self.gt, self.det) if path.is_file()]
        if 0 in frames and not any(len(frame) and frame[0] == 0 for frame in named):
            return {number + 1: path for number, path in frames.items()}
        return frames

    def _hint(self) -> str:
        below = sorted(path.parent for path in self.folder.glob("*/img1"))
        if below:
            return f"; name the sequences in it, such as {below[0]}"
        videos = sorted(path for path in self.folder.iterdir() if path.suffix.lower() in VIDEOS)
        return f"; make them of its video: {_ffmpeg(videos[0], self.folder)}" if videos else ""


def _ffmpeg(video: Path, folder: Path | None = None) -> str:
    """The line that turns a video into the frames of a sequence."""
    images = (folder or video.with_suffix("")) / "img1"
    make, into = shlex.quote(str(images)), shlex.quote(str(images / "%06d.jpg"))
    return f"mkdir -p {make} && ffmpeg -i {shlex.quote(str(video))} -q:v 2 {into}"


def _number(text: str | None) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
