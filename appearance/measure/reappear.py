"""Protocol for one camera, and for trackers: is a person who reappears after some frames recognised?

Correct answers to a query are gallery images of the same person in the same camera at least `gap` frames away; wrong
answers are images of other people in that camera at any time. Other images are ignored. Without a gap every network
scores well, because frames of one track are near-identical; so the result is a curve of metrics against the gap.

`at_exactly` asks the question of a tracker: which of the people exactly `gap` frames later is this one? It is the
re-association protocol of Roboflow's package reid.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from appearance.cli import InputError
from appearance.data.names import SEQUENCE_FRAMES
from appearance.identities import JUNK, are_people
from appearance.measure.metrics import DEFAULT_MEMORY, PAIR_BYTES, Similarity, full_precision, measures
from appearance.measure.stacked import Stacked

GAP = 50  # default in frames: two seconds of most videos
STEPS = (1, 2, 5)  # the gaps of the curve: 1, 2, 5, 10, 20, 50, ...
BLOCK = 512  # largest number of queries per matrix product
EXACT_GAP, EVERY = 30, 60  # defaults in frames of the re-association protocol


def rank(data: dict, gap: int, memory: int = DEFAULT_MEMORY) -> tuple[dict, list[dict], list[str]]:
    """Rank queries for one gap and for a curve of gaps.

    Args:
        data: checked features dict with cameras and times.
        gap: frames.
        memory: bytes to use on top of the features.

    Returns:
        per-query results for `gap` as of `metrics.rank_scores`, the curve [{gap, rank1, mAP, queries}, ...], and lines
        to print about ignored images.

    Raises:
        InputError: no image has camera and time, or no person reappears after `gap` frames.
    """
    known = {side: (data[side + "c"] >= 0) & (data[side + "t"] >= 0) for side in "qg"}
    lines = []
    for side, name in (("q", "query"), ("g", "gallery")):
        unknown = int((~known[side]).sum())
        if unknown == len(known[side]):
            raise InputError(
                f"--protocol reappear: needs camera and frame in the file names, and no {name} image has them; "
                "name images like `datasets.py crops` does: 0002_c1_000451_03.jpg"
            )
        if unknown:
            text = f"{unknown:,} of {len(known[side]):,} {name} images are ignored"
            lines.append(f"{text}: no camera or frame in their file names")
    longest = _longest(data, known)
    if longest < gap:
        if longest < 0:
            raise InputError(f"--gap {gap}: the gallery has no other image of a query's person in the query's camera")
        raise InputError(
            f"--gap {gap}: nobody reappears in a camera after {gap:,} frames or more; the largest possible gap is "
            f"{longest:,}"
        )
    found = _by_gap(data, known, _steps(gap, longest), memory)
    results = found[gap] | {
        "identity": data["ql"].cpu(),
        "gallery": int((data["gl"] != JUNK).sum()),
        "same_camera_only": 0,
    }
    return results, [_point(step, of_step) for step, of_step in found.items()], lines


def at_exactly(data: dict, gap: int, every: int) -> tuple[dict, dict, list[str]]:
    """Rank each query against the people in the same camera exactly `gap` frames later.

    Queries are all images (of query and gallery) in every `every`-th frame whose person is, with at least one other
    person, in the later frame. One candidate is correct, so average precision equals reciprocal rank.

    Args:
        data: checked features dict with cameras and times, one image per person and frame.
        gap, every: frames.

    Returns:
        a features dict with these queries and all images as the gallery, per-query results as of
        `metrics.rank_scores`, and lines to print about people who could not be queries.

    Raises:
        InputError: no image can be a query, or a person has two images in one frame.
    """
    together = {key: torch.cat([data["q" + key].cpu(), data["g" + key].cpu()]) for key in "lct"}
    if gap < 1:
        raise InputError("--gap 0: --exact needs a gap of at least 1 frame")
    known = are_people(together["l"], data["ql"]) & (together["c"] >= 0) & (together["t"] >= 0)
    rows = known.nonzero()[:, 0].tolist()
    seen: dict[tuple[int, int], dict[int, int]] = {}  # camera and time -> identity -> row
    for row, label, camera, time in zip(rows, *(together[key][known].tolist() for key in "lct"), strict=True):
        if seen.setdefault((camera, time), {}).setdefault(label, row) != row:
            raise InputError(
                f"--exact: identity {label} has two images in camera {camera}, frame {_frame(time)}; keep one of them"
            )
    features = Stacked(data["qf"], data["gf"])
    reasons = [f"{who} in view {gap} frames later" for who in ("nobody is", "only one person is", "the person is not")]
    chosen, above, left_out = [], [], dict.fromkeys(reasons, 0)
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
                    left_out[reasons[min(len(later), 2)]] += 1
                    continue
                own = list(later).index(label)
                chosen.append(row)
                above.append(int((scores[place] >= scores[place, own]).sum()) - 1)  # without itself
    if not chosen:
        raise InputError(
            f"--exact: no queries: nobody in every {every}th frame (--every) is in view, among others, exactly {gap} "
            "frames later (--gap); crop all frames: datasets.py crops SEQUENCE OUT --test-ratio 1 --per-identity 100000"
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
    lines = [f"{count:,} images are not queries: {why}" for why, count in left_out.items() if count]
    return data, results, lines


def _frame(time: int) -> int:
    return time % SEQUENCE_FRAMES


def fitting_gap(data: dict) -> int | None:
    """The largest gap, up to GAP, for which at least half of the queries have a correct answer.

    None if times are unknown, or even the smallest gap leaves less than half.
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
    """The part `reappear` of the metrics file: gap, curve, and the threshold for this gap.

    The threshold is of images and tracks, if there are enough, else of pairs; None if no pair is so far apart in time.
    """
    of = "track" if calibration.get("based_on") == "track" else "reappear"
    group = calibration["groups"].get(of, {})
    threshold = {"max_dist": group.get("threshold"), "kept": group.get("kept")}
    return {"gap": gap, "curve": curve} | threshold | {"false_matches": group.get("false_matches")}


def _longest(data: dict, known: dict) -> int:
    """Largest number of frames between a query and an image of the same person and camera; -1 without such images."""
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
    """{gap: per-query metrics as of `metrics.measures`}."""
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
    """Blocks of queries (B,), and for each query two (P,) arrays about its person's P images in its camera, best first:
    the number of wrong images that score at least as high, and the distance in frames."""
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
    """Gaps of the curve up to `longest`, with `gap` among them."""
    gaps, power = {gap}, 1
    while power <= longest:
        gaps |= {step * power for step in STEPS if step * power <= longest}
        power *= 10
    return sorted(gaps)
