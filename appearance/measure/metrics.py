"""Ranking metrics of person re-identification: pure functions of arrays, exact and without a sort.

Conventions (Market-1501, as torchreid and fast-reid compute it; Zheng et al., ICCV 2015):

- Gallery images with label -1 (junk) are ignored. Images of any other identity than the query's are wrong answers,
  distractors (label 0 in Market-1501) included.
- Per query, gallery images of the same identity *and* the same camera are ignored. Camera -1 (unknown) never counts as
  the same camera.
- A query without a correct gallery image is not valid and not counted.
- A correct image ranks after all wrong images with the same score, so that constant features score low.

The k-th best of P correct images has rank r_k = k + w_k, with w_k the number of wrong images that score at least as
high. The metrics depend only on these ranks, and w_k is counted, so nothing has to be sorted:

    AP            mean over k of k / r_k                                (no interpolation)
    AP trapezoid  mean over k of (k / r_k + (k - 1) / (r_k - 1)) / 2    (the original MATLAB code; r_1 = 1 counts 1)
    INP           P / r_P                                               (Ye et al., "Deep Learning for Person
                                                                         Re-identification", TPAMI 2021)
    CMC(r)        fraction of the valid queries with r_1 <= r
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
BLOCK_ROWS = 1024  # queries per matrix product; more is not faster
PAIR_BYTES = 128  # temporary memory per pair of a query and an image of its identity
COUNTED_AT_ONCE = 2 << 20  # comparisons per step on a CPU, to stay in its cache
COUNTED_AT_ONCE_ON_GPU = 64 << 20  # comparisons per step on a GPU (256 MB), to hide the launch of kernels
LISTED = 1 << 27  # bytes on top of the features for a ranked list
SORT_ABOVE = 512  # with more correct images per query, one sort is cheaper than a comparison for each


def rank_queries(data: dict, memory: int = DEFAULT_MEMORY, device=None) -> dict:
    """Per-query results (see `rank_scores`) of a checked features dict, computed on `device` (default: gf's)."""
    kept = (data["gl"] != JUNK).nonzero()[:, 0]
    gallery = Stacked(data["gf"], chosen=kept.to(data["gf"].device))
    similarity = Similarity(data["qf"], gallery, memory, device)
    columns = {key: data[key].to(similarity.device) for key in ("ql", "qc", "gl", "gc")}
    kept = kept.to(similarity.device)
    gl, gc = columns["gl"][kept], columns["gc"][kept]
    return rank_scores(similarity, columns["ql"], columns["qc"], gl, gc, similarity.memory_left)


def rank_distances(distances, ql, qc, gl, gc, memory: int = DEFAULT_MEMORY) -> dict:
    """Per-query results (see `rank_scores`) from an (Nq, Ng) matrix of distances, e.g. re-ranked ones.

    Columns whose `gl` is -1 (junk) are ignored.
    """
    distances, ql, qc, gl, gc = (torch.as_tensor(x) for x in (distances, ql, qc, gl, gc))
    ql, qc, gl, gc = (x.to(distances.device) for x in (ql, qc, gl, gc))
    kept = (gl != JUNK).nonzero()[:, 0]

    def score(rows, out):
        torch.neg(distances[rows][:, kept], out=out)

    return rank_scores(score, ql, qc, gl[kept], gc[kept], memory // 2)


def summary(results: dict) -> dict:
    """The metrics file's numbers from per-query results: fractions of 1, plain Python values.

    Keys: rank1, rank5, rank10, rank20, mAP, mINP, mAP_trapezoid, valid_queries, queries, gallery, cmc (list: ranks 1 to
    50), identities (of the valid queries), rank1_interval and mAP_interval ([low, high], 95 % over identities).

    Raises:
        InputError: no query is valid; gives the likely reason.
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
    """Paired comparison of `results` with `other`, per-query results of the same queries.

    Returns {rank1, mAP: mean differences, `results` - `other`, over the queries that are valid in both; rank1_interval,
    mAP_interval: their 95 % intervals; rank1_beyond_chance, mAP_beyond_chance: whether the interval excludes 0;
    queries, identities}.

    Raises:
        InputError: no query is valid in both.
    """
    valid = (results["correct"] > 0) & (other["correct"] > 0)
    if not valid.any():
        raise InputError(
            "no query has a correct gallery image in both files; compare features files of one dataset and protocol"
        )
    identities = results["identity"][valid]
    better = (hit_and_ap(results) - hit_and_ap(other))[valid]  # (N, 2)
    most = better.abs().amax(0)
    sure = intervals.of_means(identities, better, -most, most).tolist()
    found = {"queries": len(better), "identities": len(identities.unique())}
    for name, mean, (low, high) in zip(("rank1", "mAP"), better.mean(0).tolist(), sure, strict=True):
        found |= {name: mean, f"{name}_interval": [low, high], f"{name}_beyond_chance": not low <= 0 <= high}
    return found


def hit_and_ap(results: dict) -> torch.Tensor:
    """(Nq, 2) float64: 1 if the query's best image is correct, else 0; and its AP."""
    return torch.stack([(results["first"] == 1).double(), results["ap"]], 1)


def breakdown(data: dict, results: dict, memory: int = DEFAULT_MEMORY) -> dict:
    """Metrics per query identity, and per pair of query and gallery camera.

    Returns {"identities": [{identity, name, queries, rank1, mAP}], "camera_pairs": [{query_camera, gallery_camera,
    queries, rank1, mAP}]}, of valid queries. The gallery of a camera pair is the images of that one camera.
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
    """The best `length` gallery images for one query, without those that the metrics ignore.

    If `data` has a `gap` (`reappear.py`): only images of the query's camera, without same-identity images closer in
    time than `gap`. If it has `exactly`: only images of the query's camera exactly so many frames later.

    Returns:
        a list of {"row": int, "distance": 1 - cosine, "correct": bool}, best first.
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
    # half the squared difference is more exact than 1 - cosine for vectors that are close together
    apart = gallery[rows].cpu().double() - data["qf"][query : query + 1].cpu().double()
    distances = (apart.square().sum(1) / 2).tolist()
    return [
        {"row": row, "distance": distance, "correct": bool(gl[row] == label)}
        for row, distance in zip(rows.tolist(), distances, strict=True)
    ]


class Similarity:
    """Rows of qf @ gf.T on demand, for a gallery of any size.

    A gallery on another device, or a Stacked one that copies its rows, is copied once if the copy takes at most a
    quarter of `memory`, else tile by tile for every block of queries. There are no other copies, so a memory-mapped
    gallery is read from its file when needed.
    """

    def __init__(self, qf, gf, memory: int = DEFAULT_MEMORY, device=None):
        # the device of a tensor, because "cuda" and "cuda:0" do not compare equal
        self.device = torch.empty(0, device=device or gf.device).device
        self.qf, self.gf = Stacked(qf), Stacked(gf)
        in_place = not self.gf.copies and gf.device == self.device
        row_bytes = 4 * gf.shape[1]
        fits = in_place or len(gf) * row_bytes <= memory // 4
        self.tile_rows = max(1, len(gf) if fits else memory // 8 // row_bytes)
        self.memory_left = memory if in_place else memory - min(len(gf), self.tile_rows) * row_bytes
        self.ready = self._tile(0) if fits else None

    def __call__(self, rows, out):
        """Fill `out` (B, Ng) with the similarities of the queries `rows`, a slice or (B,) indices."""
        queries = self.qf[rows].to(self.device)
        for start in range(0, len(self.gf), self.tile_rows):
            tile = self._tile(start) if self.ready is None else self.ready
            torch.mm(queries, tile.T, out=out[:, start : start + len(tile)])

    def _tile(self, start):
        return self.gf[start : start + self.tile_rows].to(self.device)


@torch.no_grad()
def rank_scores(score, ql, qc, gl, gc, memory: int) -> dict:
    """Rank the correct gallery images of each query.

    Args:
        score: score(rows, out) fills `out` (B, Ng) float32 with scores (higher is better) of the queries `rows` (B,).
        ql, qc, gl, gc: (Nq,) and (Ng,) int64 identities and cameras, all on one device; no junk in the gallery.
        memory: bytes for scores and comparisons.

    Returns a dict with (Nq,) tensors on the CPU, 0 if the query has no correct image: `correct` (number of correct
    images), `first` (rank of the best one), `ap`, `ap_trapezoid`, `inp`, `identity` (as in `ql`); and the numbers
    `gallery` (images) and `same_camera_only` (queries whose identity is in the gallery, but only in the query's own
    camera).
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
    # blocks of queries with about the same number of correct images, because scores are padded to a rectangle
    order = same.counts.argsort(stable=True)
    height = max(1, min(BLOCK_ROWS, total, memory // 4 // (4 * max(images, 1))))
    buffer = torch.empty(height, images, device=gl.device)
    with full_precision():
        for rows in _blocks(order, same.counts[order].tolist(), height, memory // 4 // PAIR_BYTES):
            block = buffer[: len(rows)]
            score(rows, block)
            row, column, correct = same.pairs(rows)
            # (B, P) scores of the correct images, best first, padded with -inf
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
    """Parts of `order` with at most `height` queries and `pairs` pairs (padded), but at least one query.

    `counts`: images of each query's identity, ascending.
    """
    start = 0
    while start < len(order):
        part = counts[start : start + height]
        rows = max(1, sum(number * count <= pairs for number, count in enumerate(part, start=1)))
        yield order[start : start + rows]
        start += rows


def measures(wrong, number) -> dict:
    """Per-query metrics from the w_k of the module docstring, `wrong` (B, P), of which `number` (B,) count."""
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
    """The (query, gallery image) pairs with the same identity, found by one sort of the gallery labels."""

    def __init__(self, ql, qc, gl, gc):
        self.qc, self.gc = qc, gc
        labels, self.order = gl.sort(stable=True)
        self.start = torch.searchsorted(labels, ql)
        self.counts = torch.searchsorted(labels, ql, right=True) - self.start  # (Nq,)

    def pairs(self, rows):
        """(row in the block, gallery column, is correct) of each pair of the queries `rows`; rows ascending."""
        counts = self.counts[rows]
        row = torch.arange(len(rows), device=rows.device).repeat_interleave(counts)
        offset = _position_in_row(row, counts)
        column = self.order[self.start[rows][row] + offset]
        query_camera, camera = self.qc[rows][row], self.gc[column]
        return row, column, (query_camera != camera) | (camera == -1)


def _rectangle(block, row, column):
    """Scores block[row, column] as (B, P) descending rows padded with -inf, and the number in each row (B,)."""
    number = torch.bincount(row, minlength=len(block))
    out = block.new_full((len(block), max(1, int(number.max()))), -torch.inf)
    out[row, _position_in_row(row, number)] = block[row, column]
    return out.sort(dim=1, descending=True).values, number


def _position_in_row(row, counts):
    """0, 1, 2, ... within each row; `row` is ascending and has counts[i] entries i."""
    return torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]


def _at_once(device: torch.device, memory: int) -> int:
    """Comparisons per step."""
    return COUNTED_AT_ONCE if device.type == "cpu" else min(COUNTED_AT_ONCE_ON_GPU, memory // 16)


def _count_at_least(scores, thresholds, at_once: int):
    """(B, P) int64 numbers of scores (B, G) at or above each of thresholds (B, P), `at_once` comparisons a step."""
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
            # floats 0.0 and 1.0 are 4 times as fast as booleans here; sums below 2 ** 24 are exact
            reached = torch.ge(part, level, out=buffer[: len(part), :, : part.shape[2]])
            out[top : top + rows] += reached.sum(2).long()
    return out


def _why_none_valid(results: dict) -> str:
    total = len(results["correct"])
    if results["same_camera_only"]:
        return (
            f"no query can be evaluated: {results['same_camera_only']} of {total} query identities are in the gallery, "
            "but only in the query's own camera, and same-camera images are ignored; if each person is in one camera "
            "only, use --protocol reappear, or --protocol no-camera if file names have no frame numbers"
        )
    return (
        f"no query can be evaluated: none of the {total} query identities appears in the gallery "
        f"({results['gallery']} images); check that query and gallery use the same labels for the same people"
    )
