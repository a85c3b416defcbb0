"""Better distances from the neighbours of the neighbours: k-reciprocal re-ranking.

That of Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding" (CVPR 2017). Its N x N matrices
are nearly all zeros; here every set and every row of weights is kept as a list of its few entries, so that time is that
of the similarity product plus a little, and memory is the (Nq, Ng) result plus a little.
"""

import torch

from appearance.measure.metrics import DEFAULT_MEMORY
from appearance.networks.precision import full_precision

PAIRS_AT_ONCE = 4 << 20  # entries of a step's temporary tensors
SMALLEST = 1e-30  # squared distance to divide by where all vectors are one and the same


@torch.no_grad()
def re_ranking(qf, gf, k1: int = 20, k2: int = 6, lambda_value: float = 0.3, memory: int = DEFAULT_MEMORY):
    """k-reciprocal re-ranked distances.

    Args:
        qf, gf: (Nq, D), (Ng, D) unit rows, arrays or tensors. Leave junk out of the gallery: it would take part.
        k1: neighbours that are looked at; k2: nearest images, the image itself among them, whose encodings are
            averaged (1: none). Either may be larger than the number of images: then it means all.
        lambda_value: weight of the original distance; the rest goes to the Jaccard distance of the encodings.
        memory: bytes for a block of similarities.

    Returns float32 (Nq, Ng) distances on gf's device, 0 to 1, smaller is more alike.
    """
    gf = torch.as_tensor(gf)
    features = torch.cat([torch.as_tensor(qf).to(gf.device), gf]).float()  # (N, D)
    queries, total = len(qf), len(features)
    # the image itself and k1 others; the nearest k2 may be more than these
    nearest, farthest, distances = _neighbours(features, queries, min(max(k1 + 1, k2), total), memory)
    row, column = _reciprocal_sets(nearest[:, : k1 + 1], round(k1 / 2) + 1)
    weight = torch.exp(-_squared_distances(features, row, column) / farthest[row])
    weight /= _add(torch.zeros(total, device=weight.device), row, weight)[row]
    if k2 > 1:
        row, column, weight = _average_over(nearest[:, :k2], row, column, weight)
    jaccard = _jaccard(row, column, weight, queries, total)
    return distances.mul_(lambda_value).add_(jaccard, alpha=1 - lambda_value)


def _neighbours(features, queries: int, k: int, memory: int):
    """Nearest rows (N, k), best first; the largest squared distance of each row (N,); and the distances of queries to
    gallery divided by it (Nq, N - Nq)."""
    total = len(features)
    nearest = torch.empty(total, k, dtype=torch.int64, device=features.device)
    farthest = torch.empty(total, device=features.device)
    distances = torch.empty(queries, total - queries, device=features.device)
    height = max(1, min(1024, memory // 4 // (4 * total)))
    with full_precision():
        for start in range(0, total, height):
            block = features[start : start + height] @ features.T  # (B, N) similarities
            stop = start + len(block)
            nearest[start:stop] = block.topk(k, dim=1).indices
            farthest[start:stop] = (2 - 2 * block.amin(1)).clamp_(min=SMALLEST)
            if start < queries:
                top = block[: queries - start, queries:]
                scale = farthest[start : start + len(top), None]
                distances[start : start + len(top)] = (2 - 2 * top).clamp_(min=0) / scale
    return nearest, farthest, distances


def _reciprocal_sets(nearest, half: int):
    """The expanded k-reciprocal neighbours R*(i, k1) of every row, as (row, column) lists sorted by row, then column.

    R(i, k) holds those of i's k nearest that have i among their own k nearest. R*(i, k1) adds R(j, k1 / 2) for each j
    in R(i, k1) if more than two thirds of it lie in R(i, k1).
    """
    total, k = nearest.shape
    nearest = nearest.int() if total < 2**31 else nearest
    mutual, mutual_half = _mutual(nearest), _mutual(nearest[:, :half])
    found = []
    for rows in torch.arange(total, device=nearest.device).split(max(1, PAIRS_AT_ONCE // (k * half * k))):
        own = torch.where(mutual[rows], nearest[rows], -1)  # (B, k) R(i, k1), -1 elsewhere
        row, place = mutual[rows].nonzero(as_tuple=True)
        candidate = nearest[rows][row, place].long()  # (c,) the j in R(i, k1)
        theirs = nearest[candidate, :half]  # (c, half)
        counted = mutual_half[candidate]  # which of them are in R(j, k1 / 2)
        shared = (theirs[:, :, None] == own[row][:, None, :]).any(2) & counted
        accepted = shared.sum(1) > 2 / 3 * counted.sum(1)
        counted &= accepted[:, None]
        more_row, more_column = rows[row][:, None].expand_as(theirs)[counted], theirs[counted]
        keys = torch.cat([rows[row] * total + candidate, more_row * total + more_column.long()])
        found.append(keys.unique())
    keys = torch.cat(found)
    return keys // total, keys % total


def _mutual(nearest):
    """(N, k) bool: is i among the k nearest of its own nearest[i, a]?"""
    out = torch.empty(nearest.shape, dtype=torch.bool, device=nearest.device)
    for rows in torch.arange(len(nearest), device=nearest.device).split(max(1, PAIRS_AT_ONCE // nearest.shape[1] ** 2)):
        theirs = nearest[nearest[rows].long()]  # (B, k, k)
        out[rows] = (theirs == rows[:, None, None]).any(2)
    return out


def _squared_distances(features, row, column):
    """|features[row] - features[column]|^2 of listed pairs of unit rows."""
    step = max(1, PAIRS_AT_ONCE // 4 // features.shape[1])
    pairs = zip(row.split(step), column.split(step), strict=True)
    return torch.cat([2 - 2 * (features[i] * features[j]).sum(1) for i, j in pairs]).clamp_(min=0)


def _average_over(neighbours, row, column, weight):
    """Encodings averaged over each row's neighbours (N, k2) (local query expansion): lists as before."""
    total, k = neighbours.shape
    counts = torch.bincount(row, minlength=total)
    start = counts.cumsum(0) - counts
    out = []
    for rows in torch.arange(total, device=row.device).split(max(1, PAIRS_AT_ONCE * total // (len(row) * k))):
        source = neighbours[rows].flatten()  # (B * k2,)
        entry, owner = _expand(start[source], counts[source])
        keys, inverse = ((rows[0] + owner // k) * total + column[entry]).unique(return_inverse=True)
        mean = _add(torch.zeros(len(keys), device=weight.device), inverse, weight[entry] / k)
        out.append((keys // total, keys % total, mean))
    return tuple(torch.cat(part) for part in zip(*out, strict=True))


def _jaccard(row, column, weight, queries: int, total: int):
    """(Nq, Ng) Jaccard distances 1 - sum min / sum max of the encodings, each of which sums to 1."""
    gallery = total - queries
    asked = int(torch.searchsorted(row, queries))  # entries of the queries come first
    # inverted index of the gallery's entries: who has weight in a column?
    by_column = column[asked:].argsort(stable=True)
    owner, owned = row[asked:][by_column] - queries, weight[asked:][by_column]
    counts = torch.bincount(column[asked:], minlength=total)
    start = counts.cumsum(0) - counts
    shared = torch.zeros(queries * gallery, device=weight.device)  # sum over columns of min(V_i, V_j)
    row, column, weight = row[:asked], column[:asked], weight[:asked]
    step = max(1, PAIRS_AT_ONCE * asked // max(1, int(counts[column].sum())))
    for i, c, w in zip(row.split(step), column.split(step), weight.split(step), strict=True):
        entry, which = _expand(start[c], counts[c])
        _add(shared, i[which] * gallery + owner[entry], torch.minimum(w[which], owned[entry]))
    return shared.div_(2 - shared).neg_().add_(1).view(queries, gallery)


def _add(sums, index, values):
    """sums[index] += values for repeated indices, in place; in a fixed order on a GPU too, so that a run repeats."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        return sums.index_add_(0, index, values)
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _expand(start, counts):
    """For ranges start[i] .. start[i] + counts[i]: every position in them, and the i that it belongs to."""
    which = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    offset = torch.arange(len(which), device=counts.device) - (counts.cumsum(0) - counts)[which]
    return start[which] + offset, which
