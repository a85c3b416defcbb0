"""Baselines for a network's vectors: no appearance, and colour histograms.

Each function turns n RGB crops, (h, w, 3) uint8, into (n, D) float32 unit rows.
"""

import numpy as np
from PIL import Image


def nothing(crops: list[np.ndarray]) -> np.ndarray:
    """The same vector for every crop: (n, 1)."""
    return np.ones((len(crops), 1), np.float32)


def colours(crops: list[np.ndarray]) -> np.ndarray:
    """Square roots of hue-saturation histograms (16 x 4 bins) of the upper and lower half: (n, 128).

    The cosine similarity of two such vectors is the mean Bhattacharyya coefficient of the halves.
    """
    rows = []
    for crop in crops:
        hue, saturation, _ = np.moveaxis(np.asarray(Image.fromarray(crop).convert("HSV")), 2, 0)
        cells = hue // 16 * 4 + saturation // 64
        halves = np.array_split(cells, 2)
        rows.append(np.concatenate([np.sqrt(np.bincount(half.ravel(), minlength=64) / cells.size) for half in halves]))
    return np.array(rows, np.float32).reshape(len(rows), 128)
