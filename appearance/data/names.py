"""What an image's file name tells: who is seen, by which camera, when, and in which clip."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

UNKNOWN = -1  # a camera or time that the name does not tell
SEQUENCE_FRAMES = 10_000_000  # times of different sequences lie at least this far apart
SCENE_CAMERAS = 100  # numbers kept for the cameras of one scene
SERIAL_COVERAGE = 0.5  # share of the numbers from the first to the last that a count of images uses at least
FEWEST_SERIAL = 6  # images from which numbers are judged


class NameParts(NamedTuple):
    """What a file name tells: identity (None where it does not), camera, sequence, frame and tracklet (or -1).

    With `by_session`, `camera` is the number of a session, which counts in the camera's place.
    """

    pid: int | None = None
    camera: int = UNKNOWN
    sequence: int = UNKNOWN
    frame: int = UNKNOWN
    tracklet: int = UNKNOWN
    by_session: bool = False

    @property
    def time(self) -> int:
        """Frames on one scale for all sequences, or -1."""
        if self.frame == UNKNOWN:
            return UNKNOWN
        return max(self.sequence, 0) * SEQUENCE_FRAMES + self.frame


# own data with a camera somewhere between separators: anna_cam12_007, c3-000123
OWN_CAMERA = re.compile(r"(?:.*[_\-. ])?c(?:am(?:era)?)?[_\-]?(?P<camera>\d+)(?:[_\-. ].*)?$", re.IGNORECASE)
NAME_PATTERNS = (
    # RandPerson and ClonedPerson 000012_s03_c01_f000776: a scene, and a camera of this scene
    re.compile(r"(?P<pid>\d+)_s(?P<scene>\d+)_c(?P<camera>\d+)_f(?P<frame>\d+)$"),
    # Market-1501 0002_c1s1_000451_03, DukeMTMC-reID 0005_c2_f0046985, VeRi 0001_c001_00016450_0
    re.compile(r"(?P<pid>-?\d+)_c(?P<camera>\d+)(?:s(?P<sequence>\d+))?_f?(?P<frame>\d+)(?:_|$)"),
    # MARS 0001C1T0002F003; 00-1 is its junk identity
    re.compile(r"(?P<pid>\d{4}|00-1)C(?P<camera>\d+)T(?P<tracklet>\d+)F(?P<frame>\d+)$"),
    OWN_CAMERA,
)
# what `datasets.py split` adds where something else than the name told it: photo@cam3, photo@session12
MARK = re.compile(r"(?P<stem>.*)@(?P<kind>cam|session)(?P<number>\d+)$", re.DOTALL)


def parse_name(name: str) -> NameParts:
    """Identity, camera, sequence, frame and tracklet from an image's file name, as far as a known pattern tells."""
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
    """The file name with a camera or a session (`kind` "cam" or "session") that `parse_name` reads in it."""
    stem, extension = os.path.splitext(name)
    return f"{unmarked(stem)}@{kind}{number}{extension}"


def unmarked(stem: str) -> str:
    """The name without extension as it was before `marked`."""
    mark = MARK.match(stem)
    return mark["stem"] if mark else stem


def without_word(name: str, word: str) -> str:
    """The name without `word` where it stands between separators: `_0007.jpg` of `C001_0007.jpg` and `C001`."""
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
    """Where in each name (without extension) the number stands that counts images: start and end, None without digits.

    It is the last number that differs between names of this shape and is no label's (the 0 of `_0018_cls0` is one) and
    no date, or else the last that differs, or else the last.
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
    """Whether numbers count the images of a whole dataset one by one, as VehicleID's do, and are no frames of a video.

    None stands twice, whoever is seen, and hardly one is left out; in a video people share frames or are counted anew.
    """
    if len(numbers) < FEWEST_SERIAL or len(set(identities)) < 3 or len(set(numbers)) < len(numbers):
        return False
    return len(numbers) >= SERIAL_COVERAGE * (max(numbers) - min(numbers) + 1)
