"""Is a person who comes back after N frames recognised? The measure for one camera, and for a tracker.

A query is a person at a time. Right answers are the gallery images of that person in the same camera at least `gap`
frames away, wrong ones those of other people in that camera at any time; nothing else is compared. Frames of one track
are near copies of each other, so without the gap any network does well: it is the curve against the gap that tells.

`at_exactly` asks what a tracker asks of one frame: of the people seen exactly `gap` frames later, which one is it? It
is the re-association protocol of Roboflow's package reid.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from appearance.cli import InputError
from appearance.data.names import SEQUENCE_FRAMES
from appearance.identities import JUNK, are_people
from appearance.measure.metrics import DEFAULT_MEMORY, PAIR_BYTES, Similarity, full_precision, measures
from appearance.measure.stacked import Stacked

GAP = 50  # frames, where nobody says: two seconds of most videos
STEPS = (1, 2, 5)  # the gaps of the curve: 1, 2, 5, 10, 20, 50, ...
BLOCK = 512  # queries a product at most
EXACT_GAP, EVERY = 30, 60  # frames, of the re-association protocol


def rank(data: dict, gap: int, memory: int = DEFAULT_MEMORY) -> tuple[dict, list[dict], list[str]]:
    """Rank queries for one gap and for a curve of gaps.

    Args:
        data: checked features dict with cameras and times.
        gap: frames.
        memory: bytes that may be used beside the features.

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
    longest = _longest(data, known)
    if longest < gap:
        seen = f"the longest time between two images of one person is {longest:,} frames" if longest >= 0 else "none is"
        raise InputError(f"--gap {gap}: no query's person is seen again in its camera after so many frames; {seen}")
    found = _by_gap(data, known, _steps(gap, longest), memory)
    results = found[gap] | {
        "identity": data["ql"].cpu(),
        "gallery": int((data["gl"] != JUNK).sum()),
        "same_camera_only": 0,
    }
    return results, [_point(step, of_step) for step, of_step in found.items()], lines


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
    features = Stacked(data["qf"], data["gf"])
    chosen, above, left_out = [], [], dict.fromkeys(("without a later frame", "alone in it", "gone by then"), 0)
    with full_precision():
        for (camera, time), people in sorted(seen.items()):
            later = seen.get((camera, time + gap), {})
            if _frame(time) % every:
                continue
            asked, answers = (
                features[torch.tensor(list(side.values()), dtype=torch.int64)] for side in (people, later)
            )
            scores = asked @ answers.T
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
        data = (
            data
            | {side + key: together[key][picked] for key in "lct"}
            | {side + "f": Stacked(features, chosen=torch.tensor(picked))}
        )
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


def _longest(data: dict, known: dict) -> int:
    """Frames from a query to an image of its person and camera, the most that there are; -1 without such an image."""
    usable = known["g"] & (data["gl"] != JUNK)
    sides = {"q": known["q"], "g": usable}
    views, times = (
        {side: torch.stack([data[side + key][rows].cpu() for key in keys], 1) for side, rows in sides.items()}
        for keys in ("lc", "t")
    )
    found, place = torch.cat([views["q"], views["g"]]).unique(dim=0, return_inverse=True)
    asked, there = place.split([len(views["q"]), len(views["g"])])
    longest = -1
    for end in ("amin", "amax"):
        farthest = torch.full((len(found),), -1).scatter_reduce_(0, there, times["g"][:, 0], end, include_self=False)
        farthest = farthest[asked]
        away = (times["q"][:, 0] - farthest).abs()[farthest >= 0]
        longest = max(longest, int(away.max()) if len(away) else -1)
    return longest


def _by_gap(data: dict, known: dict, gaps: Sequence[int], memory: int) -> dict[int, dict]:
    """{gap: per-query measures, as `metrics.measures` gives them}."""
    found: dict[int, dict] = {gap: {} for gap in gaps}
    for queries, pairs in _same_people(data, known, memory):
        most = max(len(frames) for _, frames in pairs)
        at_once = max(1, memory // 4 // PAIR_BYTES // max(1, most))
        for start in range(0, len(queries), at_once):
            rows, part = torch.from_numpy(queries[start : start + at_once]), pairs[start : start + at_once]
            for gap, results in found.items():
                for key, value in _measures(part, gap).items():
                    results.setdefault(key, torch.zeros(len(data["ql"]), dtype=value.dtype))[rows] = value
    return found


def _same_people(data: dict, known: dict, memory: int) -> Iterator[tuple[np.ndarray, list]]:
    """Queries (B,), and for each (P,) (P,): of its person's P images in its camera, best first, how many wrong ones
    score at least as high, and how many frames away they are."""
    arrays = {key: data[key].cpu().numpy() for key in ("ql", "qc", "qt", "gl", "gc", "gt")}
    usable = known["g"].cpu().numpy() & (arrays["gl"] != JUNK)
    with full_precision():
        for camera in np.unique(arrays["qc"][known["q"].cpu().numpy()]):
            columns = np.flatnonzero(usable & (arrays["gc"] == camera))
            queries = np.flatnonzero(known["q"].cpu().numpy() & (arrays["qc"] == camera))
            images = Stacked(data["gf"], chosen=torch.from_numpy(columns).to(data["gf"].device))
            similarity = Similarity(data["qf"], images, memory)
            height = max(1, min(BLOCK, memory // 8 // (4 * max(1, len(columns)))))
            labels, times = arrays["gl"][columns], arrays["gt"][columns]
            for start in range(0, len(queries), height):
                block, pairs = queries[start : start + height], []
                scores = torch.empty(len(block), len(columns), device=similarity.device)
                similarity(torch.from_numpy(block), scores)
                for query, score in zip(block, scores.cpu().numpy(), strict=True):
                    right = labels == arrays["ql"][query]
                    own = np.argsort(-score[right], kind="stable")
                    wrong = np.sort(score[~right])
                    above = len(wrong) - np.searchsorted(wrong, score[right][own])
                    pairs.append((above, np.abs(times[right][own] - arrays["qt"][query])))
                yield block, pairs


def _point(gap: int, found: dict) -> dict:
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
