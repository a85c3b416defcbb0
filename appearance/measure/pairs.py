"""Distances of pairs of images: of one person and of different people, in groups of what a tracker compares."""

import math
from collections.abc import Iterator

import torch

from appearance.identities import JUNK, are_people
from appearance.networks.precision import full_precision

STEP = 5e-5  # width of a bin as a share of its distance: one in 20,000, whatever distances a network gives
FLOOR = 1e-8  # cosine distance below which bins have one width; float32 similarities cannot tell such images apart
BINS = math.ceil(math.log1p(2 / FLOOR) / STEP)  # over the cosine distances 0 to 2
EDGES = FLOOR * torch.expm1(STEP * torch.arange(BINS + 1, dtype=torch.float64)).clamp_(max=2 / FLOOR)  # (BINS + 1,)
PAIRS = 100_000_000  # pairs compared; a larger set is sampled, as many pairs tell no more
CENTRED_AT_ONCE = 65536  # rows in float64, which bounds the memory
CLUSTERS = 1024  # identities that are told apart where each is counted with each
GROUPS = {
    "reappear": "same camera, a person again at least {gap} frames later",
    "tracker": "same camera, at most {window} frames apart",
    "camera": "same camera",
    "all": "all pairs",
}


class Pairs:
    """All pairs of images, or of a sample of a large set, block by block.

    Args:
        data: checked features dict; junk is left out.
        window, gap: frames, see GROUPS; without a gap there is no group "reappear".
        seed: for the sample.

    Attributes:
        people: identities.
        identity: (N,) each image's number among `people`; distractors are people of one image.
    """

    def __init__(self, data: dict, window: int, seed: int = 0, gap: int | None = None):
        device = data["gf"].device
        kept = {side: (data[side + "l"] != JUNK).nonzero()[:, 0].to(device) for side in "qg"}
        total = sum(map(len, kept.values()))
        # in random order, of which a large set's first rows are compared with all after them
        order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).to(device)
        self.labels, self.cameras, self.times, self.features = (
            torch.cat([data[side + key].to(device)[kept[side]] for side in "qg"])[order] for key in "lctf"
        )
        # distractors (0 unless a query has it) are many people under one label: nothing is known of two of them
        self.strangers = ~are_people(self.labels, data["ql"])
        self.people = len(self.labels[~self.strangers].unique())
        alone = self.labels.max() + 1 + torch.arange(total, device=device)
        self.identity = torch.where(self.strangers, alone, self.labels).unique(return_inverse=True)[1]
        self.window, self.gap = window, gap
        _centre(self.features)
        self.half = self.features.square().sum(1) / 2  # (N,)

    def bins(self, rows, columns) -> torch.Tensor:
        """(B, C) int64: the bins of the cosine distances of images `rows` (B,) to images `columns`, positions or a
        slice."""
        images = self.features[columns]
        with full_precision():
            distance = torch.addmm(self.half[columns], self.features[rows], images.T, alpha=-1)
        distance.add_(self.half[rows, None]).clamp_(min=0)
        return distance.div_(FLOOR).log1p_().div_(STEP).long().clamp_(max=BINS - 1)

    def blocks(self) -> Iterator[tuple]:
        """(rows (B,), bins of their distances to all images (B, N), same identity (B, N))."""
        total = len(self.labels)
        place = torch.arange(min(total, max(1, PAIRS // total)), device=self.labels.device)
        for rows in place.split(max(1, (8 << 20) // total)):
            yield rows, self.bins(rows, slice(None)), self.labels[rows, None] == self.labels

    def of_group(self, group: str, rows) -> torch.Tensor:
        """(B, N) bool: the pairs of a group that these rows have with the images after them, so each counts once."""
        place = torch.arange(len(self.labels), device=rows.device)
        chosen = (place > rows[:, None]) & ~(self.strangers[rows, None] & self.strangers)
        if group != "all":
            chosen &= (self.cameras[rows, None] == self.cameras) & (self.cameras >= 0)
        if group in ("tracker", "reappear"):
            times = self.times[rows, None]
            apart = (times - self.times).abs()
            chosen &= (self.times >= 0) & (times >= 0)
            if group == "tracker":
                chosen &= apart <= self.window
            else:
                chosen &= (apart >= self.gap) | (self.labels[rows, None] != self.labels)
        return chosen

    def histograms(self) -> dict:
        """{group: (2, BINS) counts of pairs by distance; row 0 different identities, row 1 the same}."""
        names = [name for name in GROUPS if name != "reappear" or self.gap is not None]
        counts = {name: self.labels.new_zeros(2 * BINS) for name in names}
        for rows, bins, same in self.blocks():
            bins += same * BINS
            for name in names:
                counts[name] += torch.bincount(bins[self.of_group(name, rows)], minlength=2 * BINS)
        return {name: value.view(2, BINS).cpu() for name, value in counts.items()}

    def by_identity(self, group: str, edge: int) -> torch.Tensor:
        """(2, K, K) float64, symmetric: how many pairs of a group two identities have with each other, and how many of
        these lie below the bin `edge`. More than CLUSTERS identities are thrown together to so many clusters."""
        cluster = self.identity % CLUSTERS
        clusters = int(cluster.max()) + 1
        counts = torch.zeros(2, clusters, clusters, dtype=torch.float64, device=cluster.device)
        for rows, bins, same in self.blocks():
            different = (self.of_group(group, rows) & ~same).float()  # sums of it are exact: below 2 ** 24
            for count, chosen in zip(counts, (different, different * (bins < edge)), strict=True):
                with_each = chosen.new_zeros(len(rows), clusters).index_add_(1, cluster, chosen)
                count.index_add_(0, cluster[rows], with_each.double())
        return (counts + counts.mT).cpu()


def _centre(features: torch.Tensor) -> None:
    """Take the mean out of the rows of `features` (N, D) float32, in place, after giving them length 1.

    Their distances stay: half of |a - b|^2 is the cosine distance of rows of length 1. But 1 - a b of rows that lie
    close together is what remains of two numbers near 1, and what remains of short rows is exact.
    """
    mean = torch.zeros(features.shape[1], dtype=torch.float64, device=features.device)
    parts = features.split(CENTRED_AT_ONCE)
    for part in parts:
        mean += torch.nn.functional.normalize(part.double()).sum(0)
    for part in parts:
        part.copy_(torch.nn.functional.normalize(part.double()) - mean / len(features))
