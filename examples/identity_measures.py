"""How well a tracker keeps identities: IDF1 and identity switches."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from tracker import assign, overlap

SAME = 0.5  # intersection over union from which a track's box is on a person


def identity_measures(
    people: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    numbers: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
) -> dict[str, float]:
    """IDF1, identity switches and number of tracks.

    IDF1 (Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", ECCVW 2016)
    pairs each person with at most one track for the whole sequence, so that most of their boxes agree, and is
    2 agreeing / (true boxes + tracked boxes). A switch is counted when the track on a person is another than the last
    one that was (Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT Metrics",
    2008).

    Args: per frame, the true people (n,) with boxes (n, 4), and the track numbers (m,) with boxes (m, 4).
    """
    agreeing: Counter = Counter()
    last: dict[int, int] = {}
    switches = 0
    for who, where, track, box in zip(people, boxes, numbers, found, strict=True):
        if not len(who) or not len(track):
            continue
        shared = overlap(where, box)
        for row, column in zip(*np.nonzero(shared >= SAME), strict=True):
            agreeing[who[row], track[column]] += 1
        # the track that was on a person stays as long as it can
        stays = np.array([[last.get(person) == number for number in track] for person in who])
        for row, column in assign(np.where(shared < SAME, 1e5, 1 - shared - stays)):
            person, number = int(who[row]), int(track[column])
            switches += last.get(person, number) != number
            last[person] = number
    true, tracked = sum(map(len, people)), sum(map(len, numbers))
    count = len({number for track in numbers for number in track.tolist()})
    return {
        "IDF1": 2 * _best_pairs(agreeing) / max(true + tracked, 1),
        "switches": switches,
        "tracks": count,
    }


def _best_pairs(agreeing: Counter) -> int:
    """The most agreeing boxes when every person has at most one track and every track one person."""
    if not agreeing:
        return 0
    rows, columns = defaultdict(lambda: len(rows)), defaultdict(lambda: len(columns))
    places = {(rows[person], columns[number]): count for (person, number), count in agreeing.items()}
    matrix = np.zeros((len(rows), len(columns)))
    for place, count in places.items():
        matrix[place] = count
    return int(sum(matrix[pair] for pair in assign(-matrix)))
