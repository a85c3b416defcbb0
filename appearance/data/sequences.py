"""Sequences of frames in MOT format: a camera's pictures, and the boxes that belong to them.

    SEQUENCE/img1/000001.jpg   pictures; the digits that end a name are its number (frame_000001.jpg is picture 1)
    SEQUENCE/gt/gt.txt         annotations
    SEQUENCE/gt/labels.txt     names of the classes, one a line, where they are not MOTChallenge's (CVAT writes it)
    SEQUENCE/det/det.txt       detections
    SEQUENCE/seqinfo.ini       name, imDir, frameRate; may be missing

`boxes.py` says what stands in a file of boxes. Pictures and files of boxes count on their own: pictures may start at
any number, and a file may call the first picture 0, 1, or by the number in its name. `Sequence.read` finds out which,
for each file from the numbers in that file, and gives its boxes the numbers of the pictures they mean.
"""

import configparser
import os
import re
import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence as Rows
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from appearance.cli import InputError
from appearance.data.boxes import ANNOTATIONS, DETECTIONS, NO_CLASS, TRACKS, Boxes, flag_of, read_boxes
from appearance.data.images import load_rgb
from appearance.data.numbering import FLAGS, Undecided, first_number, picture_numbers, readings_of
from appearance.reading import text_of

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
FRAME_RATE = 25.0  # frames a second where nothing tells
MOT_CLASSES = {
    **{1: "pedestrian", 2: "person on vehicle", 3: "car", 4: "bicycle", 5: "motorbike", 6: "non-motorised vehicle"},
    **{7: "static person", 8: "distractor", 9: "occluder", 10: "occluder on the ground", 11: "occluder full"},
    **{12: "reflection", 13: "crowd"},
}
PEOPLE = {"pedestrian", "person", "people", "human"}


@dataclass(frozen=True)
class Reading:
    """What a user says about files of boxes, for what the files leave open."""

    first: str | None = None  # number that they give the first picture: "0", "1", or "name" for that in its name
    columns: str | None = None  # names of the columns of detections and tracks
    gt_columns: str | None = None  # and of annotations

    @classmethod
    def of(cls, args: Namespace) -> "Reading":
        return cls(args.first_frame, args.columns, args.gt_columns)

    @staticmethod
    def add_flags(parser: ArgumentParser) -> None:
        add = parser.add_argument
        help = "frame number of the first picture in files of boxes; name: the number in its name (default: found out)"
        add("--first-frame", choices=FLAGS, help=help)
        help = "columns of detections or tracks, such as frame,track,class,left,top,right,bottom (default: found out)"
        add("--columns", metavar="NAMES", help=help)
        help = "columns of annotations, such as frame,track,left,top,width,height,-,class (-: skip one)"
        add("--gt-columns", metavar="NAMES", help=help)


AS_FOUND = Reading()  # the user says nothing


class Sequence:
    """One camera's frames and what is known about them.

    Attributes:
        frames: number in the name -> picture, in order.

    Raises:
        InputError: it is a video, or a folder without frames; says how to make frames.
    """

    def __init__(self, folder: Path, reading: Reading = AS_FOUND):
        self.folder, self.reading = Path(folder), reading
        if self.folder.suffix.lower() in VIDEOS and not self.folder.is_dir():
            raise InputError(f"{folder}: is a video; make frames of it first: {_ffmpeg(self.folder)}")
        if not self.folder.is_dir():
            raise InputError(f"{folder}: no such sequence; a folder with img1/ is needed")
        info = self._info()
        self.name = info.get("name", os.path.basename(os.path.realpath(self.folder)))
        self.rate = _number(info.get("frameRate")) or FRAME_RATE
        self.gt, self.det = self.folder / "gt" / "gt.txt", self.folder / "det" / "det.txt"
        self.frames = self._frames(self.folder / info.get("imDir", "img1"))

    @cached_property
    def annotations(self) -> Boxes:
        if not self.gt.is_file():
            raise InputError(
                f"{self.gt}: missing; annotate people there, or take a tracker's results as they are: --tracks FILE"
            )
        return self.read(self.gt, ANNOTATIONS)

    @cached_property
    def detections(self) -> Boxes:
        if not self.det.is_file():
            raise InputError(f"{self.det}: missing; write a detector's boxes there: frame,-1,left,top,width,height,1")
        return self.read(self.det, DETECTIONS)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height of the first picture."""
        return load_rgb(next(iter(self.frames.values()))).size

    def read(self, path: Path, role: str) -> Boxes:
        """The boxes of a file, with the numbers of this sequence's pictures, in pixels.

        Args:
            role: what the file is used as: ANNOTATIONS, DETECTIONS or TRACKS of `boxes.py`.

        Raises:
            InputError: the file cannot be read, or can be read in two ways; names the flag that decides.
        """
        columns = self.reading.gt_columns if role == ANNOTATIONS else self.reading.columns
        rows = read_boxes(path, role, lambda: self.size, columns)
        frames, names = np.unique(rows.frame), list(self.frames)
        try:
            of_cvat = role == ANNOTATIONS and self._is_of_cvat()
            first = first_number(frames, names, self.reading.first, of_cvat, by_custom=role != TRACKS)
        except Undecided as error:
            raise InputError(f"{path}: {self._question(frames.tolist(), error.readings)}") from None
        notes = list(rows.source.notes)
        if self.reading.first and readings_of(names)[self.reading.first] != first:
            notes.append(f"--first-frame {self.reading.first} does not fit its frames {frames[0]} to {frames[-1]}")
        if first is not None:
            notes.append(f"frame {first} is the first picture, {self.frames[names[0]].name}")
        source = replace(rows.source, first=first, notes=tuple(notes))
        return replace(rows, frame=picture_numbers(rows.frame, names, first), source=source)

    def _is_of_cvat(self) -> bool:
        """CVAT calls the first picture of a video frame_000000 and its frame 1."""
        return self.gt.with_name("labels.txt").is_file() and next(iter(self.frames.values())).stem == "frame_000000"

    def _question(self, frames: list[int], readings: dict[str, int | None]) -> str:
        """What is open about a file's frame numbers, and the answers."""
        pictures, answers = list(self.frames.values()), []
        for flag, first in readings.items():
            meant = self.frames.get(int(picture_numbers(np.array(frames[0]), list(self.frames), first)))
            answers.append(f"--first-frame {flag} (frame {frames[0]} is {meant.name if meant else 'missing'})")
        return (
            f"has frames {frames[0]} to {frames[-1]} for {len(pictures)} pictures, {pictures[0].name} to "
            f"{pictures[-1].name}; say what number it gives the first one: {' or '.join(answers)}"
        )

    def classes(self, rows: Boxes | None = None) -> dict[int, str]:
        """Number -> name of the classes: those of labels.txt, of the file's dialect, or else MOTChallenge's."""
        labels = self.gt.with_name("labels.txt")
        if not labels.is_file():
            return (rows.source.names if rows is not None and rows.source else None) or MOT_CLASSES
        names = text_of(labels, "utf-8-sig", errors="replace").splitlines()
        return {number: name.strip() for number, name in enumerate(names, start=1) if name.strip()}

    def of_classes(self, rows: Boxes, names: Rows[str] = ()) -> tuple[np.ndarray, str]:
        """Which boxes are of these classes, names or numbers (N,), and what the others are.

        Without names: of annotations those of people, or of the one class there is, and of others all; where the file
        tells no classes, all.

        Raises:
            InputError: there is no such class, or none of them is of people; lists those there are.
        """
        path, role = (rows.source.path, rows.source.role) if rows.source else (self.gt, ANNOTATIONS)
        told = np.unique(rows.kind[rows.kind != NO_CLASS]).tolist()
        if not told:
            if names and len(rows):
                raise InputError(f"--classes: {path} does not tell classes; {flag_of(role)} says which column does")
            return np.ones(len(rows), bool), ""
        if not names and role != ANNOTATIONS:
            return np.ones(len(rows), bool), ""
        classes = self.classes(rows)
        by_name = {name.lower(): number for number, name in classes.items()}
        if names:
            wanted = {name: by_name.get(name.lower(), int(name) if name.isdecimal() else None) for name in names}
        else:
            wanted = {name: number for name, number in by_name.items() if name in PEOPLE or len(classes) == 1}
        missing = [name for name, number in wanted.items() if number is None]
        if missing or not wanted:
            what = f"{missing[0]}: no class" if missing else "choose what to keep"
            raise InputError(f"--classes {what} of {self.folder}; it has {', '.join(classes.values())}")
        if 0 in told and 0 not in classes and not all(name.isdecimal() for name in wanted):
            numbers = " ".join(map(str, told))
            raise InputError(
                f"--classes: {path} has a class 0, and names begin with 1; choose by number: --classes {numbers}"
            )
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

    def people(self, names: Rows[str] = ()) -> Boxes:
        """The annotated people, or objects of these classes, that a tracker is to find.

        Raises:
            InputError: there are annotations, but of other classes; lists those.
        """
        rows = self.annotations
        wanted, others = self.of_classes(rows, names)
        if len(rows) and not wanted.any():
            classes = self.classes(rows)
            there = ", ".join(f"{classes.get(kind, 'unnamed')} ({kind})" for kind in np.unique(rows.kind).tolist())
            raise InputError(f"--classes: all boxes of {self.gt} are {others}; choose from {there}")
        rows = rows[wanted]
        return rows[self.considered(rows, names)]

    def usable(self, rows: Boxes) -> tuple[Boxes, tuple[str, ...]]:
        """Boxes that a network can look at, and what is said of the others."""
        sized = rows.sized()
        outside = sized & ~rows.inside(self.size)
        counts = {"no width or height": len(rows) - sized.sum(), "no part inside the frame": outside.sum()}
        said = tuple(f"{n:,} of {len(rows):,} boxes have {what}" for what, n in counts.items() if n)
        return rows[sized & ~outside], said

    def _info(self) -> dict[str, str]:
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # names as they are
        path = self.folder / "seqinfo.ini"
        try:
            if path.exists():
                parser.read_string(text_of(path, "utf-8-sig"))
        except (configparser.Error, InputError) as error:
            reason = str(error).splitlines()[0].removeprefix(f"{path}: cannot be read ")
            raise InputError(f"{path}: cannot be read ({reason}); it may be left out") from None
        return dict(parser["Sequence"]) if parser.has_section("Sequence") else {}

    def _frames(self, images: Path) -> dict[int, Path]:
        """Number in the name -> picture, in order of the numbers."""
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
        return dict(sorted(frames.items()))

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
