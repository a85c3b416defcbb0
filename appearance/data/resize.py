"""Images at the size of the network: one by one as torchvision does it, or many of different sizes in one go.

Both give the same pixels, bit for bit: a person's vector must not depend on which of the two a program calls.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

LARGEST_WEIGHT = 1 << 15  # weights are 16-bit integers


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """(..., 3, h, w) uint8 -> (..., 3, height, width) uint8: bilinear with antialiasing, the aspect ratio not kept."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    return v2.functional.resize(pixels, [height, width], antialias=True)


def resize_all(images: Sequence[np.ndarray], height: int, width: int, device: torch.device) -> Tensor:
    """N images of any sizes, each (h, w, 3) uint8 -> (N, 3, height, width) uint8 on `device`.

    All rows of all images lie in one buffer. Each output column is a weighted sum of a few input columns, then each
    output row one of a few rows; one image's weights differ from another's, the sums are taken for all at once. The
    arithmetic is that of PyTorch's resize of uint8 images: 16-bit weights, rounding after each direction.
    """
    heights, widths = ([image.shape[axis] for image in images] for axis in (0, 1))
    flat = np.concatenate([image.reshape(-1, 3) for image in images])  # (all pixels, 3)
    flat = torch.from_numpy(flat).to(device, non_blocking=True)

    first, weights, bits = _taps(widths, width)
    row_image = np.repeat(np.arange(len(images)), heights)  # (R,) the image that each row belongs to
    row_start = np.cumsum([0, *np.repeat(widths, heights)])[:-1]  # (R,) its first pixel
    first = row_start[:, None] + first[row_image]  # (R, width)
    rows = _weighted_sums(flat, first, weights[row_image], bits[row_image], device)  # (R, width, 3)

    first, weights, bits = _taps(heights, height)
    first = np.cumsum([0, *heights])[:-1, None] + first  # (N, height)
    pixels = _weighted_sums(rows.flatten(1), first, weights, bits, device)  # (N, height, width * 3)
    return pixels.view(len(images), height, width, 3).permute(0, 3, 1, 2)


def _taps(sizes: Sequence[int], out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `out` positions take from a line of each of N sizes, by a triangle as wide as the reduction asks for.

    Returns:
        (N, out) int64 first input position; (N, out, T) int32 weights, 0 where fewer than T positions count; (N,) int32
        bits to shift their sums by.
    """
    size = np.array(sizes, dtype=np.float64)[:, None]  # (N, 1)
    scale = size / out
    reach = np.maximum(scale, 1.0)
    centre = scale * (np.arange(out) + 0.5)  # (N, out)
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + reach + 0.5).astype(np.int64), size.astype(np.int64))
    tap = np.arange((last - first).max())
    distance = (tap + first[..., None] - centre[..., None] + 0.5) / reach[..., None]  # (N, out, T)
    weights = np.where(tap < (last - first)[..., None], np.maximum(1 - np.abs(distance), 0), 0)
    weights /= weights.sum(2, keepdims=True)
    # as many bits as keep the largest weight within 16
    candidates = np.arange(1, 23)
    rounded = (weights.max((1, 2))[:, None] * 2.0**candidates + 0.5).astype(np.int64)  # (N, 22)
    bits = (rounded < LARGEST_WEIGHT).sum(1)
    weights = (weights * 2.0 ** bits[:, None, None] + 0.5).astype(np.int32)
    return first, weights, bits.astype(np.int32)


def _weighted_sums(values: Tensor, first: np.ndarray, weights: np.ndarray, bits: np.ndarray, device) -> Tensor:
    """(L, C) uint8 values -> (N, out, C) uint8: at each position the sum over T taps of weight times value, rounded."""
    first, weights, bits = (torch.from_numpy(array).to(device, non_blocking=True) for array in (first, weights, bits))
    bits = bits.view(-1, 1, 1)
    total = (1 << (bits - 1)).expand(*first.shape, values.shape[1]).clone()
    for tap in range(weights.shape[2]):
        # a tap past the end has weight 0
        taken = values[(first + tap).clamp(max=len(values) - 1)]
        total.addcmul_(weights[:, :, tap, None], taken.int())
    return (total >> bits).clamp(0, 255).to(torch.uint8)
