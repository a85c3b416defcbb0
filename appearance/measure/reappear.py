"""Is a person who comes back after N frames recognised? The measure for one camera, and for a tracker.

A query is a person at a time. Right answers are the gallery images of that person in the same camera at least `gap`
frames away, wrong ones those of other people in that camera at any time; nothing else is compared. Frames of one track
are near copies of each other, so without the gap any network does well: it is the curve against the gap that tells.
"""

from collections.abc import Sequence

import numpy as np
import torch

from appearance.cli import InputError
from appearance.measure.metrics import full_precision, measures, rank_queries, summary

GAP = 50  # frames, where nobody says: two seconds of most videos
STEPS = (1, 2, 5)  # the gaps of the curve: 1, 2, 5, 10, 20, 50, ...
BLOCK = 256  # queries a product


def rank(data: dict, gap: int) -> tuple[dict, list[dict], list[str]]:
    """Rank queries for one gap and for a curve of gaps.

    Args:
        data: checked features dict with cameras and times.
        gap: frames.

    Returns (per-query results for `gap` as `metrics.rank_scores` gives them, the curve
    [{gap, rank1, mAP, queries}, ...], lines that tell what was left out).
    Raises InputError when images have no camera or time, or nobody is seen again after so many frames.
    """
    known = {side: (data[side + "c"] >= 0) & (data[side + "t"] >= 0) for side in "qg"}
    lines = []
    for side, name in (("q", "query"), ("g", "gallery")):
        unknown = int((~known[side]).sum())
        if unknown == len(known[side]):
            raise InputError(
                f"--protocol reappear needs camera and frame of each image, and no {name} name tells them; "
                "`datasets.py crops` names crops so, as in 0002_c1_000451_03.jpg"
            )
        if unknown:
            lines.append(f"{unknown:,} of {len(known[side]):,} {name} images have no camera or frame: left out")
    pairs = _same_people(data, known)
    longest = max((int(frames.max()) for _, frames in pairs if len(frames)), default=-1)
    if longest < gap:
        seen = f"the longest time between two images of one person is {longest:,} frames" if longest >= 0 else "none is"
        raise InputError(f"--gap {gap}: no query's person is seen again in its camera after so many frames; {seen}")
    results = _results(data, pairs, gap)
    return results, [_point(pairs, step) for step in _steps(gap, longest)], lines


def otherwise(data: dict) -> dict:
    """Rank-1 and mAP as far as the data allow, for the curves of a training run.

    By Market-1501's protocol; where each person is seen by one camera alone, of the same person `GAP` frames away, or
    fewer where half of the queries do not come back so late; and where names do not tell the frame, of any image.
    """
    seen = torch.stack([torch.cat([data["q" + key], data["g" + key][data["gl"] != -1]]) for key in "lct"])
    people, views = seen[0].unique(), seen[:2].unique(dim=1)
    if len(people) < views.shape[1] or (seen[1] < 0).any():
        return summary(rank_queries(data))
    if (seen[2] >= 0).all():
        pairs = _same_people(data, {side: torch.ones(len(data[side + "l"]), dtype=torch.bool) for side in "qg"})
        longest = sorted(int(frames.max(initial=0)) for _, frames in pairs)[len(pairs) // 2]
        gap = max((step for step in _steps(GAP, longest) if step <= longest), default=None)
        if gap is not None:
            return summary(_results(data, pairs, min(gap, GAP)))
    return summary(rank_queries(data | {key: torch.full_like(data[key], -1) for key in ("qc", "gc")}))


def figures(gap: int, curve: list[dict], calibration: dict | None) -> dict:
    """The metrics file's part: gap, curve, and the threshold for the gap, None where there are no pairs for it."""
    group = calibration["groups"].get("reappear", {}) if calibration else {}
    threshold = {"max_dist": group.get("threshold"), "kept": group.get("kept")}
    return {"gap": gap, "curve": curve} | threshold | {"false_matches": group.get("false_matches")}


def _same_people(data: dict, known: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each query (P,) (P,): of its person's P images in its camera, best first, how many wrong ones score at least
    as high, and how many frames away they are."""
    arrays = {key: data[key].cpu().numpy() for key in ("ql", "qc", "qt", "gl", "gc", "gt")}
    usable = known["g"].cpu().numpy() & (arrays["gl"] != -1)
    gallery = {camera: np.flatnonzero(usable & (arrays["gc"] == camera)) for camera in np.unique(arrays["gc"])}
    nothing = np.empty(0, np.int64)
    pairs = [(nothing, nothing)] * len(arrays["ql"])
    with full_precision():
        for camera, columns in gallery.items():
            rows = np.flatnonzero(known["q"].cpu().numpy() & (arrays["qc"] == camera))
            images = data["gf"][torch.from_numpy(columns).to(data["gf"].device)].to(data["qf"].device)
            for block in np.array_split(rows, max(1, len(rows) // BLOCK)):
                scores = (data["qf"][torch.from_numpy(block).to(images.device)] @ images.T).cpu().numpy()
                for query, score in zip(block, scores, strict=True):
                    right = arrays["gl"][columns] == arrays["ql"][query]
                    own = np.argsort(-score[right], kind="stable")
                    wrong = np.sort(score[~right])
                    above = len(wrong) - np.searchsorted(wrong, score[right][own])
                    pairs[query] = above, np.abs(arrays["gt"][columns][right][own] - arrays["qt"][query])
    return pairs


def _results(data: dict, pairs: Sequence[tuple], gap: int) -> dict:
    """What `metrics.rank_scores` gives, for one gap."""
    return _measures(pairs, gap) | {
        "identity": data["ql"].cpu(),
        "gallery": int((data["gl"] != -1).sum()),
        "same_camera_only": 0,
    }


def _point(pairs: Sequence[tuple], gap: int) -> dict:
    found = _measures(pairs, gap)
    valid = found["correct"] > 0
    rank1 = (found["first"][valid] == 1).double().mean().item()
    return {"gap": gap, "rank1": rank1, "mAP": found["ap"][valid].mean().item(), "queries": int(valid.sum())}


def _measures(pairs: Sequence[tuple], gap: int) -> dict:
    above = [torch.from_numpy(wrong[frames >= gap]) for wrong, frames in pairs]
    number = torch.tensor([len(one) for one in above])
    return measures(torch.nn.utils.rnn.pad_sequence(above, batch_first=True), number)


def _steps(gap: int, longest: int) -> list[int]:
    """Gaps of the curve, up to the longest that anybody is away."""
    gaps, power = {gap}, 1
    while power <= longest:
        gaps |= {step * power for step in STEPS if step * power <= longest}
        power *= 10
    return sorted(gaps)
