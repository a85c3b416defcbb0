"""How well the starting weights already tell the training identities apart, before any training."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from appearance.data.layouts import Sample
from appearance.data.names import UNKNOWN

IMAGES = 600  # looked at; their pairs number a hundred thousand
FEWEST_PAIRS = 20  # of one identity in two cameras, below which pairs of one camera count as well


def some_of_each(samples: Sequence[Sample]) -> list[Sample]:
    """About IMAGES samples, as many of each identity as there are, spread evenly over its images, but at least two."""
    by_identity = defaultdict(list)
    for sample in samples:
        by_identity[sample.pid].append(sample)
    most = max(2, IMAGES // len(by_identity))
    chosen = []
    for _, images in sorted(by_identity.items()):
        places = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
        chosen += [images[place] for place in places]
    return chosen


def equal_error_rate(features: Tensor, samples: Sequence[Sample]) -> float | None:
    """The share of pairs on the wrong side of a distance threshold: pairs of one identity beyond it, or of two within
    it; the larger of these two shares, at the threshold where that is smallest.

    0 where the features tell all identities apart, 0.5 where they know nothing. Pairs of one identity are taken from
    different cameras (or unknown ones), where that leaves enough.

    Args:
        features: (N, D) float32 unit rows of the samples.

    Returns None where no identity, or only one, has two images.
    """
    identity = torch.tensor([sample.pid for sample in samples])
    camera = torch.tensor([sample.camera for sample in samples])
    first, second = torch.triu_indices(len(samples), len(samples), offset=1)
    same = identity[first] == identity[second]
    across = same & ((camera[first] != camera[second]) | (camera[first] == UNKNOWN))
    right = across if across.sum() >= FEWEST_PAIRS else same
    distance = (1 - features @ features.T)[first, second]
    own, others = distance[right].sort().values, distance[~same].sort().values
    if not len(own) or not len(others):
        return None
    missed = 1 - torch.arange(1, len(own) + 1) / len(own)  # with the threshold at each distance of `own`
    accepted = torch.searchsorted(others, own, right=True) / len(others)
    return float(torch.maximum(missed, accepted).min())
