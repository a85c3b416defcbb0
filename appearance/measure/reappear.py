"""Is a person who comes back after N frames recognised? The measure for one camera, and for a tracker.

A query is a person at a time. Right answers are the gallery images of that person in the same camera at least `gap`
frames away, wrong ones those of other people in that camera at any time; nothing else is compared. Frames of one track
are near copies of each other, so without the gap any network does well: it is the curve against the gap that tells.

`at_exactly` asks what a tracker asks of one frame: of the people seen exactly `gap` frames later, which one is it? It
is the re-association protocol of Roboflow's package reid.
"""

from collections.abc import Sequence

import numpy as np
import torch

from appearance.cli import InputError
from appearance.data.names import SEQUENCE_FRAMES
from appearance.identities import JUNK, are_people
from appearance.measure.metrics import full_precision, measures

GAP = 50  # frames, where nobody says: two seconds of most videos
STEPS = (1, 2, 5)  # the gaps of the curve: 1, 2, 5, 10, 20, 50, ...
BLOCK = 256  # queries a product
EXACT_GAP, EVERY = 30, 60  # frames, of the re-association protocol


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


def at_exactly(data: dict, gap: int, every: int) -> tuple[dict, dict, list[str]]:
    """Rank each query among the people that its camera sees exactly `gap` frames later.

    Queries are all images, query and gallery, of frames that `every` divides, whose person is among at least two people
    at that later frame. One of these is right, so the average precision is the reciprocal rank.

    Args:
        data: checked features dict with cameras and times, an image of a person and frame each.
        gap, every: frames.

    Returns (features dict with these queries, and all images as the gallery; their per-query results as
    `metrics.rank_scores` gives them; lines that tell how many could not be a query).
    Raises InputError when no image can be a query, or two images show one person in one frame.
    """
    together = {key: torch.cat([data["q" + key].cpu(), data["g" + key].cpu()]) for key in "lct"}
    if gap < 1:
        raise InputError("--gap 0: with --exact at least 1")
    known = are_people(together["l"], data["ql"]) & (together["c"] >= 0) & (together["t"] >= 0)
    rows = known.nonzero()[:, 0].tolist()
    seen: dict[tuple[int, int], dict[int, int]] = {}  # camera and time -> identity -> row
    for row, label, camera, time in zip(rows, *(together[key][known].tolist() for key in "lct"), strict=True):
        if seen.setdefault((camera, time), {}).setdefault(label, row) != row:
            raise InputError(f"--exact: identity {label} is there twice in camera {camera}, frame {_frame(time)}")
    features = torch.cat([data["qf"], data["gf"].to(data["qf"].device)])
    chosen, above, left_out = [], [], dict.fromkeys(("without a later frame", "alone in it", "gone by then"), 0)
    with full_precision():
        for (camera, time), people in sorted(seen.items()):
            later = seen.get((camera, time + gap), {})
            if _frame(time) % every:
                continue
            scores = features[list(people.values())] @ features[list(later.values())].T if later else None
            for place, (label, row) in enumerate(people.items()):
                if len(later) < 2 or label not in later:
                    reasons = ("without a later frame", "alone in it", "gone by then")
                    left_out[reasons[min(len(later), 2)]] += 1
                    continue
                own = list(later).index(label)
                chosen.append(row)
                above.append(int((scores[place] >= scores[place, own]).sum()) - 1)  # without itself
    if not chosen:
        raise InputError(
            f"--exact: no person of a frame that {every} divides (--every) is seen among others exactly {gap} frames "
            "(--gap) later; cut all frames: datasets.py crops SEQUENCE OUT --test-ratio 1 --per-identity 100000"
        )
    wrong = torch.tensor(above)[:, None]
    results = measures(wrong, torch.ones(len(wrong), dtype=torch.long))
    results |= {"identity": together["l"][chosen], "gallery": len(rows), "same_camera_only": 0}
    paths = data["q_paths"] + data["g_paths"]
    for side, picked in (("q", chosen), ("g", rows)):
        data = data | {side + key: together[key][picked] for key in "lct"} | {side + "f": features[picked]}
        data[side + "_paths"] = [paths[row] for row in picked] if len(paths) == len(features) else []
    lines = [f"{count:,} people of these frames are {why} and no queries" for why, count in left_out.items() if count]
    return data, results, lines


def _frame(time: int) -> int:
    return time % SEQUENCE_FRAMES


def fitting_gap(data: dict) -> int | None:
    """The longest gap, up to GAP, after which at least half of the queries' people are seen again in their camera.

    None where names tell no times, or so few are seen again.
    """
    seen: dict[tuple[int, int], list[int]] = {}
    columns = (data[key].tolist() for key in ("gl", "gc", "gt"))
    for label, camera, time in zip(*columns, strict=True):
        if time >= 0:
            seen.setdefault((label, camera), []).append(time)
    columns = (data[key].tolist() for key in ("ql", "qc", "qt"))
    longest = [
        max((abs(time - other) for other in seen.get((label, camera), [])), default=-1) if time >= 0 else -1
        for label, camera, time in zip(*columns, strict=True)
    ]
    gaps = _steps(GAP, GAP)
    return max((gap for gap in gaps if gap <= np.median(longest)), default=None)


def summary(gap: int, curve: list[dict], calibration: dict) -> dict:
    """The metrics file's part: gap, curve, and the threshold for the gap, None where no pair is so far apart.

    It is that of images and tracks, where these are enough, else that of pairs.
    """
    of = "track" if calibration.get("based_on") == "track" else "reappear"
    group = calibration["groups"].get(of, {})
    threshold = {"max_dist": group.get("threshold"), "kept": group.get("kept")}
    return {"gap": gap, "curve": curve} | threshold | {"false_matches": group.get("false_matches")}


def _same_people(data: dict, known: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each query (P,) (P,): of its person's P images in its camera, best first, how many wrong ones score at least
    as high, and how many frames away they are."""
    arrays = {key: data[key].cpu().numpy() for key in ("ql", "qc", "qt", "gl", "gc", "gt")}
    usable = known["g"].cpu().numpy() & (arrays["gl"] != JUNK)
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
        "gallery": int((data["gl"] != JUNK).sum()),
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
