"""Distances of pairs of images: of one person and of different people, in groups of what a tracker compares."""

from collections.abc import Iterator

import torch

from appearance.identities import JUNK, are_people
from appearance.networks.precision import full_precision

BINS = 20000  # over the cosine distances 0 to 2, so thresholds are exact to 0.0001
PAIRS = 100_000_000  # pairs compared; a larger set is sampled, as many pairs tell no more
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

    def blocks(self) -> Iterator[tuple]:
        """(rows (B,), bins of their distances to all images (B, N), same identity (B, N))."""
        total = len(self.labels)
        with full_precision():
            place = torch.arange(min(total, max(1, PAIRS // total)), device=self.labels.device)
            for rows in place.split(max(1, (8 << 20) // total)):
                distance = 1 - self.features[rows] @ self.features.T  # (B, N)
                bins = (distance * (BINS / 2)).long().clamp_(0, BINS - 1)
                yield rows, bins, self.labels[rows, None] == self.labels

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
