"""Match the frame numbers of a box file to images.

Image names carry numbers, starting anywhere and possibly with gaps. A box file either uses these numbers, or numbers
the images 0, 1, 2, ... or 1, 2, 3, ... in order. A *reading* is the file's number for the first image; None means that
the file uses the numbers in the image names.
"""

from collections.abc import Sequence as Rows

import numpy as np

FLAGS = ("0", "1", "name")  # values of --first-frame, one per reading


class Undecided(Exception):
    """Several readings fit, or none. `readings`: value of --first-frame -> reading, for the candidates."""

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
    """Find out the reading of a box file.

    Args:
        frames: (n,) the distinct frame numbers in the file, ascending.
        names: the numbers in the image names, ascending.
        said: the value of --first-frame; followed if that reading is possible, or if no reading is.
        as_cvat: CVAT wrote the file, which numbers images from 1 whatever their names are.
        by_custom: the file belongs to the sequence (gt.txt, det.txt), which MOTChallenge numbers from 1. A tracker's
            results may count from 0, and start a few frames late because tracks are confirmed first.

    Raises:
        Undecided: several readings are possible, or none is.
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
    if not open_ and part:  # the images are an excerpt of the annotated video
        return None
    if as_cvat:
        return 1
    answers: dict[str, int | None] = {}
    for flag, first in readings.items():
        if (not open_ or first in open_) and first not in answers.values():
            answers[flag] = first
    raise Undecided(answers)


def readings_of(names: Rows[int]) -> dict[str, int | None]:
    """Value of --first-frame -> reading. For images without gaps, 0 or 1 may be the same reading as "name"."""
    gapless = names[-1] - names[0] + 1 == len(names)
    return {flag: None if flag == "name" or (gapless and int(flag) == names[0]) else int(flag) for flag in FLAGS}


def picture_numbers(frame: np.ndarray, names: Rows[int], first: int | None) -> np.ndarray:
    """(N,) frame numbers of a file -> (N,) numbers of the images; frames without an image get numbers no image has."""
    if first is None:
        return frame
    place = frame - first
    beyond = np.minimum(place, 0) + np.maximum(place - (len(names) - 1), 0)
    return np.asarray(names)[place.clip(0, len(names) - 1)] + beyond


def file_numbers(names: Rows[int], first: int | None) -> dict[int, int]:
    """Number in an image's name -> its frame number in the file."""
    return {name: name if first is None else place + first for place, name in enumerate(names)}
