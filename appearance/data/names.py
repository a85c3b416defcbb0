"""Parse image file names: identity, camera, frame, sequence and tracklet."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

UNKNOWN = -1  # camera, frame or time that is not in the name
SEQUENCE_FRAMES = 10_000_000  # offset between the times of two sequences
SCENE_CAMERAS = 100  # offset between the camera numbers of two scenes
SERIAL_COVERAGE = 0.5  # least fraction of the numbers from first to last that serial numbers use
FEWEST_SERIAL = 6  # least number of images to decide whether numbers are serial


class NameParts(NamedTuple):
    """The parts of a file name; None or -1 if missing. With `by_session`, `camera` is a session number."""

    pid: int | None = None
    camera: int = UNKNOWN
    sequence: int = UNKNOWN
    frame: int = UNKNOWN
    tracklet: int = UNKNOWN
    by_session: bool = False

    @property
    def time(self) -> int:
        """The frame on one time scale for all sequences, or -1."""
        if self.frame == UNKNOWN:
            return UNKNOWN
        return max(self.sequence, 0) * SEQUENCE_FRAMES + self.frame


# own data, with a camera between separators: anna_cam12_007, c3-000123
OWN_CAMERA = re.compile(r"(?:.*[_\-. ])?c(?:am(?:era)?)?[_\-]?(?P<camera>\d+)(?:[_\-. ].*)?$", re.IGNORECASE)
NAME_PATTERNS = (
    # RandPerson and ClonedPerson 000012_s03_c01_f000776: scene, and camera within the scene
    re.compile(r"(?P<pid>\d+)_s(?P<scene>\d+)_c(?P<camera>\d+)_f(?P<frame>\d+)$"),
    # Market-1501 0002_c1s1_000451_03, DukeMTMC-reID 0005_c2_f0046985, VeRi 0001_c001_00016450_0
    re.compile(r"(?P<pid>-?\d+)_c(?P<camera>\d+)(?:s(?P<sequence>\d+))?_f?(?P<frame>\d+)(?:_|$)"),
    # MARS 0001C1T0002F003; 00-1 is its junk identity
    re.compile(r"(?P<pid>\d{4}|00-1)C(?P<camera>\d+)T(?P<tracklet>\d+)F(?P<frame>\d+)$"),
    OWN_CAMERA,
)
# added by `datasets.py split` if camera or session did not come from the name: photo@cam3, photo@session12
MARK = re.compile(r"(?P<stem>.*)@(?P<kind>cam|session)(?P<number>\d+)$", re.DOTALL)


def parse_name(name: str) -> NameParts:
    """Parse an image's file name by the first of the known patterns that matches."""
    stem = os.path.splitext(name)[0]
    if mark := MARK.match(stem):
        parts = _parse_stem(mark["stem"])
        return parts._replace(camera=int(mark["number"]), by_session=mark["kind"] == "session")
    return _parse_stem(stem)


def _parse_stem(stem: str) -> NameParts:
    for pattern in NAME_PATTERNS:
        match = pattern.match(stem)
        if match:
            parts = {key: int(value.replace("00-", "-")) for key, value in match.groupdict().items() if value}
            if "scene" in parts:
                parts["sequence"] = parts.pop("scene")
                parts["camera"] += SCENE_CAMERAS * parts["sequence"]
            return NameParts(**parts)
    return NameParts()


def marked(name: str, kind: str, number: int) -> str:
    """The file name with a camera or session number added, to be read by `parse_name`. `kind`: "cam" or "session"."""
    stem, extension = os.path.splitext(name)
    return f"{unmarked(stem)}@{kind}{number}{extension}"


def unmarked(stem: str) -> str:
    """The inverse of `marked`, for a name without extension."""
    mark = MARK.match(stem)
    return mark["stem"] if mark else stem


def without_word(name: str, word: str) -> str:
    """Remove `word` between separators: `C001_0007.jpg` and `C001` give `_0007.jpg`."""
    return re.sub(rf"(?:^|(?<=[_\-. ])){re.escape(word)}(?=[_\-. @]|$)", "", name, flags=re.IGNORECASE)


# ---------------------------------------------------------------------------------------------------------------------
# Numbers in names


RUN = re.compile(r"\d+")
LABELLED = re.compile(r"(?P<word>[^\W\d_]*)$")
COUNTING_WORDS = {"", "f", "fr", "frame", "im", "img", "image", "pic", "photo", "dsc", "dscn", "crop"}
# 20240317, 2024-03-17 10.15.00, 20240317101500: the day, then perhaps a time of day
MOMENT = re.compile(
    r"(?<!\d)(?P<day>(?:19|20)\d\d([-._]?)(?:0[1-9]|1[0-2])\2(?:0[1-9]|[12]\d|3[01]))"
    r"(?:[-_ T.]*[0-2]\d[-._h]?[0-5]\d(?:[-._m]?[0-5]\d)?(?:\.?\d{3})?)?(?!\d)"
)


def counters(stems: Sequence[str]) -> list[tuple[int, int] | None]:
    """(start, end) of the number that counts images in each name (without extension), None for names without digits.

    This is the last number that differs between names of the same shape and is neither part of a label (the 0 in
    `_0018_cls0`) nor of a date; failing that the last that differs; failing that the last.
    """
    runs = [[match.span() for match in RUN.finditer(stem)] for stem in stems]
    shapes = defaultdict(list)
    for row, stem in enumerate(stems):
        shapes[RUN.sub("0", stem)].append(row)
    found: list[tuple[int, int] | None] = [None] * len(stems)
    for rows in shapes.values():
        first, columns = stems[rows[0]], range(len(runs[rows[0]]))
        if not columns:
            continue
        differ = [c for c in columns if len({stems[r][slice(*runs[r][c])] for r in rows}) > 1]
        bare = [c for c in columns if _word_before(first, runs[rows[0]][c][0]) in COUNTING_WORDS]
        days = [match.span("day") for match in MOMENT.finditer(first)]
        dates = {c for c in columns if any(start <= runs[rows[0]][c][0] < end for start, end in days)}
        counting = set(differ) & set(bare)
        chosen = max(counting - dates or counting, default=max(differ or bare or columns))
        for row in rows:
            found[row] = runs[row][chosen]
    return found


def _word_before(stem: str, place: int) -> str:
    return LABELLED.search(stem[:place])["word"].lower()


def are_serial(numbers: Sequence[int], identities: Sequence) -> bool:
    """Whether numbers are serial numbers of a whole dataset, as in VehicleID, and not frame numbers.

    Serial numbers occur once each, over all identities, with few gaps; frame numbers are shared between people.
    """
    if len(numbers) < FEWEST_SERIAL or len(set(identities)) < 3 or len(set(numbers)) < len(numbers):
        return False
    return len(numbers) >= SERIAL_COVERAGE * (max(numbers) - min(numbers) + 1)
