"""Sequences in MOT format: the frames of one camera, with their box files.

    SEQUENCE/img1/000001.jpg   images; the digits at the end of the name are the frame number (frame_000001.jpg: 1)
    SEQUENCE/gt/gt.txt         annotations
    SEQUENCE/gt/labels.txt     class names, one per line, if they are not MOTChallenge's (CVAT writes this file)
    SEQUENCE/det/det.txt       detections
    SEQUENCE/seqinfo.ini       name, imDir, frameRate; optional

`boxes.py` describes the box files. Images and box files may be numbered differently: image names may start at any
number, and a box file may number the first image 0, 1, or as in the image's name. `Sequence.read` finds out which from
the frame numbers in each file, and renumbers its boxes to match the image names.
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
FRAME_RATE = 25.0  # frames per second, if seqinfo.ini does not say
MOT_CLASSES = {
    **{1: "pedestrian", 2: "person on vehicle", 3: "car", 4: "bicycle", 5: "motorbike", 6: "non-motorised vehicle"},
    **{7: "static person", 8: "distractor", 9: "occluder", 10: "occluder on the ground", 11: "occluder full"},
    **{12: "reflection", 13: "crowd"},
}
PEOPLE = {"pedestrian", "person", "people", "human"}


@dataclass(frozen=True)
class Reading:
    """The flags that tell how to read box files, where the files themselves are ambiguous."""

    first: str | None = None  # frame number of the first image: "0", "1", or "name" for the number in its file name
    columns: str | None = None  # columns of detections and tracks
    gt_columns: str | None = None  # columns of annotations

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


AS_FOUND = Reading()  # no flags: recognise everything from the files


class Sequence:
    """The frames and box files of one camera.

    Attributes:
        frames: number in the file name -> image path, in ascending order.
        rate: frames per second.
        gt, det: paths of the annotations and detections; the files may be missing.

    Raises:
        InputError: `folder` is a video file or has no frames; the message has the ffmpeg line.
    """

    def __init__(self, folder: Path, reading: Reading = AS_FOUND):
        self.folder, self.reading = Path(folder), reading
        if self.folder.suffix.lower() in VIDEOS and not self.folder.is_dir():
            raise InputError(f"{folder}: is a video file; extract its frames first: {_ffmpeg(self.folder)}")
        if not self.folder.is_dir():
            raise InputError(f"{folder}: no such folder; give a sequence in MOT format (a folder with img1/)")
        info = self._info()
        self.name = info.get("name", os.path.basename(os.path.realpath(self.folder)))
        self.rate = _number(info.get("frameRate")) or FRAME_RATE
        self.gt, self.det = self.folder / "gt" / "gt.txt", self.folder / "det" / "det.txt"
        self.frames = self._frames(self.folder / info.get("imDir", "img1"))

    @cached_property
    def annotations(self) -> Boxes:
        """The boxes of gt/gt.txt.

        Raises:
            InputError: the file is missing or cannot be read.
        """
        if not self.gt.is_file():
            raise InputError(f"{self.gt}: missing; annotate the people, or give a tracker's results with --tracks FILE")
        return self.read(self.gt, ANNOTATIONS)

    @cached_property
    def detections(self) -> Boxes:
        """The boxes of det/det.txt.

        Raises:
            InputError: the file is missing or cannot be read.
        """
        if not self.det.is_file():
            raise InputError(
                f"{self.det}: missing; write the detections there, one line per box: frame,-1,left,top,width,height,1"
            )
        return self.read(self.det, DETECTIONS)

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) of the first image in pixels."""
        return load_rgb(next(iter(self.frames.values()))).size

    def read(self, path: Path, role: str) -> Boxes:
        """Read a box file: boxes in pixels, with the frame numbers of this sequence's image names.

        Args:
            role: ANNOTATIONS, DETECTIONS or TRACKS of `boxes.py`.

        Raises:
            InputError: the file cannot be read or is ambiguous; the message names the flag that decides.
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
            notes.append(
                f"--first-frame {self.reading.first} does not fit frames {frames[0]} to {frames[-1]} and is ignored"
            )
        if first is not None:
            notes.append(f"frame {first} is the first image, {self.frames[names[0]].name}")
        source = replace(rows.source, first=first, notes=tuple(notes))
        return replace(rows, frame=picture_numbers(rows.frame, names, first), source=source)

    def _is_of_cvat(self) -> bool:
        """CVAT names the first image frame_000000 and numbers it 1 in gt.txt."""
        return self.gt.with_name("labels.txt").is_file() and next(iter(self.frames.values())).stem == "frame_000000"

    def _question(self, frames: list[int], readings: dict[str, int | None]) -> str:
        """The error text about ambiguous frame numbers, with the flags that decide."""
        pictures, answers = list(self.frames.values()), []
        for flag, first in readings.items():
            meant = self.frames.get(int(picture_numbers(np.array(frames[0]), list(self.frames), first)))
            answers.append(f"--first-frame {flag} (frame {frames[0]} is {meant.name if meant else 'missing'})")
        return (
            f"numbers its frames {frames[0]} to {frames[-1]}, and the sequence has {len(pictures)} images, "
            f"{pictures[0].name} to {pictures[-1].name}; which frame is the first image? Add {' or '.join(answers)}"
        )

    def classes(self, rows: Boxes | None = None) -> dict[int, str]:
        """Class number -> name, from labels.txt, else the box file's format, else MOTChallenge."""
        labels = self.gt.with_name("labels.txt")
        if not labels.is_file():
            return (rows.source.names if rows is not None and rows.source else None) or MOT_CLASSES
        names = text_of(labels, "utf-8-sig", errors="replace").splitlines()
        return {number: name.strip() for number, name in enumerate(names, start=1) if name.strip()}

    def of_classes(self, rows: Boxes, names: Rows[str] = ()) -> tuple[np.ndarray, str]:
        """(N,) bool: which boxes belong to the classes `names` (names or numbers), and a description of the others.

        Without `names`: people (or the only class) in annotations, everything in detections and tracks. If the file has
        no classes: everything.

        Raises:
            InputError: a class is unknown, or `names` is empty and no class is a person; lists the classes.
        """
        path, role = (rows.source.path, rows.source.role) if rows.source else (self.gt, ANNOTATIONS)
        told = np.unique(rows.kind[rows.kind != NO_CLASS]).tolist()
        if not told:
            if names and len(rows):
                raise InputError(
                    f"--classes: {path} has no class column that is recognised; leave --classes out, or name "
                    f"the column with {flag_of(role)}"
                )
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
            what = f"{missing[0]}: unknown class" if missing else "is needed: none of the classes is a person"
            raise InputError(f"--classes {what}; {self.folder} has {', '.join(classes.values())}")
        if 0 in told and 0 not in classes and not all(name.isdecimal() for name in wanted):
            numbers = " ".join(map(str, told))
            raise InputError(
                f"--classes: {path} has a class 0, but class names are numbered from 1; give numbers: "
                f"--classes {numbers}"
            )
        return np.isin(rows.kind, list(wanted.values())), f"not of class {', '.join(wanted)}"

    @staticmethod
    def considered(rows: Boxes, names: Rows[str] = ()) -> np.ndarray:
        """(N,) bool: which annotations count, by their "consider" flag (column 7).

        MOTChallenge sets the flag for pedestrians only. So for classes in `names` of which no box has the flag, it is
        ignored.
        """
        considered = rows.confidence != 0
        for kind in np.unique(rows.kind) if names else ():
            considered |= (rows.kind == kind) & ~considered[rows.kind == kind].any()
        return considered

    def people(self, names: Rows[str] = ()) -> Boxes:
        """The annotated boxes that a tracker has to find: people, or objects of the classes `names`.

        Raises:
            InputError: all annotations are of other classes; lists them.
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
        """The boxes that can be cropped (sized, and partly inside the frame), and notes about the others."""
        sized = rows.sized()
        outside = sized & ~rows.inside(self.size)
        counts = {"no width or height": len(rows) - sized.sum(), "no part inside the frame": outside.sum()}
        said = tuple(f"{n:,} of {len(rows):,} boxes have {what}" for what, n in counts.items() if n)
        return rows[sized & ~outside], said

    def _info(self) -> dict[str, str]:
        parser = configparser.ConfigParser(interpolation=None)
        parser.optionxform = str  # keys are case-sensitive
        path = self.folder / "seqinfo.ini"
        try:
            if path.exists():
                parser.read_string(text_of(path, "utf-8-sig"))
        except (configparser.Error, InputError) as error:
            reason = str(error).splitlines()[0].removeprefix(f"{path}: cannot be read ")
            raise InputError(f"{path}: cannot be read ({reason}); correct or delete it (it is optional)") from None
        return dict(parser["Sequence"]) if parser.has_section("Sequence") else {}

    def _frames(self, images: Path) -> dict[int, Path]:
        """Number in the file name -> image path, in ascending order."""
        if not images.is_dir():
            raise InputError(f"{self.folder}: has no folder {images.name}/ with the frames{self._hint()}")
        frames: dict[int, Path] = {}
        for path in sorted(images.iterdir()):
            digits = re.search(r"(\d+)$", path.stem)
            if digits and path.suffix.lower() in IMG_EXTENSIONS and not path.name.startswith("."):
                number = int(digits[1])
                if number in frames:
                    names = f"{frames[number].name} and {path.name}"
                    raise InputError(f"{images}: {names} have the same frame number {number}; delete one")
                frames[number] = path
        if not frames:
            raise InputError(f"{images}: no frames; the images' names must end in the frame number, as in 000001.jpg")
        return dict(sorted(frames.items()))

    def _hint(self) -> str:
        below = sorted(path.parent for path in self.folder.glob("*/img1"))
        if below:
            return f"; give the sequences inside it, such as {below[0]}"
        videos = sorted(path for path in self.folder.iterdir() if path.suffix.lower() in VIDEOS)
        return f"; extract them from the video: {_ffmpeg(videos[0], self.folder)}" if videos else ""


def _ffmpeg(video: Path, folder: Path | None = None) -> str:
    """The shell command that extracts a video's frames into a sequence folder."""
    images = (folder or video.with_suffix("")) / "img1"
    make, into = shlex.quote(str(images)), shlex.quote(str(images / "%06d.jpg"))
    return f"mkdir -p {make} && ffmpeg -i {shlex.quote(str(video))} -q:v 2 {into}"


def _number(text: str | None) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None
