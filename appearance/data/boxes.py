"""Read box files: annotations, detections and tracking results, one line per box, in every common column order.

    annotations   frame, track, left, top, width, height, consider, class, visibility     MOT16, 17, 20; CVAT
                  frame, track, left, top, width, height, consider, x, y, z               MOT15
                  frame, track, left, top, width, height, consider, class, truncation, occlusion      VisDrone
    detections    frame, -1, left, top, width, height, confidence [, class | x, y, z]
    tracks        frame, track, left, top, width, height, confidence [, class | x, y, z]  DeepSORT, BoxMOT, ...

Columns are separated by commas or spaces; columns after the sixth may be missing. The ninth column is a visibility only
in annotations: in a tracker's file it is a confidence or a detection number. Boxes are pixels or fractions of the
frame. A folder is read as the output of Ultralytics' `save_txt`: one file per frame with lines of class, centre x,
centre y, width, height [, confidence] [, track], as fractions of the frame. `--columns` names the columns of any other
format.
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

ANNOTATIONS, DETECTIONS, TRACKS = "annotations", "detections", "tracks"  # the role of a box file
NO_CLASS = -1
VISDRONE_CLASSES = {
    **{0: "ignored regions", 1: "pedestrian", 2: "people", 3: "bicycle", 4: "car", 5: "van", 6: "truck"},
    **{7: "tricycle", 8: "awning-tricycle", 9: "bus", 10: "motor", 11: "others"},
}
CORNER = "frame,track,left,top,width,height"
CENTRE = "frame,track,centre-x,centre-y,width,height"
COLUMNS = (*CORNER.split(","), "right", "bottom", "centre-x", "centre-y", "confidence", "class", "visibility", "-")
FRACTION = 2  # larger numbers are pixels; fractions exceed 1 where a box extends beyond the frame
SLACK = 0.01  # fraction of the frame by which a box may extend beyond it (rounding)

Size = Callable[[], tuple[int, int]]  # -> (width, height) of a frame in pixels; a function, as it has to open an image


@dataclass(frozen=True)
class Source:
    """The file that boxes were read from, and how it was read."""

    path: Path
    role: str  # ANNOTATIONS, DETECTIONS or TRACKS
    names: dict[int, str] | None = None  # class number -> name, if the format defines its own classes
    first: int | None = None  # frame number of the first image in the file; None: the number in the image's file name
    notes: tuple[str, ...] = ()  # how the file was read, for the user


@dataclass
class Boxes:
    """The N boxes of a file, sorted by frame."""

    frame: np.ndarray  # (N,) int
    track: np.ndarray  # (N,) int, negative: no track number
    box: np.ndarray  # (N, 4) float: left, top, width, height in pixels
    confidence: np.ndarray  # (N,) float: detection confidence, 1 if unknown; in annotations 0 means "ignore this box"
    kind: np.ndarray  # (N,) int: class, NO_CLASS if the file has none
    visibility: np.ndarray  # (N,) float: visible fraction, NaN if the file has none
    source: Source | None = None

    def __len__(self) -> int:
        return len(self.frame)

    def __getitem__(self, rows) -> "Boxes":
        return Boxes(*(getattr(self, field.name)[rows] for field in fields(self)[:-1]), self.source)

    def by_frame(self) -> dict[int, "Boxes"]:
        """Frame number -> the boxes of that frame."""
        numbers, starts = np.unique(self.frame, return_index=True)
        stops = [*starts[1:], len(self)]
        return {int(n): self[start:stop] for n, start, stop in zip(numbers, starts, stops, strict=False)}

    def sized(self) -> np.ndarray:
        """(N,) bool: width and height are above 0."""
        return (self.box[:, 2:] > 0).all(1)

    def inside(self, size: tuple[int, int]) -> np.ndarray:
        """(N,) bool: the box overlaps a frame of `size` (width, height) pixels."""
        return ((self.box[:, :2] < size) & (self.box[:, :2] + self.box[:, 2:] > 0)).all(1)


def read_boxes(path: Path, role: str = ANNOTATIONS, size: Size | None = None, columns: str | None = None) -> Boxes:
    """Read the boxes of a file or of a folder with one file per frame. Frame numbers are those of the file.

    Args:
        role: ANNOTATIONS, DETECTIONS or TRACKS; decides the meaning of the columns after the sixth.
        size: returns the (width, height) of a frame, to turn fractions into pixels. None: fractions stay fractions.
        columns: the value of `--columns`, for a format that is not recognised.

    Raises:
        InputError: the file is missing, is not a table of at least six numeric columns, or is ambiguous.
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
    """Tracking results as text in MOT format, one line per box.

    Args:
        frame, track: N numbers.
        box: (N, 4) left, top, width, height in pixels.
    """
    rows = zip(frame, track, box, strict=True)
    return "".join(f"{f},{t},{b[0]:.2f},{b[1]:.2f},{b[2]:.2f},{b[3]:.2f},1,-1,-1,-1\n" for f, t, b in rows)


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def _table(path: Path, labels: bool = False) -> tuple[np.ndarray, list[str]]:
    """The numbers of a file, (N, columns), and its lines. `labels`: the file holds the labels of one frame."""
    lines: list[str] = []
    try:
        lines = [line for line in text_of(path, "utf-8-sig").splitlines() if line.strip() and line[0] != "#"]
        delimiter = "," if lines and "," in lines[0] else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a file without rows: nothing was detected
            table = np.loadtxt(lines, delimiter=delimiter, ndmin=2) if lines else np.empty((0, 10))
    except ValueError as error:
        if lines and lines[0].lstrip()[:1].isalpha():
            raise InputError(
                f"{path}: the first line is a header ({lines[0].strip()[:80]}); delete it, and give --columns "
                "if the columns are not frame, track, left, top, width, height"
            ) from None
        reason = str(error).split(";")[0]
        raise InputError(
            f"{path}: is not a table of numbers with the columns frame, track, left, top, width, height ({reason})"
        ) from None
    yolo = len(table) and table.shape[1] > 4 and (table[:, 1] % 1 != 0).any() and _are_fractions(table[:, 1:5])
    if yolo and not labels:
        raise InputError(
            f"{path}: is a YOLO label file (class, centre x, centre y, width, height: {lines[0].strip()}) and has no "
            "frame numbers; give the folder with one label file per frame instead"
        )
    return table, lines


def _check_numbers(rows: Boxes, lines: list[str], path: Path) -> None:
    finite = np.isfinite(np.column_stack([rows.frame, rows.track, rows.box])).all(1)
    good = finite & (rows.frame % 1 == 0) & (rows.track % 1 == 0) & (rows.frame >= 0)
    if good.all():
        return
    line = lines[int(good.argmin())].strip()
    raise InputError(
        f"{path}: row {int(good.argmin()) + 1}: frame (0 or more) and track must be whole numbers, and the box finite "
        f"numbers: {line}"
    )


def _recognised(table: np.ndarray, path: Path, role: str) -> Boxes:
    """Boxes of a table with at least six columns; the file's role and the values decide what further columns mean."""
    count, columns = table.shape
    if columns < 6:
        raise InputError(
            f"{path}: has {columns} columns, but needs at least six: frame, track, left, top, width, height"
        )
    confidence = table[:, 6] if columns > 6 else np.ones(count)
    kind, visibility, names = np.full(count, NO_CLASS), np.full(count, np.nan), None
    if _tells_class(table, role):
        kind = table[:, 7].astype(int)
    if role == ANNOTATIONS and columns > 8 and _is_visibility(table):
        if _is_visdrone(table, path):
            names = VISDRONE_CLASSES
        elif table[:, 8].any():  # all zeros: a placeholder column
            visibility = table[:, 8]
    source = Source(path, role, names)
    return Boxes(table[:, 0], table[:, 1], table[:, 2:6], confidence, kind, visibility, source)


def _tells_class(table: np.ndarray, role: str) -> bool:
    """Whether the eighth column is a class; in other formats it is a world coordinate or a placeholder."""
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
    """Whether the last three of ten columns are category, truncation (0 or 1) and occlusion (0, 1 or 2).

    Raises:
        InputError: the last column is all 0, so the ninth could equally be a visibility of 0 or 1.
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
        f"{path}: column 9 of 10 could be a visibility or VisDrone's truncation; "
        f"add {start},visibility,- or {start},-,-"
    )


def _named(table: np.ndarray, path: Path, role: str, columns: str) -> Boxes:
    """Boxes of a table whose columns `--columns` or `--gt-columns` names."""
    flag = flag_of(role)
    names = [name.strip().lower() for name in columns.split(",")]
    for name in names:
        if name not in COLUMNS:
            raise InputError(f"{flag}: unknown column {name}; use {', '.join(COLUMNS)} (- skips a column)")
    if len(names) > table.shape[1] and len(table):
        raise InputError(f"{flag}: names {len(names)} columns, but {path} has only {table.shape[1]}")
    if len(set(names) - {"-"}) < sum(name != "-" for name in names):
        raise InputError(f"{flag}: names a column twice; use - for columns to skip")
    table = table if len(table) else np.empty((0, len(names)))
    found = {name: table[:, place] for place, name in enumerate(names)}
    left, width = _extent(found, "left", "right", "centre-x", "width", flag)
    top, height = _extent(found, "top", "bottom", "centre-y", "height", flag)
    if "frame" not in found:
        raise InputError(f"{flag}: the column frame is missing; name it")
    count = len(table)
    track = found.get("track", np.full(count, -1.0))
    confidence = found.get("confidence", np.ones(count))
    kind = found.get("class", np.full(count, NO_CLASS)).astype(int)
    visibility = found.get("visibility", np.full(count, np.nan))
    box = np.stack([left, top, width, height], 1)
    return Boxes(found["frame"], track, box, confidence, kind, visibility, Source(path, role))


def _extent(found: dict, low: str, high: str, centre: str, length: str, flag: str) -> tuple[np.ndarray, np.ndarray]:
    """(N,) start and (N,) length of the boxes along one axis, from whichever two columns are named."""
    if low in found and length in found:
        return found[low], found[length]
    if low in found and high in found:
        return found[low], found[high] - found[low]
    if centre in found and length in found:
        return found[centre] - found[length] / 2, found[length]
    raise InputError(f"{flag}: name {low} and {length}, {low} and {high}, or {centre} and {length}")


def flag_of(role: str) -> str:
    """The flag with which a user names the columns of files of this role."""
    return "--gt-columns" if role == ANNOTATIONS else "--columns"


# ---------------------------------------------------------------------------------------------------------------------
# Fractions of the frame


def _label_files(folder: Path, role: str) -> Boxes:
    """Boxes of a folder with one label file per frame; file names end in the frame number (Ultralytics' `save_txt`)."""
    frame, rows = [], []
    for path in sorted(folder.glob("*.txt")):
        digits = re.search(r"(\d+)$", path.stem)
        if not digits:
            raise InputError(
                f"{path}: the file name must end in the frame number, as in video_12.txt; rename or remove it"
            )
        table, _ = _table(path, labels=True)
        if len(table) and not 5 <= table.shape[1] <= 7:
            raise InputError(
                f"{path}: has {table.shape[1]} columns, but needs 5 to 7: class, centre x, "
                "centre y, width, height [, confidence] [, track]"
            )
        for kind, x, y, width, height, *rest in table.tolist():
            whole = len(rest) == 2 or (len(rest) == 1 and rest[0] % 1 == 0 and rest[0] >= 1)
            track = rest[-1] if rest and whole else -1
            confidence = rest[0] if len(rest) == 2 or (rest and not whole) else 1
            frame.append(int(digits[1]))
            rows.append((track, x - width / 2, y - height / 2, width, height, confidence, kind))
    if not rows:
        raise InputError(
            f"{folder}: the folder has no label files (NAME_1.txt, NAME_2.txt, ...); name a file of boxes instead"
        )
    table = np.array(rows, float)
    kind, unknown = table[:, 6].astype(int), np.full(len(table), np.nan)
    return Boxes(np.array(frame), table[:, 0], table[:, 1:5], table[:, 5], kind, unknown, Source(folder, role))


def _are_fractions(box: np.ndarray) -> bool:
    """Whether (N, 4) boxes are fractions of the frame and not pixels."""
    real = box[(box[:, 2:] > 0).all(1)]
    return bool(len(real) and (np.abs(real) <= FRACTION).all() and (real % 1 != 0).any())


def _scaled(rows: Boxes, path: Path, role: str, size: Size | None, known: bool) -> Boxes:
    """Turn fractions into pixels.

    MOT files give a box's upper left corner, YOLO files its centre. If the user has not said which (`known`), the
    reading under which no box crosses the frame's border is taken.

    Raises:
        InputError: both readings fit, or neither.
    """
    box = rows.box
    if not known:
        start, length = box[:, :2], box[:, 2:]
        corner = ((start >= -SLACK) & (start + length <= 1 + SLACK)).all()
        centre = ((start - length / 2 >= -SLACK) & (start + length / 2 <= 1 + SLACK)).all()
        if corner == centre:
            flag = flag_of(role)
            raise InputError(
                f"{path}: the boxes are fractions of the frame, and columns 3 and 4 could be the upper left corner or "
                f"the centre; add {flag} {CORNER} or {flag} {CENTRE} (and name the columns after these, if any)"
            )
        box = np.concatenate([start - length / 2 * bool(centre), length], 1)
    if size is None:
        return replace(rows, box=box)
    width, height = size()
    note = f"boxes are fractions of the frame, scaled to {width}x{height} pixels"
    source = replace(rows.source, notes=(*rows.source.notes, note))
    return replace(rows, box=box * [width, height, width, height], source=source)
