"""How far apart are images of one person and of two, and which distance should a tracker accept?

DeepSORT matches a detection to a track when the cosine distance to the nearest of the track's vectors is at most
`max_dist` (0.2 unless set), but what distances a network gives depends on the network: the right value has to be
measured. Where names tell camera and time, images are compared with tracks as there (`tracks.py`); in any case pairs
of images are counted, those of one camera and moments apart separately where they are known.

Few people say little about others. So where the weights bring a threshold of their own (`thresholds.py`), the measured
one does not replace it: the threshold moves from there towards the measured one, as far as there are people.
"""

import math

import torch

from appearance.cli import InputError
from appearance.measure import intervals
from appearance.measure.metrics import DEFAULT_MEMORY
from appearance.measure.pairs import BINS, EDGES, FLOOR, GROUPS, Pairs
from appearance.measure.tracks import APART, Tracks
from appearance.networks.thresholds import carried

PAIRS_RATE, TRACKS_RATE = 0.01, 0.02  # false matches where nobody says how many; docs/video.md has how they were chosen
BARS = 80  # of a histogram
MIN_SAME = 100  # same-identity pairs that a recommendation rests on at least,
MIN_ACCEPTED = 10  # pairs of different people that it accepts at least,
MIN_PEOPLE = 20  # and identities
HALFWAY = 20  # people who move the threshold that the weights bring half of the way to their own; docs/video.md
MAX_EQUAL_ERROR = 0.2  # from here on no threshold works: the best one has a fifth of the pairs on its wrong side


@torch.no_grad()
def calibrate(
    data: dict,
    false_match_rate: float | None = None,
    window: int = 100,
    seed: int = 0,
    gap: int | None = None,
    memory: int = DEFAULT_MEMORY,
) -> dict:
    """Distances of same- and different-identity pairs among all images, query and gallery, without junk.

    Args:
        data: checked features dict; `meta["max_dist"]` is the threshold that the weights bring.
        false_match_rate: share of strangers that the threshold may accept. None: TRACKS_RATE or PAIRS_RATE.
        window: frames that lie at most between two images of a "tracker" pair, or of a track.
        seed: for the sample of images of a large set, and for the interval.
        gap: frames that lie at least between two images of one person in a "reappear" pair, and between an image and
            its own track (None: no such group; APART).
        memory: bytes that may be used beside the features.

    Returns {"max_dist", "max_dist_interval", "measured", "start", "identities", "kept", "false_match_rate", "based_on",
    "warnings", "groups": {name: {title, same_pairs, different_pairs, threshold, kept, false_matches, equal_error_rate,
    equal_error_threshold, roc: [[false match rate, true match rate, threshold], ...], same_histogram,
    different_histogram}}, "bar_width"}. `kept` is the share of same-identity pairs within the threshold,
    `false_matches` of different ones; histograms are shares of pairs in bars of that width, from distance 0 on. In the
    group "track" a pair is an image and a track.
    `measured` is the threshold of the first of the groups track, reappear, tracker, camera, all with enough pairs, at
    which the false matches have the given rate. `max_dist`, the one to use, is the same, or where the weights bring
    one (`start`, else None) moved from there, as `moved` says; the group's `threshold`, `kept` and `false_matches` are
    those at `max_dist`. In 95 % of cases other people of the same kind would put it within its interval (None: too few
    to tell). `warnings` are sentences that say why not to rely on it.
    Raises InputError when no pair of one kind exists.
    """
    pairs = Pairs(data, window, seed, gap, memory)
    tracks = Tracks(pairs, window, APART if gap is None else gap)
    counts = {"track": tracks.histogram()} | pairs.histograms()
    titles = {"track": tracks.title()} | {name: title.format(window=window, gap=gap) for name, title in GROUPS.items()}
    rates = dict.fromkeys(counts, PAIRS_RATE) | {"track": TRACKS_RATE}
    if false_match_rate is not None:
        rates = dict.fromkeys(counts, false_match_rate)
    # bars from 0 to where almost all pairs lie, which a poor network squeezes into a tenth of the range
    below = counts["all"].sum(0).cumsum(0)
    bar = _rounded(EDGES[int(torch.searchsorted(below, int(0.999 * below[-1]))) + 1] / BARS)
    groups, edges = {}, {}
    for name, count in counts.items():
        different, same = count.unbind(0)
        if same.sum() and different.sum():
            edges[name] = _last_edge(different, rates[name])
            groups[name] = {"title": titles[name]} | _group(same, different, edges[name], bar)
    if "all" not in groups:
        raise InputError("--calibrate: the features hold no two images of one identity, or only one identity")
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
    """The threshold between the one that the weights bring and that of some people: on a scale of ratios, people /
    (people + HALFWAY) of the way."""
    share = _share(people)
    return _rounded(max(start, FLOOR) ** (1 - share) * max(measured, FLOOR) ** share)


def _share(people: int) -> float:
    return people / (people + HALFWAY)


def notes(found: dict) -> list[str]:
    """Lines to print below a threshold: which way it was moved, and why not to rely on it."""
    lines = []
    if found["start"] is not None:
        lines.append(
            f"the weights bring {in_digits(found['start'])}, these {found['identities']:,} people have "
            f"{in_digits(found['measured'])}: moved {_share(found['identities']):.0%} of the way"
        )
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    if found["based_on"] != "track":
        lines.append("note: of pairs of images, as names tell of too few tracks; a track's nearest image accepts more")
    return lines


def _warnings(data: dict, group: dict, enough: bool, people: int, rate: float) -> list[str]:
    found = []
    if not enough:
        least = f"{math.ceil(MIN_ACCEPTED / rate):,}" if rate else "endlessly many"
        found.append(
            f"too few pairs: {group['same_pairs']:,} of one person and {group['different_pairs']:,} of different "
            f"people, where {MIN_SAME} and {least} are the least; take it for a guess and measure more images"
        )
    if people < MIN_PEOPLE:
        found.append(f"too few people: {people}, where {MIN_PEOPLE} are the least; others may need another value")
    if group["equal_error_rate"] > MAX_EQUAL_ERROR:
        found.append(
            "no threshold works: the distances of one person and of different people overlap so far that the best has "
            f"{group['equal_error_rate']:.1%} of both on its wrong side; train longer, or on images more like these"
        )
    met = data.get("meta", {}).get("identities_trained_on")
    if isinstance(met, int) and met > 0:
        found.append(
            f"the network was trained on {met} of these {people} people, whose distances are unlike those of others; "
            "measure people that it has never seen"
        )
    return found


def _interval(counted: torch.Tensor, threshold: float, different, rate: float, seed: int) -> list[float] | None:
    """95 % interval of a group's threshold from draws of its identities; None where they do not differ, as two do not.

    With an identity drawn w times, its pairs with others count w times: to first order the share of accepted pairs
    moves by sum (w - 1) (accepted - share * all) / pairs over the identities, and the threshold to where all pairs
    together have the rate less that. What two identities have with each other moves both, and is taken out once
    (Fafchamps and Gubert, "The formation of risk sharing networks", 2007).

    Args:
        counted: (2, K, K) pairs of two identities with each other, all of them and the accepted ones.
        different: (BINS,) pairs of different identities by distance.
    """
    total, accepted = counted  # (K, K) each
    excess = (accepted - accepted.sum() / total.sum() * total) / (total.sum() / 2)  # (K, K), sums to 0
    excess = excess[total.sum(1) > 0]  # those who take part
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
    """A distance as text: so many decimals, and more where these would leave less than three digits of it."""
    needed = 2 - math.floor(math.log10(distance)) if distance >= FLOOR else 0
    return f"{distance:.{max(decimals, needed)}f}"


def _rounded(distance: float) -> float:
    """To six digits, which is finer than any bin."""
    return float(f"{distance:.6g}")


def _last_edge(different, false_match_rate: float) -> int:
    """The last bin edge below which no larger share of `different` (BINS,) lies."""
    below = torch.cat([torch.zeros(1, dtype=torch.float64), different.cumsum(0) / different.sum()])
    return int(torch.searchsorted(below, false_match_rate, right=True)) - 1


def _group(same, different, at: int, bar: float) -> dict:
    """Threshold, ROC and histograms from counts (BINS,) of the distances of same- and different-identity pairs.

    Args:
        at: the bin edge that is the threshold.
        bar: width of a bar of the histograms.
    """
    zero = torch.zeros(1, dtype=torch.float64)
    true_rate = torch.cat([zero, same.cumsum(0) / same.sum()])  # (BINS + 1,) share below each bin edge
    false_rate = torch.cat([zero, different.cumsum(0) / different.sum()])
    equal = int((false_rate - (1 - true_rate)).abs().argmin())
    # the ROC changes only where a pair lies; thin it out to readable JSON
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
    """Shares of all pairs in BARS bars of one width, from distance 0 on; the last few far pairs fall off the end."""
    ends = torch.searchsorted(EDGES, bar * torch.arange(BARS + 1, dtype=torch.float64)).clamp(max=BINS)
    below = torch.cat([torch.zeros(1, dtype=torch.float64), counts.cumsum(0) / counts.sum()])
    return below[ends].diff().tolist()
