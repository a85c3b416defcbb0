"""Distances of images to tracks, as DeepSORT measures them: of the vectors that a track keeps, the nearest counts.

A track is here what one camera saw of one person without a long break. An image is compared with its own track, from
which it lies some frames away, as after a loss; and with the tracks of other people that the camera saw at about that
time, who are two people even where one has several numbers, unless a tracker has just lost and renumbered somebody.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from appearance.measure.pairs import BINS, CLUSTERS, PAIRS, Pairs

BUDGET = 100  # vectors that DeepSORT keeps of a track
APART = 10  # frames; nearer images of a person are nearly copies, of which any network is sure
ENOUGH = 500  # comparisons with strangers seen together; where there are fewer, those seen at other times count as well


class Tracks:
    """Images against the tracks of their camera.

    Args:
        pairs: the images; those without a camera or a time take no part, those of nobody (distractors) have no track.
        window: frames after which a track is given up that is not seen.
        apart: frames that lie at least between an image and the vectors of its own track.

    Attributes:
        track: (N,) the number of each image's track, -1 where it has none.
        together: whether only those strangers count that are seen at about the same time; `histogram` finds out.
    """

    def __init__(self, pairs: Pairs, window: int, apart: int = APART):
        self.pairs, self.window, self.apart, self.together = pairs, window, apart, True
        columns = (one.cpu().numpy() for one in (pairs.labels, pairs.cameras, pairs.times, pairs.strangers))
        self.track = torch.from_numpy(cut(*columns, window)).to(pairs.labels.device)

    def histogram(self) -> Tensor:
        """(2, BINS) counts of comparisons by distance; row 0 with strangers' tracks, row 1 with the own one."""
        counts = torch.zeros(3, BINS + 1, dtype=torch.long, device=self.track.device)
        for _, _, nearest, strangers, together, own in self._blocks():
            for count, bins in zip(counts, (nearest[strangers & together], nearest[strangers], own), strict=True):
                count += torch.bincount(bins, minlength=BINS + 1)
        seen_together, at_any_time, own = counts[:, :BINS].cpu()
        self.together = int(seen_together.sum()) >= ENOUGH
        return torch.stack([seen_together if self.together else at_any_time, own])

    def title(self) -> str:
        return "image and track of one camera" + (f", within {self.window} frames" if self.together else "")

    def by_identity(self, edge: int) -> Tensor:
        """(2, K, K) float64, symmetric: how many comparisons two identities have with each other, and how many of these
        lie below the bin `edge`. More than CLUSTERS identities are thrown together to so many clusters."""
        cluster = self.pairs.identity % CLUSTERS
        clusters = int(cluster.max()) + 1
        counts = torch.zeros(2, clusters, clusters, dtype=torch.float64, device=cluster.device)
        for rows, owners, nearest, strangers, together, _ in self._blocks():
            compared = (strangers & together if self.together else strangers).double()
            for count, chosen in zip(counts, (compared, compared * (nearest < edge)), strict=True):
                with_each = count.new_zeros(len(rows), clusters).index_add_(1, cluster[owners], chosen)
                count.index_add_(0, cluster[rows], with_each)
        return (counts + counts.mT).cpu()

    def _blocks(self) -> Iterator[tuple[Tensor, ...]]:
        """Images (B,), an image of each track (T,), the bins of the distances between them (B, T), which of the tracks
        are of other people (B, T), which of all are seen at about that time (B, T), and the bin of the distance to the
        own track (B,), BINS where no vector of it lies so far away. A sample of the images where there are many."""
        cameras, times, labels = (getattr(self.pairs, key) for key in ("cameras", "times", "labels"))
        usable = (cameras >= 0) & (times >= 0)
        order = self.pairs.order  # random, so the first images of a camera are a sample
        groups = [order[(usable & (cameras == camera))[order]] for camera in cameras[usable].unique()]
        share = min(1, PAIRS / max(1, sum(len(images) ** 2 for images in groups)))
        for images in groups:
            members = (usable & (cameras == cameras[images[0]]) & (self.track >= 0)).nonzero()[:, 0]
            numbers, place = self.track[members].unique(return_inverse=True)
            if not len(numbers):
                continue
            owners = torch.empty_like(numbers).scatter_(0, place, members)
            first = torch.full_like(numbers, 1 << 60).scatter_reduce_(0, place, times[members], "amin")
            last = torch.full_like(numbers, -1).scatter_reduce_(0, place, times[members], "amax")
            sample = images[: max(1, round(share * len(images)))]
            height = max(1, min(self.pairs.rows_held, self.pairs.pairs_at_once // len(numbers)))
            for rows in sample.split(height):
                nearest, own = self._distances(rows, members, place, len(numbers))
                when = times[rows, None]
                strangers = labels[rows, None] != labels[owners]
                together = (when >= first - self.window) & (when <= last + self.window)
                yield rows, owners, nearest, strangers, together, own

    def _distances(self, rows: Tensor, members: Tensor, place: Tensor, tracks: int) -> tuple[Tensor, Tensor]:
        """Bins of the distances of images to each of so many tracks (B, T), whose images are `members` (M,) at `place`
        (M,) among the tracks, and to the images of the own track that lie far enough away (B,)."""
        images, times = self.pairs.centred(rows), self.pairs.times
        nearest = torch.full((len(rows), tracks), BINS, device=rows.device)
        own = torch.full((len(rows),), BINS, device=rows.device)
        width = max(1, min(self.pairs.rows_at_once, self.pairs.pairs_at_once // len(rows)))
        for others, at in zip(members.split(width), place.split(width), strict=True):
            bins = self.pairs.bins(images, self.pairs.centred(others))  # (B, C)
            nearest.scatter_reduce_(1, at.expand_as(bins), bins, "amin")
            far = (self.track[rows, None] == self.track[others]) & (
                (times[rows, None] - times[others]).abs() >= self.apart
            )
            own = torch.minimum(own, bins.masked_fill_(~far, BINS).amin(1))
        return nearest, own


def cut(labels: np.ndarray, cameras: np.ndarray, times: np.ndarray, nobody: np.ndarray, window: int) -> np.ndarray:
    """(N,) track numbers: images of one person and camera, at most `window` frames from one to the next and at most
    BUDGET of them; -1 where camera or time is unknown, or for whom it is that they show (`nobody`, (N,) bool)."""
    known = np.flatnonzero((cameras >= 0) & (times >= 0) & ~nobody)
    order = known[np.lexsort((times[known], cameras[known], labels[known]))]
    rows = np.stack([labels[order], cameras[order]])
    starts = np.ones(len(order), bool)
    starts[1:] = (rows[:, 1:] != rows[:, :-1]).any(0) | (np.diff(times[order]) > window)
    begin = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    starts |= (np.arange(len(order)) - begin) % BUDGET == 0
    track = np.full(len(labels), -1)
    track[order] = np.cumsum(starts) - 1
    return track
