"""Which images show the same: copies, and neighbouring frames of one track, told from thumbnails and names.

The likeness of two images is the correlation of their thumbnails, which saving again, another size or other light
hardly change. Measured on 12,936 crops of 751 real people: saved again at JPEG quality 20, an image keeps a likeness of
0.989 to itself or more; of 80 million pairs of different people none comes above 0.961. In a video of 30 frames a
second one person has a likeness of 0.965 from frame to frame (the median; 0.86 five frames later).
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from appearance.data.layouts import Sample
from appearance.data.names import UNKNOWN, are_serial, counters, unmarked
from appearance.progress import progress

WIDTH, HEIGHT = 8, 16  # of a thumbnail
POOL = 4  # thumbnail pixels on a side of a coarse one, which rules most pairs out
COPY = 0.985  # likeness from which two images are one picture
NEAR = 0.9  # likeness of neighbouring frames of one person, where names say the same
STRANGERS = 0.95  # likeness from which neighbouring frames of "two" people are taken for one person
ADJACENT = 5  # frames that neighbouring ones lie apart at most
FLAT = 2.0  # standard deviation of a thumbnail in grey levels, below which it is noise and like nothing
ENOUGH = 1_000_000  # pairs; a placeholder saved everywhere would make more than the memory holds
BLOCK = 256  # images compared with all others at once; more leave the processor's cache

NUMBER = re.compile(r"\d+")
MOST_DIGITS = 15  # of a number in a name, the last ones; more do not fit in an int64


def thumbnail(image: Image.Image) -> bytes:
    """The RGB pixels of an image, squeezed to HEIGHT x WIDTH x 3."""
    return image.resize((WIDTH, HEIGHT), Image.Resampling.BOX, reducing_gap=1.0).tobytes()


def thumbnail_vectors(thumbnails: Sequence[bytes | None]) -> Tensor:
    """(N, HEIGHT * WIDTH * 3) float32 rows whose products are likenesses; short ones of what is flat or missing.

    Each colour's mean is taken out, and the contrast: neither light nor a camera's colours count.
    """
    size = HEIGHT * WIDTH * 3
    pixels = np.frombuffer(b"".join(one or bytes(size) for one in thumbnails), np.uint8).reshape(-1, size // 3, 3)
    colours = torch.from_numpy(pixels.astype(np.float32))
    rows = (colours - colours.mean(1, keepdim=True)).flatten(1)
    return rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp(min=FLAT * size**0.5)


def alike(vectors: Tensor, relevant: Callable[[Tensor, Tensor], Tensor], least: float = COPY) -> np.ndarray:
    """Pairs of images whose likeness is at least `least` and that are `relevant`: all, or over ENOUGH.

    Every image is compared with every other, yet most pairs are ruled out by a look at one number or two dozen.

    Args:
        vectors: (N, D), of `thumbnail_vectors`.
        relevant: (P,), (P,) positions -> (P,) bool.

    Returns positions (2, P), in each pair the smaller one first; the most alike come first.
    """
    place = (vectors.square().sum(1) >= least).nonzero()[:, 0]  # without the flat ones
    furthest = 2 - 2 * least + 1e-4  # squared distance of two rows of length 1
    # a mean over pixels, or a turned axis, brings images nearer and never further apart
    coarse = vectors[place].view(len(place), HEIGHT // POOL, POOL, WIDTH // POOL, POOL, 3).mean((2, 4)) * POOL
    coarse = coarse.flatten(1)
    key, ranked = (coarse @ torch.linalg.eigh(coarse.T @ coarse).eigenvectors[:, -1]).sort()
    coarse, place = coarse[ranked], place[ranked]
    stop = torch.searchsorted(key, key + furthest**0.5)
    # rows of which the product is -|a - b|^2 / 2
    one, half = torch.ones(len(coarse), 1), -coarse.square().sum(1, keepdim=True) / 2
    left, right = torch.cat([coarse, half, one], 1), torch.cat([coarse, one, half], 1).T.contiguous()
    found, number = [torch.empty(3, 0, dtype=torch.float64)], 0
    starts = range(0, len(place), BLOCK)
    for start in progress(starts, desc="comparing images", unit="block", delay=1):
        end = min(start + BLOCK, len(place))
        row, column = (left[start:end] @ right[:, start : stop[end - 1]] >= -furthest / 2).nonzero().unbind(1)
        candidates = place[torch.stack([row, column])[:, column > row] + start].sort(0).values
        for pairs in candidates.split(1 << 16, 1):
            pairs = pairs[:, relevant(*pairs)]
            likeness = (vectors[pairs[0]] * vectors[pairs[1]]).sum(1)
            enough = likeness >= least
            found.append(torch.cat([likeness[None, enough].double(), pairs[:, enough].double()]))
            number += int(enough.sum())
        if number > ENOUGH:
            break
    likeness, first, second = torch.cat(found, 1).numpy()
    return np.stack([first, second])[:, np.lexsort((second, first, -likeness))].astype(np.int64)


class Order:
    """Where the names put images in their videos.

    With camera and time in the name a camera is one track; else images of one person whose names differ in the number
    that counts them alone are (`names.counters`), unless that number counts the images of the whole dataset.
    """

    def __init__(self, samples: Sequence[Sample]):
        tracks: dict[tuple, int] = {}
        self.track = np.full(len(samples), -1)  # (N,), -1 where nothing tells it
        self.number = np.zeros(len(samples), np.int64)  # (N,) of the frame
        self.timed = np.array([sample.time != UNKNOWN for sample in samples], bool)  # (N,)
        stems = [unmarked(Path(sample.path).stem) for sample in samples]
        series = defaultdict(list)  # names that differ in their counting number alone, whoever is seen -> rows
        for i, (sample, stem, counter) in enumerate(zip(samples, stems, counters(stems), strict=True)):
            if sample.time != UNKNOWN:
                self.track[i] = tracks.setdefault((sample.camera,), len(tracks))
                self.number[i] = sample.time
            elif counter:
                start, end = counter
                self.number[i] = int(stem[start:end][-MOST_DIGITS:])
                series[stem[:start], NUMBER.sub("0", stem[end:])].append(i)
        for (before, behind), rows in series.items():
            if are_serial(self.number[rows].tolist(), [samples[i].pid for i in rows]):
                continue
            for i in rows:
                self.track[i] = tracks.setdefault((samples[i].pid, before, behind), len(tracks))

    def neighbours(self, within: int = ADJACENT) -> np.ndarray:
        """All pairs of images of one track at most `within` frames apart: positions (2, P), as `alike` gives them."""
        ranked = np.lexsort((self.number, self.track))
        ranked = ranked[self.track[ranked] >= 0]
        found = [np.empty((2, 0), np.int64)]
        for offset in range(1, len(ranked)):
            pair = np.stack([ranked[:-offset], ranked[offset:]])
            apart = self.number[pair[1]] - self.number[pair[0]]
            pair = pair[:, (self.track[pair[0]] == self.track[pair[1]]) & (apart <= within)]
            if not pair.size:
                break
            found.append(pair)
        return np.sort(np.concatenate(found, 1), axis=0)

    def alike_neighbours(self, vectors: Tensor, least: float) -> np.ndarray:
        """Those of the `neighbours` whose likeness is at least `least` (2, P)."""
        pairs = self.neighbours()
        return pairs[:, ((vectors[pairs[0]] * vectors[pairs[1]]).sum(1) >= least).numpy()]
