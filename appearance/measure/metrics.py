"""Ranking metrics of person re-identification, exact and without a sort: arrays in, numbers out.

Conventions (Market-1501, as torchreid and fast-reid compute it; Zheng et al., ICCV 2015):

- Gallery images with label -1 (junk) are left out. Any other identity that the query does not have is a wrong answer,
  so distractors (label 0 in Market-1501) need no rule of their own.
- Per query, gallery images of its own identity *and* its own camera are left out. Camera -1 (unknown) never counts as
  the same camera.
- A query with no correct gallery image left is not valid and not counted.
- A correct image ranks after every wrong image that ties with it, so that a constant feature scores low.

With w_k the number of wrong images that score at least as high as the k-th best of P correct images, that image's rank
is r_k = k + w_k. The ranks of the correct images are all that the metrics need, and w_k is counted, not sorted:

    AP            mean over k of k / r_k                                (no interpolation)
    AP trapezoid  mean over k of (k / r_k + (k - 1) / (r_k - 1)) / 2    (the original MATLAB code; r_1 = 1 counts 1)
    INP           P / r_P                                               (Ye et al., "Deep Learning for Person
                                                                         Re-identification", TPAMI 2021)
    CMC(r)        share of valid queries with r_1 <= r
"""

import torch

from appearance.cli import InputError
from appearance.identities import JUNK
from appearance.measure import intervals
from appearance.measure.features_file import name_of
from appearance.measure.stacked import Stacked
from appearance.networks.precision import full_precision

CMC_RANKS = 50  # length of the `cmc` list
DEFAULT_MEMORY = 1 << 30  # bytes that an evaluation may use on top of its features
BLOCK_ROWS = 1024  # queries per matrix product; more gains no speed
PAIR_BYTES = 128  # of a query and an image of its identity, while they are ranked
COUNTED_AT_ONCE = 2 << 20  # comparisons per step, few enough to stay in the processor's cache
COUNTED_AT_ONCE_ON_GPU = 64 << 20  # enough that a step takes longer than to ask for it: 256 MB
LISTED = 1 << 27  # bytes beside the features for a ranked list
SORT_ABOVE = 512  # correct images per query from which one sort is cheaper than a comparison for each of them


def rank_queries(data: dict, memory: int = DEFAULT_MEMORY, device=None) -> dict:
    """Per-query results (see `rank_scores`) of a checked features dict, worked out on `device` (default: gf's)."""
    kept = (data["gl"] != JUNK).nonzero()[:, 0]
    gallery = Stacked(data["gf"], chosen=kept.to(data["gf"].device))
    similarity = Similarity(data["qf"], gallery, memory, device)
    columns = {key: data[key].to(similarity.device) for key in ("ql", "qc", "gl", "gc")}
    kept = kept.to(similarity.device)
    gl, gc = columns["gl"][kept], columns["gc"][kept]
    return rank_scores(similarity, columns["ql"], columns["qc"], gl, gc, similarity.memory_left)


def rank_distances(distances, ql, qc, gl, gc, memory: int = DEFAULT_MEMORY) -> dict:
    """Per-query results (see `rank_scores`) from a ready (Nq, Ng) matrix of distances, e.g. re-ranked ones.

    Columns whose `gl` is -1 (junk) are left out.
    """
    distances, ql, qc, gl, gc = (torch.as_tensor(x) for x in (distances, ql, qc, gl, gc))
    ql, qc, gl, gc = (x.to(distances.device) for x in (ql, qc, gl, gc))
    kept = (gl != JUNK).nonzero()[:, 0]

    def score(rows, out):
        torch.neg(distances[rows][:, kept], out=out)

    return rank_scores(score, ql, qc, gl[kept], gc[kept], memory // 2)


def summary(results: dict) -> dict:
    """The metrics file's numbers from per-query results: fractions of 1, plain Python values.

    rank1, rank5, rank10, rank20, mAP, mINP, mAP_trapezoid, valid_queries, queries, gallery, cmc (list: ranks 1 to 50),
    identities (of the valid queries), rank1_interval and mAP_interval (lists of two: what other such people would give
    in 95 % of cases).
    Raises InputError when no query is valid, with the likely reason.
    """
    valid = results["correct"] > 0
    if not valid.any():
        raise InputError(_why_none_valid(results))
    mean = {key: results[key][valid].double().mean().item() for key in ("ap", "inp", "ap_trapezoid")}
    first = results["first"][valid]
    hits = torch.bincount(first.clamp(max=CMC_RANKS + 1), minlength=CMC_RANKS + 2)[1:-1]
    cmc = (hits.cumsum(0).double() / len(first)).tolist()
    identities = results["identity"][valid]
    sure = intervals.of_means(identities, hit_and_ap(results)[valid]).tolist()
    return {
        **{f"rank{k}": cmc[k - 1] for k in (1, 5, 10, 20)},
        "mAP": mean["ap"],
        "mINP": mean["inp"],
        "mAP_trapezoid": mean["ap_trapezoid"],
        "valid_queries": int(valid.sum()),
        "queries": len(valid),
        "gallery": results["gallery"],
        "cmc": cmc,
        "identities": len(identities.unique()),
        "rank1_interval": sure[0],
        "mAP_interval": sure[1],
    }


def difference(results: dict, other: dict) -> dict:
    """How much better `results` are than `other`, per-query results of the same queries, and whether that is chance.

    Returns {rank1, mAP: differences of the means over the queries that are valid in both; rank1_interval, mAP_interval;
    rank1_beyond_chance, mAP_beyond_chance: whether the interval leaves out 0; queries, identities}. It is paired: what
    makes a query hard for both drops out.
    Raises InputError when no query is valid in both.
    """
    valid = (results["correct"] > 0) & (other["correct"] > 0)
    if not valid.any():
        raise InputError("no query has a correct gallery image in both files")
    identities = results["identity"][valid]
    better = (hit_and_ap(results) - hit_and_ap(other))[valid]  # (N, 2)
    most = better.abs().amax(0)
    sure = intervals.of_means(identities, better, -most, most).tolist()
    found = {"queries": len(better), "identities": len(identities.unique())}
    for name, mean, (low, high) in zip(("rank1", "mAP"), better.mean(0).tolist(), sure, strict=True):
        found |= {name: mean, f"{name}_interval": [low, high], f"{name}_beyond_chance": not low <= 0 <= high}
    return found


def hit_and_ap(results: dict) -> torch.Tensor:
    """(Nq, 2) float64: whether a query's first image is right, and its AP."""
    return torch.stack([(results["first"] == 1).double(), results["ap"]], 1)


def breakdown(data: dict, results: dict, memory: int = DEFAULT_MEMORY) -> dict:
    """Where a network is good and bad: per identity of the queries, and per pair of query and gallery camera.

    Returns {"identities": [{identity, name, queries, rank1, mAP}], "camera_pairs": [{query_camera, gallery_camera,
    queries, rank1, mAP}]}, of valid queries. A camera pair searches the gallery images of that one camera.
    """
    valid = results["correct"] > 0
    ql, qc, gl = (data[key].cpu() for key in ("ql", "qc", "gl"))
    identities = [
        {"identity": label, "name": name_of(data, label)} | row for label, row in _grouped(ql, results, valid)
    ]
    pairs = []
    for camera in data["gc"].unique().tolist() if (data["gc"] >= 0).any() else []:
        rows = ((data["gc"].cpu() == camera) & (gl != JUNK)).nonzero()[:, 0].to(data["gf"].device)
        gallery = {key: data[key][rows.to(data[key].device)] for key in ("gl", "gc")}
        one = rank_queries(data | gallery | {"gf": Stacked(data["gf"], chosen=rows)}, memory)
        for query_camera, row in _grouped(qc, one, one["correct"] > 0):
            pairs.append({"query_camera": query_camera, "gallery_camera": camera} | row)
    pairs.sort(key=lambda pair: (pair["query_camera"], pair["gallery_camera"]))
    return {"identities": identities, "camera_pairs": pairs}


def _grouped(keys, results, valid):
    """(key, {queries, rank1, mAP}) of the valid queries, by ascending key."""
    found, inverse = keys[valid].unique(return_inverse=True)
    sums = torch.zeros(len(found), 3, dtype=torch.float64)
    ap, hit = results["ap"][valid], (results["first"][valid] == 1).double()
    sums.index_add_(0, inverse, torch.stack([torch.ones_like(ap), hit, ap], 1))
    for key, (count, hits, total) in zip(found.tolist(), sums.tolist(), strict=True):
        yield key, {"queries": int(count), "rank1": hits / count, "mAP": total / count}


def ranked_list(data: dict, query: int, length: int = 10) -> list[dict]:
    """The best `length` gallery images for one query as the metrics see them: no junk, no same-camera image of it.

    Of features with a `gap` (`reappear.py`), that camera's images, without those of the person that are nearer in time;
    with `exactly`, those of that camera so many frames later.

    Each is {"row": int, "distance": 1 - cosine, "correct": bool}.
    """
    gallery = Stacked(data["gf"])
    scores = torch.empty(1, len(gallery), device=gallery.device)
    with full_precision():
        Similarity(data["qf"], gallery, LISTED)(slice(query, query + 1), scores)
    scores = scores[0].cpu()
    label, camera, gl, gc = data["ql"][query].cpu(), data["qc"][query].cpu(), data["gl"].cpu(), data["gc"].cpu()
    if "exactly" in data:
        left_out = (gc != camera) | (data["gt"].cpu() != data["qt"][query].cpu() + data["exactly"])
    elif "gap" in data:  # see reappear.py
        near = (data["gt"] - data["qt"][query]).abs().cpu() < data["gap"]
        left_out = (gc != camera) | ((gl == label) & near)
    else:
        left_out = (gl == label) & (gc == camera) & (gc != -1)
    scores[(gl == JUNK) | left_out] = -torch.inf
    best = scores.topk(min(length, len(scores)))
    rows = best.indices[best.values != -torch.inf]
    # half the squared difference: of vectors that lie close together, 1 - cosine has no digits left
    apart = gallery[rows].cpu().double() - data["qf"][query : query + 1].cpu().double()
    distances = (apart.square().sum(1) / 2).tolist()
    return [
        {"row": row, "distance": distance, "correct": bool(gl[row] == label)}
        for row, distance in zip(rows.tolist(), distances, strict=True)
    ]


class Similarity:
    """Rows of qf @ gf.T on demand, with a gallery of any size behind it.

    A gallery that copies what is asked for, or that is not on the device yet, is copied once if that takes no more than
    a quarter of the memory limit; otherwise tile by tile for every block of queries. No other copy is made, so that a
    memory-mapped gallery is read from its file as it is needed.
    """

    def __init__(self, qf, gf, memory: int = DEFAULT_MEMORY, device=None):
        # of a tensor that is there: "cuda" alone is not equal to the "cuda:0" that it means
        self.device = torch.empty(0, device=device or gf.device).device
        self.qf, self.gf = Stacked(qf), Stacked(gf)
        in_place = not self.gf.copies and gf.device == self.device
        row_bytes = 4 * gf.shape[1]
        fits = in_place or len(gf) * row_bytes <= memory // 4
        self.tile_rows = max(1, len(gf) if fits else memory // 8 // row_bytes)
        self.memory_left = memory if in_place else memory - min(len(gf), self.tile_rows) * row_bytes
        self.ready = self._tile(0) if fits else None

    def __call__(self, rows, out):
        """Fill `out` (len(rows), Ng) with the similarities of the queries `rows`, a slice or (B,) numbers."""
        queries = self.qf[rows].to(self.device)
        for start in range(0, len(self.gf), self.tile_rows):
            tile = self._tile(start) if self.ready is None else self.ready
            torch.mm(queries, tile.T, out=out[:, start : start + len(tile)])

    def _tile(self, start):
        return self.gf[start : start + self.tile_rows].to(self.device)


@torch.no_grad()
def rank_scores(score, ql, qc, gl, gc, memory: int) -> dict:
    """Where the correct gallery images of each query rank.

    Args:
        score: score(rows, out) fills `out` (len(rows), Ng) float32 with the scores (higher is better) of query rows.
        ql, qc, gl, gc: int64 identities and cameras, all on one device; the gallery holds no junk.
        memory: bytes for scores and comparisons.

    Returns tensors of Nq entries on the CPU, 0 where the query has no correct image: `correct` (number of correct
    images), `first` (rank of the best one), `ap`, `ap_trapezoid`, `inp`; `identity` (the query's, as given); and
    `gallery` (int), `same_camera_only` (number of queries whose identity is in the gallery, yet only under the query's
    own camera).
    """
    total, images = len(ql), len(gl)
    same = _SameIdentity(ql, qc, gl, gc)
    results = {
        "correct": torch.zeros(total, dtype=torch.int64),
        "first": torch.zeros(total, dtype=torch.int64),
        "ap": torch.zeros(total, dtype=torch.float64),
        "ap_trapezoid": torch.zeros(total, dtype=torch.float64),
        "inp": torch.zeros(total, dtype=torch.float64),
    }
    # queries with about as many correct images side by side: their thresholds then fill a rectangle
    order = same.counts.argsort(stable=True)
    height = max(1, min(BLOCK_ROWS, total, memory // 4 // (4 * max(images, 1))))
    buffer = torch.empty(height, images, device=gl.device)
    with full_precision():
        for rows in _blocks(order, same.counts[order].tolist(), height, memory // 4 // PAIR_BYTES):
            block = buffer[: len(rows)]
            score(rows, block)
            row, column, correct = same.pairs(rows)
            # (B, P) scores of the correct images, best first, filled up with -inf
            best, number = _rectangle(block, row[correct], column[correct])
            block[row, column] = -torch.inf  # neither correct nor same-camera images count as wrong ones
            wrong = _count_at_least(block, best, _at_once(block.device, memory))
            found = measures(wrong, number)
            for key, value in found.items():
                results[key][rows.cpu()] = value.cpu()
    same_identity = same.counts.cpu() > 0
    results["identity"] = ql.cpu()
    results["gallery"] = images
    results["same_camera_only"] = int((same_identity & (results["correct"] == 0)).sum())
    return results


def _blocks(order, counts: list[int], height: int, pairs: int):
    """Parts of `order` of at most `height` queries, whose ascending `counts` of images make a rectangle of at most so
    many pairs; one query at least."""
    start = 0
    while start < len(order):
        part = counts[start : start + height]
        rows = max(1, sum(number * count <= pairs for number, count in enumerate(part, start=1)))
        yield order[start : start + rows]
        start += rows


def measures(wrong, number) -> dict:
    """Per-query measures from wrong (B, P), the w_k of the header, of which the first number (B,) count."""
    k = torch.arange(1, wrong.shape[1] + 1, device=wrong.device)  # (P,)
    counts = k <= number[:, None]  # (B, P)
    rank = k + wrong
    precision = k / rank.double()
    before = torch.where(rank > 1, (k - 1) / (rank - 1).clamp(min=1).double(), 1.0)
    divisor = number.clamp(min=1)
    last = rank.gather(1, (number - 1).clamp(min=0)[:, None])[:, 0]
    valid = number > 0
    return {
        "correct": number,
        "first": rank[:, 0] * valid,
        "ap": (precision * counts).sum(1) / divisor,
        "ap_trapezoid": ((precision + before) / 2 * counts).sum(1) / divisor,
        "inp": number / last.double(),
    }


class _SameIdentity:
    """The (query, gallery image) pairs of one identity, found by one sort of the gallery labels."""

    def __init__(self, ql, qc, gl, gc):
        self.qc, self.gc = qc, gc
        labels, self.order = gl.sort(stable=True)
        self.start = torch.searchsorted(labels, ql)
        self.counts = torch.searchsorted(labels, ql, right=True) - self.start  # (Nq,)

    def pairs(self, rows):
        """(row in the block, gallery column, is a correct answer) of each pair of the block `rows`, rows ascending."""
        counts = self.counts[rows]
        row = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        offset = _position_in_row(row, counts)
        column = self.order[self.start[rows][row] + offset]
        query_camera, camera = self.qc[rows][row], self.gc[column]
        return row, column, (query_camera != camera) | (camera == -1)


def _rectangle(block, row, column):
    """Scores block[row, column] as (B, P) descending rows filled up with -inf, and how many each row has (B,)."""
    number = torch.bincount(row, minlength=len(block))
    out = block.new_full((len(block), max(1, int(number.max()))), -torch.inf)
    out[row, _position_in_row(row, number)] = block[row, column]
    return out.sort(dim=1, descending=True).values, number


def _position_in_row(row, counts):
    """0, 1, 2, ... for the entries of each row; `row` is ascending and has counts[i] entries i."""
    return torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]


def _at_once(device: torch.device, memory: int) -> int:
    """Comparisons per step."""
    return COUNTED_AT_ONCE if device.type == "cpu" else min(COUNTED_AT_ONCE_ON_GPU, memory // 16)


def _count_at_least(scores, thresholds, at_once: int):
    """How many of scores (B, G) reach each of thresholds (B, P): (B, P) int64, by `at_once` comparisons."""
    (height, width), levels = scores.shape, thresholds.shape[1]
    if levels > SORT_ABOVE:
        rows = max(1, at_once // max(width, 1))
        parts = zip(scores.split(rows), thresholds.split(rows), strict=True)
        return torch.cat([width - torch.searchsorted(part.sort(dim=1).values, level) for part, level in parts])
    out = torch.zeros_like(thresholds, dtype=torch.int64)
    columns = max(1, min(width, at_once // levels))
    rows = max(1, min(height, at_once // (levels * columns)))
    buffer = scores.new_empty(rows, levels, columns)
    for top in range(0, height, rows):
        level = thresholds[top : top + rows, :, None]  # (b, P, 1)
        for left in range(0, width, columns):
            part = scores[top : top + rows, None, left : left + columns]  # (b, 1, g)
            # 0.0 and 1.0 are compared and added 4 times as fast as booleans, and exactly: a sum is below 2 ** 24
            reached = torch.ge(part, level, out=buffer[: len(part), :, : part.shape[2]])
            out[top : top + rows] += reached.sum(2).long()
    return out


def _why_none_valid(results: dict) -> str:
    total = len(results["correct"])
    if results["same_camera_only"]:
        return (
            f"no query can be evaluated: {results['same_camera_only']} of {total} query identities are in the gallery, "
            "but only under the query's own camera, and same-camera images are not counted; if nobody is seen by two "
            "cameras, evaluate with --protocol reappear, or --protocol no-camera where names do not tell the frame"
        )
    return (
        f"no query can be evaluated: none of the {total} query identities appears in the gallery "
        f"({results['gallery']} images); check that query and gallery name the same people by the same labels"
    )
