"""Which picture a frame number means, where pictures and files of boxes count on their own.

Pictures have numbers in their names, from any number on and perhaps with gaps. A file either uses these numbers, or it
calls the first picture 0 or 1 and counts on. A reading is the number of the first picture; None: the numbers in the
names.
"""

from collections.abc import Sequence as Rows

import numpy as np

FLAGS = ("0", "1", "name")  # how a user names the readings


class Undecided(Exception):
    """Several readings fit, or none: `readings` has those that are open, by the flag that chooses each."""

    def __init__(self, readings: dict[str, int | None]):
        super().__init__()
        self.readings = readings


def first_number(
    frames: np.ndarray,
    names: Rows[int],
    said: str | None = None,
    as_cvat: bool = False,
    by_custom: bool = True,
) -> int | None:
    """The reading of a file.

    Args:
        frames: (n,) the frame numbers in the file, each once, in order.
        names: the numbers in the pictures' names, in order.
        said: the user's choice of FLAGS; counts where it is possible, or where nothing is.
        as_cvat: the file is of CVAT, which counts from 1 whatever the pictures are called.
        by_custom: the file is of the sequence itself, which by MOTChallenge's custom counts from 1. A tracker's results
            may count from 0 and begin some frames later, when the first track is confirmed.

    Raises:
        Undecided
    """
    start, end, count = names[0], names[-1], len(names)
    readings = readings_of(names)
    if not len(frames):
        return readings[said] if said else None
    low, high = frames[0], frames[-1]

    def possible(first: int | None) -> bool:
        return start <= low and high <= end if first is None else first <= low and high < first + count

    open_ = {first for first in readings.values() if possible(first)}
    if said and (readings[said] in open_ or not open_):
        return readings[said]
    if len(open_) == 1:
        return open_.pop()
    exact = None in open_ and np.isin(frames, names).all()
    if exact and (low == start or (start == 1 and by_custom)):
        return None
    part = {0: low == 0, 1: low >= 1}.get(start, low <= start and high >= end)
    if not open_ and part:  # the pictures are a part of what the file is about
        return None
    if as_cvat:
        return 1
    answers: dict[str, int | None] = {}
    for flag, first in readings.items():
        if (not open_ or first in open_) and first not in answers.values():
            answers[flag] = first
    raise Undecided(answers)


def readings_of(names: Rows[int]) -> dict[str, int | None]:
    """The reading that each of FLAGS chooses; of pictures without gaps, 0 or 1 may be the number in the name."""
    gapless = names[-1] - names[0] + 1 == len(names)
    return {flag: None if flag == "name" or (gapless and int(flag) == names[0]) else int(flag) for flag in FLAGS}


def picture_numbers(frame: np.ndarray, names: Rows[int], first: int | None) -> np.ndarray:
    """The pictures' numbers for a file's frames (N,); for frames without a picture, numbers that no picture has."""
    if first is None:
        return frame
    place = frame - first
    beyond = np.minimum(place, 0) + np.maximum(place - (len(names) - 1), 0)
    return np.asarray(names)[place.clip(0, len(names) - 1)] + beyond


def file_numbers(names: Rows[int], first: int | None) -> dict[int, int]:
    """Number of a picture -> its number in the file."""
    return {name: name if first is None else place + first for place, name in enumerate(names)}
