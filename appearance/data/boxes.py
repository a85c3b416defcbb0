"""Files of boxes as annotators, detectors and trackers write them: one line a box, columns by dialect.

    annotations   frame, track, left, top, width, height, consider, class, visibility     MOT16, 17, 20; CVAT
                  frame, track, left, top, width, height, consider, x, y, z               MOT15
                  frame, track, left, top, width, height, consider, class, truncation, occlusion      VisDrone
    detections    frame, -1, left, top, width, height, confidence [, class | x, y, z]
    tracks        frame, track, left, top, width, height, confidence [, class | x, y, z]  DeepSORT, BoxMOT, ...

Columns are separated by commas or spaces, and those after the sixth may be missing. Only annotations tell which share
of a box is visible: a tracker's ninth column is a confidence or the number of a detection. Boxes may be fractions of
the frame. A folder is read as Ultralytics' `save_txt` writes it: a file a frame, lines of class, centre x, centre y,
width, height [, confidence] [, track] as fractions of the frame. For all others `--columns` names the columns.
"""

import re
import warnings
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from appearance.cli import InputError
from appearance.reading import text_of

ANNOTATIONS, DETECTIONS, TRACKS = "annotations", "detections", "tracks"  # what a file is used as
NO_CLASS = -1
VISDRONE_CLASSES = {
    **{0: "ignored regions", 1: "pedestrian", 2: "people", 3: "bicycle", 4: "car", 5: "van", 6: "truck"},
    **{7: "tricycle", 8: "awning-tricycle", 9: "bus", 10: "motor", 11: "others"},
}
CORNER = "frame,track,left,top,width,height"
CENTRE = "frame,track,centre-x,centre-y,width,height"
COLUMNS = (*CORNER.split(","), "right", "bottom", "centre-x", "centre-y", "confidence", "class", "visibility", "-")
FRACTION = 2  # no box in pixels has all its numbers below; fractions of boxes that leave the frame may be above 1
SLACK = 0.01  # of the frame, by which a box given as fractions may leave it

Size = Callable[[], tuple[int, int]]  # width and height of a frame in pixels; called where they are needed


@dataclass(frozen=True)
class Source:
    """Where boxes come from and how their file was read."""

    path: Path
    role: str  # ANNOTATIONS, DETECTIONS or TRACKS
    names: dict[int, str] | None = None  # of the classes, where the dialect has its own
    first: int | None = None  # number that the file gives the first picture; None: the number in the picture's name
    notes: tuple[str, ...] = ()  # what a user should know about the reading


@dataclass
class Boxes:
    """The N rows of a file, by frame."""

    frame: np.ndarray  # (N,) int
    track: np.ndarray  # (N,) int, negative where there is none
    box: np.ndarray  # (N, 4) float: left, top, width, height in pixels
    confidence: np.ndarray  # (N,) float: a detector's, or 0 where an annotation is not to be considered; 1 if unknown
    kind: np.ndarray  # (N,) int: class, NO_CLASS where the file does not tell
    visibility: np.ndarray  # (N,) float: visible share, NaN where the file does not tell
    source: Source | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows) -> "Boxes":
        return Boxes(*(getattr(self, field.name)[rows] for field in fields(self)[:-1]), self.source)

    def by_frame(self) -> dict[int, "Boxes"]:
        numbers, starts = np.unique(self.frame, return_index=True)
        stops = [*starts[1:], len(self)]
        return {int(n): self[start:stop] for n, start, stop in zip(numbers, starts, stops, strict=False)}

    def sized(self) -> np.ndarray:
        """Which boxes have a width and a height (N,)."""
        return (self.box[:, 2:] > 0).all(1)

    def inside(self, size: tuple[int, int]) -> np.ndarray:
        """Which boxes lie at least partly in a frame of (width, height) (N,)."""
        return ((self.box[:, :2] < size) & (self.box[:, :2] + self.box[:, 2:] > 0)).all(1)


def read_boxes(path: Path, role: str = ANNOTATIONS, size: Size | None = None, columns: str | None = None) -> Boxes:
    """The boxes of a file, with the frame numbers of the file.

    Args:
        role: what the file is used as; it decides what the columns after the sixth mean.
        size: of the frames, for boxes that are fractions of it. None: these stay fractions.
        columns: names of the columns as `--columns` takes them, for a dialect that is not recognised.

    Raises:
        InputError: the file is missing, is no table of six numeric columns or more, or can be read in two ways.
    """
    path = Path(path)
    if path.is_dir():
        rows = _label_files(path, role)
    else:
        table, lines = _table(path)
        rows = _named(table, path, role, columns) if columns else _recognised(table, path, role)
        _check_numbers(rows, lines, path)
    rows = rows[rows.frame.argsort(kind="stable")]
    if _are_fractions(rows.box):
        rows = _scaled(rows, path, role, size, known=bool(columns) or path.is_dir())
    rows.frame, rows.track = rows.frame.astype(int), rows.track.astype(int)
    return rows


def result_lines(frame: Rows[int], track: Rows[int], box: np.ndarray) -> str:
    """Results in MOT format, one line a box."""
    rows = zip(frame, track, box, strict=True)
    return "".join(f"{f},{t},{b[0]:.2f},{b[1]:.2f},{b[2]:.2f},{b[3]:.2f},1,-1,-1,-1\n" for f, t, b in rows)


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def _table(path: Path, labels: bool = False) -> tuple[np.ndarray, list[str]]:
    """The numbers of a file (N, columns), and its lines. `labels`: it is a label file of one frame."""
    lines: list[str] = []
    try:
        lines = [line for line in text_of(path, "utf-8-sig").splitlines() if line.strip() and line[0] != "#"]
        delimiter = "," if lines and "," in lines[0] else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no rows: a video in which nothing was found
            table = np.loadtxt(lines, delimiter=delimiter, ndmin=2) if lines else np.empty((0, 10))
    except ValueError as error:
        if lines and lines[0].lstrip()[:1].isalpha():
            raise InputError(
                f"{path}: its first line names the columns ({lines[0].strip()[:80]}); delete that line, and give "
                "--columns if they are not frame, track, left, top, width, height"
            ) from None
        reason = str(error).split(";")[0]
        raise InputError(f"{path}: not a table of frame, track, left, top, width, height, ... ({reason})") from None
    yolo = len(table) and table.shape[1] > 4 and (table[:, 1] % 1 != 0).any() and _are_fractions(table[:, 1:5])
    if yolo and not labels:
        raise InputError(
            f"{path}: its lines ({lines[0].strip()}) are those of YOLO: class, centre x, centre y, width, height; they "
            "name no frame: give the folder that has one such file a frame"
        )
    return table, lines


def _check_numbers(rows: Boxes, lines: list[str], path: Path) -> None:
    finite = np.isfinite(np.column_stack([rows.frame, rows.track, rows.box])).all(1)
    good = finite & (rows.frame % 1 == 0) & (rows.track % 1 == 0) & (rows.frame >= 0)
    if good.all():
        return
    line = lines[int(good.argmin())].strip()
    raise InputError(
        f"{path}: row {int(good.argmin()) + 1} needs whole numbers for frame (0 or more) and track, and a box: {line}"
    )


def _recognised(table: np.ndarray, path: Path, role: str) -> Boxes:
    """A table of six columns or more, what follows them by the role of the file and by the values."""
    count, columns = table.shape
    if columns < 6:
        raise InputError(f"{path}: has {columns} columns; frame, track, left, top, width and height are needed")
    confidence = table[:, 6] if columns > 6 else np.ones(count)
    kind, visibility, names = np.full(count, NO_CLASS), np.full(count, np.nan), None
    if _tells_class(table, role):
        kind = table[:, 7].astype(int)
    if role == ANNOTATIONS and columns > 8 and _is_visibility(table):
        if _is_visdrone(table, path):
            names = VISDRONE_CLASSES
        elif table[:, 8].any():  # 0 everywhere fills the columns of a file that tells nothing
            visibility = table[:, 8]
    source = Source(path, role, names)
    return Boxes(table[:, 0], table[:, 1], table[:, 2:6], confidence, kind, visibility, source)


def _tells_class(table: np.ndarray, role: str) -> bool:
    """Whether the eighth column is a class, where it may be a coordinate in the world or a filled up column."""
    if table.shape[1] < 8 or (table[:, 7] % 1 != 0).any() or (table[:, 7] < NO_CLASS).any():
        return False
    if (table[:, 7] <= 0).all():
        return False
    has_world = table.shape[1] > 9 or (role == ANNOTATIONS and table.shape[1] > 8)
    return not has_world or _is_visibility(table) or (table[:, 8] == -1).all()


def _is_visibility(table: np.ndarray) -> bool:
    integers = (table[:, 7] % 1 == 0).all()
    return bool(integers and ((table[:, 8] >= 0) & (table[:, 8] <= 1)).all())


def _is_visdrone(table: np.ndarray, path: Path) -> bool:
    """Whether ten columns end in category, truncation (0 or 1) and occlusion (0, 1 or 2).

    Raises:
        InputError: the last column is 0 everywhere, so that the ninth may just as well be a visibility of 0 or 1.
    """
    if table.shape[1] != 10 or not len(table):
        return False
    kind, ninth, tenth = table[:, 7:].T
    possible = np.isin(kind, list(VISDRONE_CLASSES)).all() and np.isin(ninth, (0, 1)).all() and kind.any()
    if not possible or not np.isin(tenth, (0, 1, 2)).all():
        return False
    if tenth.any() or not ninth.any():
        return True
    if ninth.all() or path.with_name("labels.txt").is_file():  # CVAT's visibility is 0 or 1
        return False
    start = f"--gt-columns {CORNER},confidence,class"
    raise InputError(
        f"{path}: the ninth of its ten columns may be a visibility or VisDrone's truncation; "
        f"say which: {start},visibility,- or {start},-,-"
    )


def _named(table: np.ndarray, path: Path, role: str, columns: str) -> Boxes:
    """A table whose columns the user names."""
    flag = flag_of(role)
    names = [name.strip().lower() for name in columns.split(",")]
    for name in names:
        if name not in COLUMNS:
            raise InputError(f"{flag}: {name} is no column; there are {', '.join(COLUMNS)} (to skip one)")
    if len(names) > table.shape[1] and len(table):
        raise InputError(f"{flag}: names {len(names)} columns; {path} has {table.shape[1]}")
    if len(set(names) - {"-"}) < sum(name != "-" for name in names):
        raise InputError(f"{flag}: names a column twice; skip columns with -")
    table = table if len(table) else np.empty((0, len(names)))
    found = {name: table[:, place] for place, name in enumerate(names)}
    left, width = _extent(found, "left", "right", "centre-x", "width", flag)
    top, height = _extent(found, "top", "bottom", "centre-y", "height", flag)
    if "frame" not in found:
        raise InputError(f"{flag}: frame is missing")
    count = len(table)
    track = found.get("track", np.full(count, -1.0))
    confidence = found.get("confidence", np.ones(count))
    kind = found.get("class", np.full(count, NO_CLASS)).astype(int)
    visibility = found.get("visibility", np.full(count, np.nan))
    box = np.stack([left, top, width, height], 1)
    return Boxes(found["frame"], track, box, confidence, kind, visibility, Source(path, role))


def _extent(found: dict, low: str, high: str, centre: str, length: str, flag: str) -> tuple[np.ndarray, np.ndarray]:
    """Start and length of boxes in one direction, of two of the columns that tell them."""
    if low in found and length in found:
        return found[low], found[length]
    if low in found and high in found:
        return found[low], found[high] - found[low]
    if centre in found and length in found:
        return found[centre] - found[length] / 2, found[length]
    raise InputError(f"{flag}: needs {low} and {length}, {low} and {high}, or {centre} and {length}")


def flag_of(role: str) -> str:
    """The flag that names the columns of files of this role."""
    return "--gt-columns" if role == ANNOTATIONS else "--columns"


# ---------------------------------------------------------------------------------------------------------------------
# Fractions of the frame


def _label_files(folder: Path, role: str) -> Boxes:
    """A folder with one file a frame, whose name ends in the number of the frame (Ultralytics' `save_txt`)."""
    frame, rows = [], []
    for path in sorted(folder.glob("*.txt")):
        digits = re.search(r"(\d+)$", path.stem)
        if not digits:
            raise InputError(f"{path}: its name does not end in the number of a frame")
        table, _ = _table(path, labels=True)
        if len(table) and not 5 <= table.shape[1] <= 7:
            raise InputError(f"{path}: {table.shape[1]} columns; class, centre x, centre y, width, height are needed")
        for kind, x, y, width, height, *rest in table.tolist():
            whole = len(rest) == 2 or (len(rest) == 1 and rest[0] % 1 == 0 and rest[0] >= 1)
            track = rest[-1] if rest and whole else -1
            confidence = rest[0] if len(rest) == 2 or (rest and not whole) else 1
            frame.append(int(digits[1]))
            rows.append((track, x - width / 2, y - height / 2, width, height, confidence, kind))
    if not rows:
        raise InputError(f"{folder}: is a folder without label files (NAME_1.txt, NAME_2.txt, ...) in it; name a file")
    table = np.array(rows, float)
    kind, unknown = table[:, 6].astype(int), np.full(len(table), np.nan)
    return Boxes(np.array(frame), table[:, 0], table[:, 1:5], table[:, 5], kind, unknown, Source(folder, role))


def _are_fractions(box: np.ndarray) -> bool:
    """Whether boxes are given as shares of the frame's width and height."""
    real = box[(box[:, 2:] > 0).all(1)]
    return bool(len(real) and (np.abs(real) <= FRACTION).all() and (real % 1 != 0).any())


def _scaled(rows: Boxes, path: Path, role: str, size: Size | None, known: bool) -> Boxes:
    """Fractions in pixels. Files of this format have the corner; YOLO's have the centre, told by the frame's border."""
    box = rows.box
    if not known:
        start, length = box[:, :2], box[:, 2:]
        corner = ((start >= -SLACK) & (start + length <= 1 + SLACK)).all()
        centre = ((start - length / 2 >= -SLACK) & (start + length / 2 <= 1 + SLACK)).all()
        if corner == centre:
            flag = flag_of(role)
            raise InputError(
                f"{path}: its boxes are fractions of the frame; their third and fourth column may be the upper left "
                f"corner or the centre; say which, and name further columns: {flag} {CORNER} or {flag} {CENTRE}"
            )
        box = np.concatenate([start - length / 2 * bool(centre), length], 1)
    if size is None:
        return replace(rows, box=box)
    width, height = size()
    note = f"boxes are fractions of the frame; read as pixels of {width}x{height}"
    source = replace(rows.source, notes=(*rows.source.notes, note))
    return replace(rows, box=box * [width, height, width, height], source=source)
