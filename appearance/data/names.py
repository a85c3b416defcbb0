"""What an image's file name tells: who is seen, by which camera, when."""

import os
import re
from typing import NamedTuple

UNKNOWN = -1  # a camera or time that the name does not tell
SEQUENCE_FRAMES = 10_000_000  # times of different sequences lie at least this far apart
SCENE_CAMERAS = 100  # numbers kept for the cameras of one scene


class NameParts(NamedTuple):
    """What a file name tells: identity (None where it does not), camera, sequence, frame and tracklet (or -1)."""

    pid: int | None = None
    camera: int = UNKNOWN
    sequence: int = UNKNOWN
    frame: int = UNKNOWN
    tracklet: int = UNKNOWN

    @property
    def time(self) -> int:
        """Frames on one scale for all sequences, or -1."""
        if self.frame == UNKNOWN:
            return UNKNOWN
        return max(self.sequence, 0) * SEQUENCE_FRAMES + self.frame


NAME_PATTERNS = (
    # RandPerson and ClonedPerson 000012_s03_c01_f000776: a scene, and a camera of this scene
    re.compile(r"(?P<pid>\d+)_s(?P<scene>\d+)_c(?P<camera>\d+)_f(?P<frame>\d+)$"),
    # Market-1501 0002_c1s1_000451_03, DukeMTMC-reID 0005_c2_f0046985, VeRi 0001_c001_00016450_0
    re.compile(r"(?P<pid>-?\d+)_c(?P<camera>\d+)(?:s(?P<sequence>\d+))?_f?(?P<frame>\d+)(?:_|$)"),
    # MARS 0001C1T0002F003; 00-1 is its junk identity
    re.compile(r"(?P<pid>\d{4}|00-1)C(?P<camera>\d+)T(?P<tracklet>\d+)F(?P<frame>\d+)$"),
    # own data with a camera somewhere between separators: anna_cam12_007, c3-000123
    re.compile(r"(?:.*[_\-. ])?c(?:am(?:era)?)?[_\-]?(?P<camera>\d+)(?:[_\-. ].*)?$", re.IGNORECASE),
)


def parse_name(name: str) -> NameParts:
    """Identity, camera, sequence, frame and tracklet from an image's file name, as far as a known pattern tells."""
    stem = os.path.splitext(name)[0]
    for pattern in NAME_PATTERNS:
        match = pattern.match(stem)
        if match:
            parts = {key: int(value.replace("00-", "-")) for key, value in match.groupdict().items() if value}
            if "scene" in parts:
                parts["sequence"] = parts.pop("scene")
                parts["camera"] += SCENE_CAMERAS * parts["sequence"]
            return NameParts(**parts)
    return NameParts()
