"""Calibrate the tracker's threshold: measure the distances of same- and different-identity pairs.

DeepSORT matches a detection to a track if the cosine distance to the nearest of the track's vectors is at most
`max_dist` (default 0.2). Distances differ from network to network, so the right value has to be measured. If cameras
and times are known, images are compared with tracks as in DeepSORT (`tracks.py`). Pairs of images are always counted,
in separate groups for one camera and for short time gaps if those are known.

A threshold from few people generalises badly. So if the weights carry a threshold (`thresholds.py`), the measured one
does not replace it: the result lies between the two, closer to the measured one the more people there are.
"""

import math

import torch

from appearance.cli import InputError
from appearance.measure import intervals
from appearance.measure.metrics import DEFAULT_MEMORY
from appearance.measure.pairs import BINS, EDGES, FLOOR, GROUPS, Pairs
from appearance.measure.tracks import APART, Tracks
from appearance.networks.thresholds import carried

PAIRS_RATE, TRACKS_RATE = 0.01, 0.02  # default false match rates; docs/video.md says how they were chosen
BARS = 80  # of a histogram
MIN_SAME = 100  # least same-identity pairs without a warning
MIN_ACCEPTED = 10  # least accepted different-identity pairs without a warning
MIN_PEOPLE = 20  # least identities without a warning
HALFWAY = 20  # people with whom the result is halfway between the weights' threshold and the measured; docs/video.md
MAX_EQUAL_ERROR = 0.2  # above it, no threshold works: even the best one misjudges a fifth of the pairs


@torch.no_grad()
def calibrate(
    data: dict,
    false_match_rate: float | None = None,
    window: int = 100,
    seed: int = 0,
    gap: int | None = None,
    memory: int = DEFAULT_MEMORY,
) -> dict:
    """Recommend a threshold from all images, query and gallery without junk.

    Args:
        data: checked features dict; `meta["max_dist"]` is the threshold of the weights, if any.
        false_match_rate: fraction of different-identity pairs that the threshold may accept. None: TRACKS_RATE or
            PAIRS_RATE.
        window: largest number of frames between the two images of a "tracker" pair, or between neighbours in a track.
        seed: of the sample from a large set, and of the interval.
        gap: least number of frames between the images of a same-identity "reappear" pair, and between an image and
            the compared images of its own track. None: no group "reappear", and APART.
        memory: bytes to use beside the features.

    Returns a dict:
        max_dist: the recommended threshold: `measured`, or if the weights carry one, between `start` and `measured`
            (`moved`).
        max_dist_interval: its 95 % interval over identities, [low, high]; None with too few identities.
        measured: the threshold with the false match rate in the first of the groups track, reappear, tracker, camera,
            all that has enough pairs; that group is `based_on`.
        start: the threshold of the weights, or None.
        kept: fraction of same-identity pairs within `max_dist`.
        identities, false_match_rate: number of people, and the rate that was used.
        warnings: sentences, reasons not to rely on the result.
        groups: {name: {title, same_pairs, different_pairs, threshold, kept, false_matches, equal_error_rate,
            equal_error_threshold, roc: [[false match rate, true match rate, threshold], ...], same_histogram,
            different_histogram}}. `false_matches` is the fraction of different-identity pairs within the threshold;
            histograms hold fractions of pairs in bars of `bar_width`, from distance 0. A pair of the group "track" is
            an image and a track. The group `based_on` has its figures at `max_dist`.
        bar_width: cosine distance.

    Raises:
        InputError: there are no same-identity or no different-identity pairs.
    """
    pairs = Pairs(data, window, seed, gap, memory)
    tracks = Tracks(pairs, window, APART if gap is None else gap)
    counts = {"track": tracks.histogram()} | pairs.histograms()
    titles = {"track": tracks.title()} | {name: title.format(window=window, gap=gap) for name, title in GROUPS.items()}
    rates = dict.fromkeys(counts, PAIRS_RATE) | {"track": TRACKS_RATE}
    if false_match_rate is not None:
        rates = dict.fromkeys(counts, false_match_rate)
    # bars cover 99.9 % of the pairs, not 0 to 2: all distances of a poor network may lie below 0.2
    below = counts["all"].sum(0).cumsum(0)
    bar = _rounded(EDGES[int(torch.searchsorted(below, int(0.999 * below[-1]))) + 1] / BARS)
    groups, edges = {}, {}
    for name, count in counts.items():
        different, same = count.unbind(0)
        if same.sum() and different.sum():
            edges[name] = _last_edge(different, rates[name])
            groups[name] = {"title": titles[name]} | _group(same, different, edges[name], bar)
    if "all" not in groups:
        raise InputError(
            "--calibrate: needs two images of one person and images of another; run test.py on a dataset with both"
        )
    enough = [
        name
        for name, group in groups.items()
        if group["same_pairs"] >= MIN_SAME and group["different_pairs"] * rates[name] >= MIN_ACCEPTED
    ]
    chosen = enough[0] if enough else "all"
    measured = groups[chosen]["threshold"]
    by_identity = tracks.by_identity(edges[chosen]) if chosen == "track" else pairs.by_identity(chosen, edges[chosen])
    interval = _interval(by_identity, measured, counts[chosen][0], rates[chosen], seed)
    start = carried(data.get("meta", {})).get("max_dist")
    if start is not None:
        max_dist = moved(start, measured, pairs.people)
        interval = interval and [moved(start, end, pairs.people) for end in interval]
        different, same = counts[chosen].unbind(0)
        at = int(torch.searchsorted(EDGES, max_dist))
        groups[chosen] |= _group(same, different, at, bar) | {"threshold": max_dist}
    best = groups[chosen]
    return {
        "max_dist": best["threshold"],
        "max_dist_interval": interval,
        "measured": measured,
        "start": start,
        "identities": pairs.people,
        "kept": best["kept"],
        "false_match_rate": rates[chosen],
        "based_on": chosen,
        "warnings": _warnings(data, best, bool(enough), pairs.people, rates[chosen]),
        "groups": groups,
        "bar_width": bar,
    }


def moved(start: float, measured: float, people: int) -> float:
    """The threshold between `start` (of the weights) and `measured` (on `people` identities).

    Geometric interpolation: people / (people + HALFWAY) of the way on a log scale.
    """
    share = _share(people)
    return _rounded(max(start, FLOOR) ** (1 - share) * max(measured, FLOOR) ** share)


def _share(people: int) -> float:
    return people / (people + HALFWAY)


def notes(found: dict) -> list[str]:
    """Lines to print below a threshold: how it was interpolated, and warnings."""
    lines = []
    if found["start"] is not None:
        lines.append(
            f"a blend: {_share(found['identities']):.0%} of the way from the weights' {in_digits(found['start'])} to "
            f"{in_digits(found['measured'])}, measured on these {found['identities']:,} people"
        )
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    if found["based_on"] != "track":
        lines.append(
            "note: measured on pairs of images, for lack of tracks (file names with camera and frame); a tracker takes "
            "the nearest of a track's images, so it will accept more"
        )
    return lines


def _warnings(data: dict, group: dict, enough: bool, people: int, rate: float) -> list[str]:
    found = []
    if not enough:
        needed = f" (at least {math.ceil(MIN_ACCEPTED / rate):,} needed)" if rate else ""
        found.append(
            f"too few pairs: {group['same_pairs']:,} of the same person (at least {MIN_SAME} needed) and "
            f"{group['different_pairs']:,} of different people{needed}; this is a guess, measure more images"
        )
    if people < MIN_PEOPLE:
        found.append(f"too few people: {people} (at least {MIN_PEOPLE} needed); others may need another threshold")
    if group["equal_error_rate"] > MAX_EQUAL_ERROR:
        found.append(
            "no threshold works: distances of the same and of different people overlap (equal error rate "
            f"{group['equal_error_rate']:.1%}); train longer, or on images more like these"
        )
    met = data.get("meta", {}).get("identities_trained_on")
    if isinstance(met, int) and met > 0:
        found.append(
            f"the network was trained on {met} of these {people} people, so their distances are not typical; "
            "measure people that it was not trained on"
        )
    return found


def _interval(counted: torch.Tensor, threshold: float, different, rate: float, seed: int) -> list[float] | None:
    """95 % interval of a group's threshold, by a bootstrap over identities.

    An identity drawn w times counts w times in each of its pairs. To first order, the fraction of accepted pairs then
    changes by the sum over identities of (w - 1) (accepted - fraction * all) / pairs, and the threshold moves to where
    the original pairs have the rate minus that change. A pair belongs to two identities, so its variance is subtracted
    once (Fafchamps and Gubert, "The formation of risk sharing networks", 2007).

    Args:
        counted: (2, K, K) pairs between two identities: all, and accepted.
        different: (BINS,) different-identity pairs by distance.

    Returns:
        [low, high], or None if the identities do not differ (as with only two).
    """
    total, accepted = counted  # (K, K) each
    excess = (accepted - accepted.sum() / total.sum() * total) / (total.sum() / 2)  # (K, K), sums to 0
    excess = excess[total.sum(1) > 0]  # identities with pairs
    by_identity = excess.sum(1)
    squares = by_identity.square().sum()
    if squares == 0:
        return None
    moved = torch.cat([times @ by_identity for times in intervals.draws(len(excess), seed)])  # (R,)
    moved *= ((squares - excess.square().sum() / 2) / squares).clamp(0.5, 1).sqrt()
    below = torch.cat([torch.zeros(1, dtype=torch.float64), different.cumsum(0) / different.sum()])
    edges = torch.searchsorted(below, (rate - moved).clamp(0, 1), right=True) - 1
    low, high = intervals.of_estimates(EDGES[edges], len(excess)).tolist()
    return [_rounded(min(low, threshold)), _rounded(max(high, threshold))]


def in_digits(distance: float, decimals: int = 4) -> str:
    """A distance as text: with `decimals`, or more if needed for three significant digits."""
    needed = 2 - math.floor(math.log10(distance)) if distance >= FLOOR else 0
    return f"{distance:.{max(decimals, needed)}f}"


def _rounded(distance: float) -> float:
    """Round to six significant digits, finer than any bin."""
    return float(f"{distance:.6g}")


def _last_edge(different, false_match_rate: float) -> int:
    """Index of the last bin edge below which at most `false_match_rate` of `different` (BINS,) lies."""
    below = torch.cat([torch.zeros(1, dtype=torch.float64), different.cumsum(0) / different.sum()])
    return int(torch.searchsorted(below, false_match_rate, right=True)) - 1


def _group(same, different, at: int, bar: float) -> dict:
    """Threshold, ROC and histograms of same- and different-identity pairs, from their counts per bin (BINS,).

    Args:
        at: index of the bin edge that is the threshold.
        bar: width of the histograms' bars, a cosine distance.
    """
    zero = torch.zeros(1, dtype=torch.float64)
    true_rate = torch.cat([zero, same.cumsum(0) / same.sum()])  # (BINS + 1,) fraction below each bin edge
    false_rate = torch.cat([zero, different.cumsum(0) / different.sum()])
    equal = int((false_rate - (1 - true_rate)).abs().argmin())
    # the ROC has a step for each pair; thin it out to keep the JSON readable
    steps = torch.linspace(0, 1, 101, dtype=torch.float64)
    points = torch.searchsorted(false_rate, torch.cat([steps / 100, steps]).sort().values).clamp(max=BINS).unique()
    return {
        "same_pairs": int(same.sum()),
        "different_pairs": int(different.sum()),
        "threshold": _rounded(EDGES[at]),
        "kept": true_rate[at].item(),
        "false_matches": false_rate[at].item(),
        "equal_error_rate": ((false_rate[equal] + 1 - true_rate[equal]) / 2).item(),
        "equal_error_threshold": _rounded(EDGES[equal]),
        "roc": [[false_rate[i].item(), true_rate[i].item(), _rounded(EDGES[i])] for i in points.tolist()],
        "same_histogram": _bars(same, bar),
        "different_histogram": _bars(different, bar),
    }


def _bars(counts, bar: float) -> list[float]:
    """Fractions of all pairs in BARS bars of equal width from distance 0; pairs beyond the last bar are left out."""
    ends = torch.searchsorted(EDGES, bar * torch.arange(BARS + 1, dtype=torch.float64)).clamp(max=BINS)
    below = torch.cat([torch.zeros(1, dtype=torch.float64), counts.cumsum(0) / counts.sum()])
    return below[ends].diff().tolist()
