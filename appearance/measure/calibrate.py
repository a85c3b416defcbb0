"""How far apart are images of one person and of two, and which distance should a tracker accept?

DeepSORT matches a detection to a track when the cosine distance of their vectors is at most `max_dist` (0.2 unless
set), but what distances a network gives depends on the network: the right value has to be measured. A tracker compares
images of one camera taken moments apart, so these pairs are counted separately where camera and time are known.
"""

import torch

from appearance.cli import InputError
from appearance.networks.precision import full_precision

BINS = 20000  # over the cosine distances 0 to 2, so thresholds are exact to 0.0001
BARS = 80  # of a histogram
PAIRS = 100_000_000  # pairs compared; a larger set is sampled, as many pairs tell no more
MIN_SAME = 100  # same-identity pairs that a recommendation rests on at least
REAPPEAR = {"reappear": "same camera, a person again at least {gap} frames later"}  # where a gap is asked for
GROUPS = {
    "tracker": "same camera, at most {window} frames apart",
    "camera": "same camera",
    "all": "all pairs",
}


@torch.no_grad()
def calibrate(
    data: dict, false_match_rate: float = 0.01, window: int = 100, seed: int = 0, gap: int | None = None
) -> dict:
    """Distances of same- and different-identity pairs among all images, query and gallery, without junk.

    Args:
        data: checked features dict.
        false_match_rate: share of different-identity pairs that the threshold may accept.
        window: frames that lie at most between two images of a "tracker" pair.
        seed: for the sample of images of a large set.
        gap: frames that lie at least between two images of one person in a "reappear" pair; None: no such group.

    Returns {"max_dist", "kept", "false_match_rate", "based_on", "groups": {name: {title, same_pairs, different_pairs,
    threshold, kept, false_matches, equal_error_rate, equal_error_threshold, roc: [[false match rate, true match rate,
    threshold], ...], same_histogram, different_histogram}}, "bar_width"}. `kept` is the share of same-identity pairs
    within the threshold, `false_matches` of different ones; histograms are shares of pairs in bars of that width, from
    distance 0 on. `max_dist` is that of the first of the groups reappear, tracker, camera, all with enough pairs.
    Raises InputError when no pair of one kind exists.
    """
    counts = _histograms(data, window, seed, gap)
    # bars from 0 to where almost all pairs lie, which a poor network squeezes into a tenth of the range
    below = counts["all"].sum(0).cumsum(0)
    bar = int(torch.searchsorted(below, int(0.999 * below[-1]))) // BARS + 1  # fine bins in a bar
    groups = {}
    for name, count in counts.items():
        different, same = count.unbind(0)
        if same.sum() and different.sum():
            title = (REAPPEAR | GROUPS)[name].format(window=window, gap=gap)
            groups[name] = {"title": title} | _group(same, different, false_match_rate, bar)
    if "all" not in groups:
        raise InputError("--calibrate: the features hold no two images of one identity, or only one identity")
    enough = [
        name
        for name, group in groups.items()
        if group["same_pairs"] >= MIN_SAME and group["different_pairs"] * false_match_rate >= 10
    ]
    chosen = enough[0] if enough else "all"
    best = groups[chosen]
    return {
        "max_dist": best["threshold"],
        "kept": best["kept"],
        "false_match_rate": false_match_rate,
        "based_on": chosen,
        "groups": groups,
        "bar_width": bar * 2 / BINS,
    }


def _histograms(data: dict, window: int, seed: int, gap: int | None) -> dict:
    """{group: (2, BINS) counts of pairs by distance; row 0 different identities, row 1 the same}."""
    device = data["gf"].device
    kept = (data["gl"] != -1).nonzero()[:, 0].to(device)
    total = len(data["ql"]) + len(kept)
    # in random order, of which a large set's first rows are compared with all after them
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).to(device)
    labels, cameras, times, features = (
        torch.cat([data["q" + key].to(device), data["g" + key].to(device)[kept]])[order] for key in "lctf"
    )
    # distractors (0 unless a query has it) are many people under one label: nothing is known of two of them
    strangers = (labels == 0) & ~(data["ql"] == 0).any().to(device)
    place = torch.arange(total, device=device)
    names = GROUPS if gap is None else REAPPEAR | GROUPS
    counts = {name: torch.zeros(2 * BINS, dtype=torch.int64, device=device) for name in names}
    with full_precision():
        for rows in place[: max(1, PAIRS // total)].split(max(1, (8 << 20) // total)):
            distance = 1 - features[rows] @ features.T  # (B, N)
            bins = (distance * (BINS / 2)).long().clamp_(0, BINS - 1)
            bins += (labels[rows, None] == labels) * BINS
            usable = (place > rows[:, None]) & ~(strangers[rows, None] & strangers)
            camera = usable & (cameras[rows, None] == cameras) & (cameras >= 0)
            timed = camera & (times >= 0) & (times[rows, None] >= 0)
            apart = (times[rows, None] - times).abs()
            masks = {"all": usable, "camera": camera, "tracker": timed & (apart <= window)}
            if gap is not None:
                masks["reappear"] = timed & ((apart >= gap) | (labels[rows, None] != labels))
            for name, mask in masks.items():
                counts[name] += torch.bincount(bins[mask], minlength=2 * BINS)
    return {name: value.view(2, BINS).cpu() for name, value in counts.items()}


def _group(same, different, false_match_rate: float, bar: int) -> dict:
    """Threshold, ROC and histograms from counts (BINS,) of the distances of same- and different-identity pairs."""
    zero = torch.zeros(1, dtype=torch.float64)
    true_rate = torch.cat([zero, same.cumsum(0) / same.sum()])  # (BINS + 1,) share below each bin edge
    false_rate = torch.cat([zero, different.cumsum(0) / different.sum()])
    edge = torch.linspace(0, 2, BINS + 1, dtype=torch.float64)
    at = int(torch.searchsorted(false_rate, false_match_rate, right=True)) - 1  # last edge within the rate
    equal = int((false_rate - (1 - true_rate)).abs().argmin())
    # the ROC changes only where a pair lies; thin it out to readable JSON
    steps = torch.linspace(0, 1, 101, dtype=torch.float64)
    points = torch.searchsorted(false_rate, torch.cat([steps / 100, steps]).sort().values).clamp(max=BINS).unique()
    return {
        "same_pairs": int(same.sum()),
        "different_pairs": int(different.sum()),
        "threshold": round(edge[at].item(), 4),
        "kept": true_rate[at].item(),
        "false_matches": false_rate[at].item(),
        "equal_error_rate": ((false_rate[equal] + 1 - true_rate[equal]) / 2).item(),
        "equal_error_threshold": round(edge[equal].item(), 4),
        "roc": [[false_rate[i].item(), true_rate[i].item(), round(edge[i].item(), 4)] for i in points.tolist()],
        "same_histogram": _bars(same, bar),
        "different_histogram": _bars(different, bar),
    }


def _bars(counts, bar: int) -> list[float]:
    """Shares of all pairs in the histogram's bars of `bar` fine bins each; the last few far pairs fall off the end."""
    shown = torch.nn.functional.pad(counts, (0, BARS * bar))[: BARS * bar]
    return (shown.view(BARS, bar).sum(1) / counts.sum()).tolist()
