"""What a network's vectors are compared with: no appearance at all, and histograms of colours.

Each turns a list of RGB crops into (n, D) unit rows.
"""

import numpy as np
from PIL import Image


def nothing(crops: list[np.ndarray]) -> np.ndarray:
    return np.ones((len(crops), 1), np.float32)


def colours(crops: list[np.ndarray]) -> np.ndarray:
    """Hue and saturation histograms of the upper and the lower half, as square roots (n, 2 * 16 * 4).

    The cosine of two such vectors is their Bhattacharyya coefficient.
    """
    rows = []
    for crop in crops:
        hue, saturation, _ = np.moveaxis(np.asarray(Image.fromarray(crop).convert("HSV")), 2, 0)
        cells = hue // 16 * 4 + saturation // 64
        halves = np.array_split(cells, 2)
        rows.append(np.concatenate([np.sqrt(np.bincount(half.ravel(), minlength=64) / cells.size) for half in halves]))
    return np.array(rows, np.float32).reshape(len(rows), 128)
