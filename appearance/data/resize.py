"""Resize images to the network's input size: one at a time with torchvision, or a batch of different sizes at once.

Both give the same pixels, bit for bit, so that vectors do not depend on which one a program uses.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2

from appearance.device import to_device

LARGEST_WEIGHT = 1 << 15  # weights are 16-bit integers


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """(..., 3, h, w) uint8 -> (..., 3, height, width) uint8: bilinear with antialiasing; changes the aspect ratio."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    return v2.functional.resize(pixels, [height, width], antialias=True)


def resize_all(images: Sequence[np.ndarray], height: int, width: int, device: torch.device) -> Tensor:
    """N images of any sizes, each (h, w, 3) uint8 -> (N, 3, height, width) uint8 on `device`.

    The rows of all images are one buffer. First each output column is a weighted sum of a few input columns, then each
    output row one of a few rows, for all images at once with per-image weights. The arithmetic is that of PyTorch's
    resize of uint8 images: 16-bit weights, rounding after each direction. Only pixels and sizes are copied to the
    device; the weights are computed there.
    """
    count, heights, widths = len(images), [len(image) for image in images], [image.shape[1] for image in images]
    flat = to_device(torch.from_numpy(np.concatenate([image.reshape(-1, 3) for image in images])), device)
    sizes = to_device(torch.tensor([heights, widths]), device)  # (2, N)

    first, weights, bits = _taps(sizes[1], width, max(widths))
    number = torch.arange(count, device=device)
    row_image = number.repeat_interleave(sizes[0], output_size=sum(heights))  # (R,) image of each row
    row_width = sizes[1][row_image]
    row_start = row_width.cumsum(0) - row_width  # (R,) first pixel of each row
    first = row_start[:, None] + first[row_image]  # (R, width)
    rows = _weighted_sums(flat, first, weights[row_image], bits[row_image])  # (R, width, 3)

    first, weights, bits = _taps(sizes[0], height, max(heights))
    first = (sizes[0].cumsum(0) - sizes[0])[:, None] + first  # (N, height)
    pixels = _weighted_sums(rows.flatten(1), first, weights, bits)  # (N, height, width * 3)
    return pixels.view(count, height, width, 3).permute(0, 3, 1, 2)


def _taps(sizes: Tensor, out: int, largest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights of triangle filters from lines of N lengths to `out` positions, each as wide as its reduction.

    Args:
        sizes: (N,) int64 lengths.
        out: number of output positions.
        largest: maximum of `sizes`, passed in to avoid a host sync.

    Returns:
        (N, out) int64 first input position; (N, out, T) int32 weights, padded with 0; (N,) int32 bits by which the sums
        are shifted.
    """
    size = sizes[:, None].double()  # (N, 1)
    scale = size / out
    reach = scale.clamp(min=1.0)
    centre = scale * (torch.arange(out, device=sizes.device) + 0.5)  # (N, out)
    first = (centre - reach + 0.5).long().clamp(min=0)
    last = (centre + reach + 0.5).long().minimum(sizes[:, None])
    tap = torch.arange(int(2 * max(largest / out, 1.0)) + 2, device=sizes.device)
    distance = (tap + first[..., None] - centre[..., None] + 0.5) / reach[..., None]  # (N, out, T)
    weights = (1 - distance.abs()).clamp(min=0) * (tap < (last - first)[..., None])
    weights = weights / weights.sum(2, keepdim=True)
    # the most bits with which the largest weight fits 16
    candidates = 2.0 ** torch.arange(1, 23, device=sizes.device)
    rounded = (weights.amax((1, 2))[:, None] * candidates + 0.5).long()  # (N, 22)
    bits = (rounded < LARGEST_WEIGHT).sum(1)
    weights = (weights * 2.0 ** bits[:, None, None] + 0.5).int()
    return first, weights, bits.int()


def _weighted_sums(values: Tensor, first: Tensor, weights: Tensor, bits: Tensor) -> Tensor:
    """(L, C) uint8 values -> (N, out, C) uint8: the rounded sum of weight times value over T taps."""
    bits = bits.view(-1, 1, 1)
    total = (1 << (bits - 1)).expand(*first.shape, values.shape[1]).clone()
    for tap in range(weights.shape[2]):
        # a tap past the end has weight 0
        taken = values[(first + tap).clamp(max=len(values) - 1)]
        total.addcmul_(weights[:, :, tap, None], taken.int())
    return (total >> bits).clamp(0, 255).to(torch.uint8)
