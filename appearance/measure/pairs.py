"""Histograms of the cosine distances of same- and different-identity pairs, in groups that matter to a tracker.

The cosine distance of unit rows a and b is |a - b|^2 / 2. It is computed from rows minus their common mean, which does
not change it but makes it exact: 1 - a b of vectors that are close together would lose its digits by cancellation.
"""

import math
from collections.abc import Iterator

import torch

from appearance.identities import JUNK, are_people
from appearance.measure.metrics import DEFAULT_MEMORY
from appearance.measure.stacked import Stacked
from appearance.networks.precision import full_precision

STEP = 5e-5  # relative width of a bin, the same for networks with small and large distances
FLOOR = 1e-8  # cosine distance below which bins have equal width; float32 does not resolve smaller distances
BINS = math.ceil(math.log1p(2 / FLOOR) / STEP)  # over the cosine distances 0 to 2
EDGES = FLOOR * torch.expm1(STEP * torch.arange(BINS + 1, dtype=torch.float64)).clamp_(max=2 / FLOOR)  # (BINS + 1,)
PAIRS = 100_000_000  # pairs to compare; a larger set is sampled, because more pairs change nothing
PAIR_BYTES = 128  # temporary memory per pair
NUMBER_BYTES = 64  # temporary memory per number of a row while it is centred; afterwards 4
CLUSTERS = 1024  # size of the identity x identity counts; more identities share rows
GROUPS = {
    "reappear": "same camera, same person at least {gap} frames apart",
    "tracker": "same camera, at most {window} frames apart",
    "camera": "same camera",
    "all": "all pairs",
}


class Pairs:
    """All pairs of images (of a large set: a sample), block by block.

    Args:
        data: checked features dict; junk is ignored.
        window, gap: frames, see GROUPS; gap None: no group "reappear".
        seed: of the sample.
        memory: bytes for pairs and copies of rows; features stay on their device or disk.

    Attributes:
        people: number of identities, without distractors.
        identity: (N,) identity index of each image; each distractor image is an identity of its own.
        order: (N,) the images in random order. In a large set, only the first ones are compared with all after them.
        pairs_at_once, rows_at_once: pairs and rows per step.
        rows_held: centred rows kept for several steps.
    """

    def __init__(self, data: dict, window: int, seed: int = 0, gap: int | None = None, memory: int = DEFAULT_MEMORY):
        device = data["gf"].device
        kept = (torch.cat([data[side + "l"].to(device) for side in "qg"]) != JUNK).nonzero()[:, 0]
        self.labels, self.cameras, self.times = (
            torch.cat([data[side + key].to(device) for side in "qg"])[kept] for key in "lct"
        )
        self.features = Stacked(data["qf"], data["gf"], chosen=kept)
        total = len(kept)
        self.order = torch.randperm(total, generator=torch.Generator().manual_seed(seed)).to(device)
        self.place = torch.empty_like(self.order)  # (N,) position of each image in that order
        self.place[self.order] = torch.arange(total, device=device)
        # distractors (0 unless a query has it) are many people under one label, so pairs of two are ignored
        self.strangers = ~are_people(self.labels, data["ql"])
        self.people = len(self.labels[~self.strangers].unique())
        alone = self.labels.max() + 1 + self.place
        self.identity = torch.where(self.strangers, alone, self.labels).unique(return_inverse=True)[1]
        self.window, self.gap = window, gap
        size = self.features.shape[1]
        self.pairs_at_once = max(1, memory // PAIR_BYTES)
        self.rows_at_once = max(1, memory // 4 // (NUMBER_BYTES * size))
        self.rows_held = max(1, memory // 8 // (4 * size))
        self.mean = torch.zeros(size, dtype=torch.float64, device=device)
        for images in torch.arange(total, device=device).split(self.rows_at_once):
            self.mean += torch.nn.functional.normalize(self.features[images].double()).sum(0)
        self.mean /= total

    def centred(self, images) -> torch.Tensor:
        """(B, D) float32 unit rows of the images (B,), minus the mean."""
        parts = (self.features[part].double() for part in images.split(self.rows_at_once))
        return torch.cat([(torch.nn.functional.normalize(part) - self.mean).float() for part in parts])

    def bins(self, rows, columns) -> torch.Tensor:
        """(B, C) int64 bins of the cosine distances between centred rows (B, D) and (C, D)."""
        with full_precision():
            distance = torch.addmm(columns.square().sum(1) / 2, rows, columns.T, alpha=-1)
        distance.add_((rows.square().sum(1) / 2)[:, None]).clamp_(min=0)
        return distance.div_(FLOOR).log1p_().div_(STEP).long().clamp_(max=BINS - 1)

    def blocks(self) -> Iterator[tuple]:
        """All pairs of a sampled image and any image, as blocks (sampled images (B,), images (C,), bins of their
        distances (B, C), same identity (B, C) bool)."""
        total = len(self.labels)
        for sample in self.order[: max(1, PAIRS // total)].split(self.rows_held):
            images = self.centred(sample)
            for columns in torch.arange(total, device=sample.device).split(self.rows_at_once):
                others = self.centred(columns)
                height = max(1, self.pairs_at_once // len(others))
                for rows, some in zip(sample.split(height), images.split(height), strict=True):
                    yield rows, columns, self.bins(some, others), self.labels[rows, None] == self.labels[columns]

    def of_group(self, group: str, rows, columns) -> torch.Tensor:
        """(B, C) bool: which pairs of images `rows` (B,) and `columns` (C,) belong to a group.

        Only pairs whose column comes later in the random order, so that each pair counts once.
        """
        chosen = (self.place[columns] > self.place[rows, None]) & ~(
            self.strangers[rows, None] & self.strangers[columns]
        )
        if group != "all":
            cameras = self.cameras[columns]
            chosen &= (self.cameras[rows, None] == cameras) & (cameras >= 0)
        if group in ("tracker", "reappear"):
            times, others = self.times[rows, None], self.times[columns]
            apart = (times - others).abs()
            chosen &= (others >= 0) & (times >= 0)
            if group == "tracker":
                chosen &= apart <= self.window
            else:
                chosen &= (apart >= self.gap) | (self.labels[rows, None] != self.labels[columns])
        return chosen

    def histograms(self) -> dict:
        """{group: (2, BINS) counts of pairs by distance}; row 0: different identities, row 1: same identity."""
        names = [name for name in GROUPS if name != "reappear" or self.gap is not None]
        counts = {name: self.labels.new_zeros(2 * BINS) for name in names}
        for rows, columns, bins, same in self.blocks():
            bins += same * BINS
            for name in names:
                counts[name] += torch.bincount(bins[self.of_group(name, rows, columns)], minlength=2 * BINS)
        return {name: value.view(2, BINS).cpu() for name, value in counts.items()}

    def by_identity(self, group: str, edge: int) -> torch.Tensor:
        """(2, K, K) float64, symmetric: number of pairs of a group between two identities, and number of those below
        the bin `edge`. K is the number of identities; if larger than CLUSTERS, identities are merged to so many."""
        cluster = self.identity % CLUSTERS
        clusters = int(cluster.max()) + 1
        counts = torch.zeros(2, clusters, clusters, dtype=torch.float64, device=cluster.device)
        for rows, columns, bins, same in self.blocks():
            different = (self.of_group(group, rows, columns) & ~same).float()  # sums of it are exact: below 2 ** 24
            for count, chosen in zip(counts, (different, different * (bins < edge)), strict=True):
                with_each = chosen.new_zeros(len(rows), clusters).index_add_(1, cluster[columns], chosen)
                count.index_add_(0, cluster[rows], with_each.double())
        return (counts + counts.mT).cpu()
