"""k-reciprocal re-ranking.

Zhong et al., "Re-ranking Person Re-identification with k-reciprocal Encoding", CVPR 2017. The paper's N x N matrices
are nearly all zeros, so sets and weights are stored sparsely here (about 100 numbers per image), and distances are
computed for blocks of queries. Most of the time is the product of the features.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from appearance.measure.metrics import DEFAULT_MEMORY, Similarity
from appearance.measure.stacked import Stacked
from appearance.networks.precision import full_precision

PAIRS_AT_ONCE = 4 << 20  # entries of a step's temporary tensors
ENTRY_BYTES = 64  # temporary memory per such entry
SMALLEST = 1e-30  # least squared distance to divide by, in case all vectors are equal


class Lists(NamedTuple):
    """N sparse rows: row i is `other` and `weight` (E,) from start[i] to start[i] + counts[i]."""

    counts: Tensor  # (N,) int64
    start: Tensor  # (N,) int64
    other: Tensor  # (E,) int32
    weight: Tensor  # (E,) float32

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self)


def re_ranking(qf, gf, k1: int = 20, k2: int = 6, lambda_value: float = 0.3, memory: int = DEFAULT_MEMORY):
    """k-reciprocal re-ranked distances, (Nq, Ng) float32 from 0 to 1, on gf's device. Arguments as for `Reranking`."""
    gf = torch.as_tensor(gf).float()
    reranking = Reranking(torch.as_tensor(qf).to(gf.device).float(), gf, k1, k2, lambda_value, memory)
    out = torch.empty(len(qf), len(gf), device=gf.device)
    for rows in torch.arange(len(qf), device=gf.device).split(max(1, reranking.memory_left // 4 // (4 * len(gf)))):
        reranking.distances(rows, out[rows[0] : rows[0] + len(rows)])
    return out


class Reranking:
    """k-reciprocal re-ranked distances of queries on demand.

    Args:
        qf, gf: (Nq, D), (Ng, D) unit rows, tensors or Stacked. The gallery must not contain junk.
        k1: number of nearest neighbours.
        k2: number of nearest images, including the image itself, whose encodings are averaged (query expansion);
            1: no averaging. k1 and k2 may exceed the number of images.
        lambda_value: weight of the original distance; 1 - lambda_value is that of the Jaccard distance.
        memory: bytes to use on top of the features.

    Attributes:
        memory_left: bytes for the blocks of distances.
    """

    @torch.no_grad()
    def __init__(self, qf, gf, k1: int, k2: int, lambda_value: float, memory: int = DEFAULT_MEMORY):
        features = Stacked(qf, gf)
        self.queries, self.total, self.lambda_value = len(qf), len(features), lambda_value
        self.at_once = max(1, min(PAIRS_AT_ONCE, memory // 4 // ENTRY_BYTES))
        # the image itself and k1 others; the nearest k2 may be more than these
        nearest, self.farthest = _neighbours(features, min(max(k1 + 1, k2), self.total), memory)
        self.encodings = self._encodings(features, nearest[:, : k1 + 1], round(k1 / 2) + 1)
        self.nearest = nearest[:, :k2].clone()
        del nearest
        self.owners = self._owners()
        lists = self.encodings.nbytes + self.owners.nbytes + self.nearest.nbytes
        self.similarity = Similarity(qf, gf, max(0, memory - lists))
        self.memory_left = self.similarity.memory_left

    @torch.no_grad()
    def distances(self, rows: Tensor, out: Tensor) -> None:
        """Fill `out` (B, Ng) with the distances of the queries `rows` (B,)."""
        with full_precision():
            self.similarity(rows, out)
        out.mul_(-2).add_(2).clamp_(min=0).div_(self.farthest[rows, None]).mul_(self.lambda_value)
        out.add_(self._jaccard(rows), alpha=1 - self.lambda_value)

    def _encodings(self, features, nearest, half: int) -> Lists:
        """Expanded k-reciprocal neighbours of each image, with weights that sum to 1."""
        parts = []
        for rows, row, column in _reciprocal_sets(nearest, half, self.at_once):
            weight = torch.exp(-_squared_distances(features, row, column, self.at_once) / self.farthest[row])
            place = row - rows[0]
            weight /= _add(torch.zeros(len(rows), device=weight.device), place, weight)[place]
            parts.append((torch.bincount(place, minlength=len(rows)), column.int(), weight))
        counts, column, weight = (torch.cat(part) for part in zip(*parts, strict=True))
        return Lists(counts, counts.cumsum(0) - counts, column, weight)

    def _averaged(self, rows) -> tuple[Tensor, Tensor, Tensor]:
        """Encodings of `rows` (B,), averaged over the k2 nearest images (local query expansion), as entries (position
        in `rows`, column, weight), sorted by position, then column."""
        source, k = self.nearest[rows].flatten().long(), self.nearest.shape[1]
        entry, owner = _expand(self.encodings.start[source], self.encodings.counts[source])
        keys, inverse = (owner // k * self.total + self.encodings.other[entry]).unique(return_inverse=True)
        mean = _add(torch.zeros(len(keys), device=keys.device), inverse, self.encodings.weight[entry] / k)
        return keys // self.total, keys % self.total, mean

    def _owners(self) -> Lists:
        """The averaged encodings of the gallery by column: for each column, gallery images and their weights."""
        device, height = self.nearest.device, max(1, self.at_once * self.total // self.encodings.counts.sum().item())
        counts = torch.zeros(self.total, dtype=torch.int64, device=device)
        parts = []
        for rows in torch.arange(self.queries, self.total, device=device).split(
            max(1, height // self.nearest.shape[1])
        ):
            place, column, weight = self._averaged(rows)
            counts += torch.bincount(column, minlength=self.total)
            parts.append(((place + rows[0] - self.queries).int(), column.int(), weight))
        start = counts.cumsum(0) - counts
        owner = torch.empty(int(counts.sum()), dtype=torch.int32, device=device)
        owned = torch.empty(len(owner), device=device)
        free = start.clone()  # (N,) next free entry of each column
        for number, (some, column, weight) in enumerate(parts):
            parts[number] = None  # free its memory
            column, order = column.long().sort(stable=True)
            here = torch.bincount(column, minlength=self.total)
            at = free[column] + torch.arange(len(column), device=device) - (here.cumsum(0) - here)[column]
            owner[at], owned[at] = some[order], weight[order]
            free += here
        return Lists(counts, start, owner, owned)

    def _jaccard(self, rows):
        """(B, Ng) Jaccard distances 1 - sum min / sum max of the encodings, which sum to 1."""
        gallery = self.total - self.queries
        place, column, weight = self._averaged(rows)
        counts, start = self.owners.counts[column], self.owners.start[column]
        shared = torch.zeros(len(rows) * gallery, device=weight.device)  # sum over columns of min(V_i, V_j)
        step = max(1, self.at_once * len(column) // max(1, int(counts.sum())))
        for i, n, s, w in zip(*(part.split(step) for part in (place, counts, start, weight)), strict=True):
            entry, which = _expand(s, n)
            at = i[which] * gallery + self.owners.other[entry]
            _add(shared, at, torch.minimum(w[which], self.owners.weight[entry]))
        return shared.div_(2 - shared).neg_().add_(1).view(len(rows), gallery)


def _neighbours(features, k: int, memory: int):
    """Nearest rows (N, k) int32, best first, and the largest squared distance of each row (N,)."""
    total, similarity = len(features), Similarity(features, features, memory)
    nearest = torch.empty(total, k, dtype=torch.int32, device=features.device)
    farthest = torch.empty(total, device=features.device)
    block = torch.empty(max(1, min(1024, memory // 4 // (4 * total))), total, device=features.device)
    with full_precision():
        for start in range(0, total, len(block)):
            rows = slice(start, min(start + len(block), total))
            part = block[: rows.stop - start]
            similarity(rows, part)  # (B, N)
            nearest[rows] = part.topk(k, dim=1).indices.int()
            farthest[rows] = (2 - 2 * part.amin(1)).clamp_(min=SMALLEST)
    return nearest, farthest


def _reciprocal_sets(nearest, half: int, at_once: int):
    """The expanded k-reciprocal neighbours R*(i, k1) of every row i, some `rows` at a time: rows (B,), and (row,
    column) lists sorted by row, then column.

    R(i, k) holds those of i's k nearest that have i among their own k nearest. R*(i, k1) adds R(j, k1 / 2) for each j
    in R(i, k1) if more than two thirds of it lie in R(i, k1).
    """
    total, k = nearest.shape
    mutual, mutual_half = _mutual(nearest, at_once), _mutual(nearest[:, :half], at_once)
    for rows in torch.arange(total, device=nearest.device).split(max(1, at_once // (k * half * k))):
        own = torch.where(mutual[rows], nearest[rows], -1)  # (B, k) R(i, k1), -1 elsewhere
        row, place = mutual[rows].nonzero(as_tuple=True)
        candidate = nearest[rows][row, place].long()  # (c,) the j in R(i, k1)
        theirs = nearest[candidate, :half]  # (c, half)
        counted = mutual_half[candidate]  # which of them are in R(j, k1 / 2)
        shared = (theirs[:, :, None] == own[row][:, None, :]).any(2) & counted
        accepted = shared.sum(1) > 2 / 3 * counted.sum(1)
        counted &= accepted[:, None]
        more_row, more_column = rows[row][:, None].expand_as(theirs)[counted], theirs[counted]
        keys = torch.cat([rows[row] * total + candidate, more_row * total + more_column.long()]).unique()
        yield rows, keys // total, keys % total


def _mutual(nearest, at_once: int):
    """(N, k) bool: is i among the k nearest of its own nearest[i, a]?"""
    out = torch.empty(nearest.shape, dtype=torch.bool, device=nearest.device)
    for rows in torch.arange(len(nearest), device=nearest.device).split(max(1, at_once // nearest.shape[1] ** 2)):
        theirs = nearest[nearest[rows].long()]  # (B, k, k)
        out[rows] = (theirs == rows[:, None, None]).any(2)
    return out


def _squared_distances(features, row, column, at_once: int):
    """(E,) squared distances |features[row] - features[column]|^2 of unit rows; row and column: (E,)."""
    step = max(1, at_once // 4 // features.shape[1])
    pairs = zip(row.split(step), column.split(step), strict=True)
    return torch.cat([2 - 2 * (features[i] * features[j]).sum(1) for i, j in pairs]).clamp_(min=0)


def _add(sums, index, values):
    """In place: sums[index] += values, also for repeated indices; deterministic on GPUs too."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        return sums.index_add_(0, index, values)
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _expand(start, counts):
    """All positions in the ranges start[i] to start[i] + counts[i], and the i of each."""
    which = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    offset = torch.arange(len(which), device=counts.device) - (counts.cumsum(0) - counts)[which]
    return start[which] + offset, which
