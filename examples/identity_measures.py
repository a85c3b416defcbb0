"""Tracking metrics: IDF1, identity switches and MOTA (tested to equal those of motmetrics), and HOTA."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from tracker import REFUSED, assign, overlap

SAME = 0.5  # least intersection over union of a track's box with a person's box for a match


def identity_measures(
    people: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    numbers: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
) -> dict[str, float]:
    """IDF1, IDP, IDR and MOTA as fractions of 1; counts of switches, fragments, misses, false positives and tracks.

    IDF1 (Ristani et al., "Performance Measures and a Data Set for Multi-Target, Multi-Camera Tracking", ECCVW 2016):
    each person is assigned at most one track for the whole sequence, so that the number of matching boxes is largest.
    IDF1 = 2 matching / (true + tracked boxes), IDP = matching / tracked boxes, IDR = matching / true boxes.

    The others follow Bernardin and Stiefelhagen, "Evaluating Multiple Object Tracking Performance: The CLEAR MOT
    Metrics", 2008. In each frame, a person keeps its last track while the two overlap, even if another track fits
    better; the remaining people and tracks are then matched. A switch is a match with another track than the person's
    last one; a fragment is an interruption of a person's matches; and MOTA = 1 - (misses + false positives + switches)
    / true boxes.

    Args:
        people: per frame, (n,) ground truth identities.
        boxes: per frame, (n, 4) ground truth boxes: left, top, width, height in pixels.
        numbers: per frame, (m,) track numbers.
        found: per frame, (m, 4) boxes of the tracks.
    """
    agreeing = agreements(people, boxes, numbers, found)
    last: dict[int, int] = {}  # person -> last matched track
    lost: set[int] = set()  # people who were matched before and are missed now
    switches = fragments = missed = false = 0
    for who, where, track, box in zip(people, boxes, numbers, found, strict=True):
        who, track = who.tolist(), track.tolist()
        shared = overlap(where, box) if who and track else np.zeros((len(who), len(track)))
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
    agree = sum(_best_pairs(agreeing).values())
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


def hota(
    people: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    numbers: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
) -> dict[str, float]:
    """HOTA, AssA (association) and DetA (detection) by the package trackeval, as fractions of 1.

    Luiten et al., "HOTA: A Higher Order Metric for Evaluating Multi-Object Tracking", IJCV 2021; means over the
    overlap thresholds 0.05, 0.1, ..., 0.95. Arguments as for `identity_measures`.

    Raises:
        ImportError: trackeval is not installed.
    """
    from trackeval.metrics import HOTA

    data = {"similarity_scores": [overlap(where, box) for where, box in zip(boxes, found, strict=True)]}
    for name, ids in (("gt", people), ("tracker", numbers)):
        known, places = np.unique(np.concatenate(ids), return_inverse=True)
        data[f"{name}_ids"] = np.split(places, np.cumsum([len(one) for one in ids])[:-1])
        data |= {f"num_{name}_ids": len(known), f"num_{name}_dets": len(places)}
    measured = HOTA().eval_sequence(data)
    return {key: float(np.mean(measured[key])) for key in ("HOTA", "AssA", "DetA")}


def _kept(who: list[int], track: list[int], shared: np.ndarray, last: dict[int, int]) -> list[tuple[int, int]]:
    """(row, column) of people who keep their last track; if two people have the same one, only the first."""
    pairs: dict[int, int] = {}
    for row, person in enumerate(who):
        column = track.index(last[person]) if last.get(person) in track else -1
        if column >= 0 and column not in pairs and shared[row, column] >= SAME:
            pairs[column] = row
    return [(row, column) for column, row in pairs.items()]


def agreements(people, boxes, numbers, found) -> Counter:
    """{(person, track): number of frames in which their boxes match}; arguments as for `identity_measures`."""
    counts: Counter = Counter()
    for who, where, track, box in zip(people, boxes, numbers, found, strict=True):
        if len(who) and len(track):
            for row, column in zip(*np.nonzero(overlap(where, box) >= SAME), strict=True):
                counts[int(who[row]), int(track[column])] += 1
    return counts


def recall_of_people(people, boxes, numbers, found) -> dict[int, tuple[int, int]]:
    """{person: (matching boxes of the track that IDF1 assigns, true boxes)}, whose sums give IDR."""
    true = Counter(person for who in people for person in who.tolist())
    agree = {person: count for (person, _), count in _best_pairs(agreements(people, boxes, numbers, found)).items()}
    return {person: (agree.get(person, 0), count) for person, count in true.items()}


def _best_pairs(agreeing: Counter) -> dict[tuple[int, int], int]:
    """The one-to-one assignment of people and tracks with most matching boxes: {(person, track): matching boxes}."""
    rows, columns = defaultdict(lambda: len(rows)), defaultdict(lambda: len(columns))
    places = {(rows[person], columns[number]): (person, number) for person, number in agreeing}
    if not places:
        return {}
    matrix = np.zeros((len(rows), len(columns)))
    for place, pair in places.items():
        matrix[place] = agreeing[pair]
    return {places[place]: agreeing[places[place]] for place in assign(-matrix) if place in places}
