"""How well a tracker keeps identities: IDF1, identity switches, MOTA. Equal to motmetrics' figures (tests)."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from tracker import REFUSED, assign, overlap

SAME = 0.5  # intersection over union from which a track's box is on a person


def identity_measures(
    people: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    numbers: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
) -> dict[str, float]:
    """IDF1, IDP, IDR and MOTA as fractions of 1; counts of switches, fragments, misses, false positives and tracks.

    IDF1 (Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", ECCVW 2016)
    pairs each person with at most one track for the whole sequence, so that most of their boxes agree, and is
    2 agreeing / (true boxes + tracked boxes); IDP is agreeing / tracked, IDR agreeing / true.

    The others follow Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT
    Metrics", 2008. In each frame the track that was last on a person stays on it if it overlaps, whatever else would
    fit better; only then are the others paired. A switch is a track on a person that is another than the last one that
    was, a fragment a time for which nothing was on a person before it was found again, and MOTA is
    1 - (misses + false positives + switches) / true boxes.

    Args: per frame, the true people (n,) with boxes (n, 4), and the track numbers (m,) with boxes (m, 4).
    """
    agreeing: Counter = Counter()
    last: dict[int, int] = {}  # the track that was last on a person
    lost: set[int] = set()  # people who were found before and are missed now
    switches = fragments = missed = false = 0
    for who, where, track, box in zip(people, boxes, numbers, found, strict=True):
        who, track = who.tolist(), track.tolist()
        shared = overlap(where, box) if who and track else np.zeros((len(who), len(track)))
        for row, column in zip(*np.nonzero(shared >= SAME), strict=True):
            agreeing[who[row], track[column]] += 1
        pairs = _kept(who, track, shared, last)
        free = np.where(shared >= SAME, 1 - shared, REFUSED)
        for row, column in pairs:
            free[row], free[:, column] = REFUSED, REFUSED
        for row, column in assign(free):
            switches += last.get(who[row], track[column]) != track[column]
            last[who[row]] = track[column]
            pairs.append((row, column))
        seen = {who[row] for row, _ in pairs}
        fragments += len(seen & lost)
        lost = (lost | {person for person in who if person in last}) - seen
        missed += len(who) - len(pairs)
        false += len(track) - len(pairs)
    true, tracked = sum(map(len, people)), sum(map(len, numbers))
    agree = _best_pairs(agreeing)
    return {
        "IDF1": 2 * agree / max(true + tracked, 1),
        "IDP": agree / max(tracked, 1),
        "IDR": agree / max(true, 1),
        "MOTA": 1 - (missed + false + switches) / max(true, 1),
        "switches": switches,
        "fragments": fragments,
        "misses": missed,
        "false_positives": false,
        "tracks": len({number for track in numbers for number in track.tolist()}),
    }


def _kept(who: list[int], track: list[int], shared: np.ndarray, last: dict[int, int]) -> list[tuple[int, int]]:
    """(row, column) of the people whose last track is still on them; of two with the same track, the first."""
    pairs: dict[int, int] = {}
    for row, person in enumerate(who):
        column = track.index(last[person]) if last.get(person) in track else -1
        if column >= 0 and column not in pairs and shared[row, column] >= SAME:
            pairs[column] = row
    return [(row, column) for column, row in pairs.items()]


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
