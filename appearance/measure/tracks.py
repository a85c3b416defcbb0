"""Distances between images and tracks, as in DeepSORT: to the nearest of a track's stored vectors.

A track is a series of images of one person in one camera without a long gap. An image is compared with its own track,
without the images closest in time (as after an occlusion), and with tracks of other people in the same camera at about
the same time. These are surely other people, even if the dataset gives one person several identities, except when
somebody's identity has just changed.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from appearance.measure.pairs import BINS, CLUSTERS, PAIRS, Pairs

BUDGET = 100  # vectors that DeepSORT stores per track
APART = 10  # frames; images of a person closer in time are near-identical, which says nothing about the network
ENOUGH = 500  # with fewer comparisons with people seen at the same time, people seen at other times are used too


class Tracks:
    """Comparisons of images with the tracks of their camera.

    Args:
        pairs: the images. Those without camera or time are ignored; distractors have no track.
        window: a track ends after so many frames without an image.
        apart: least number of frames between an image and the compared images of its own track.

    Attributes:
        track: (N,) track number of each image, -1: none.
        together: whether images are compared only with people seen at about the same time; set by `histogram`.
    """

    def __init__(self, pairs: Pairs, window: int, apart: int = APART):
        self.pairs, self.window, self.apart, self.together = pairs, window, apart, True
        columns = (one.cpu().numpy() for one in (pairs.labels, pairs.cameras, pairs.times, pairs.strangers))
        self.track = torch.from_numpy(cut(*columns, window)).to(pairs.labels.device)

    def histogram(self) -> Tensor:
        """(2, BINS) counts of comparisons by distance; row 0: with other people's tracks, row 1: with the own track."""
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
        """(2, K, K) float64, symmetric: number of comparisons between two identities, and number of those below the bin
        `edge`. K is the number of identities; if larger than CLUSTERS, identities are merged to so many."""
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
        """Blocks of images (of a large set: of a sample), each a tuple of

        images (B,), one image of each track (T,), bins of the distances between images and tracks (B, T), whether a
        track is of another person (B, T), whether it is of about the same time (B, T), and the bin of the distance to
        the own track (B,), BINS if no image of it is at least `apart` frames away.
        """
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
        """Bins of the distances of images `rows` (B,) to each track (B, T), and to the images of the own track at least
        `apart` frames away (B,). Image members[i] belongs to track place[i]; both (M,)."""
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
    """(N,) track numbers. A track: at most BUDGET images of one person and camera, at most `window` frames between
    neighbours. -1 if camera or time is unknown, or the image is a distractor (`nobody`, (N,) bool)."""
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
