"""Augment and normalise uint8 batches on the device.

`draw` draws all random numbers of a batch on the CPU; `apply` is a pure function of pixels and numbers. So CPU and GPU
augment alike, and N ranks that each take their rows of the numbers augment as one process would.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from appearance.device import to_device

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(pixels: Tensor) -> Tensor:
    """(N, 3, H, W) uint8 -> float32, normalised with ImageNet's mean and standard deviation, channels-last."""
    mean, std = _mean_and_std(pixels.device)
    return ((pixels.float() - mean) / std).contiguous(memory_format=torch.channels_last)


@cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    """(1, 3, 1, 1) each, for pixels 0 to 255. Cached, as each copy to a GPU is a host sync."""
    with torch.inference_mode(False):  # inference tensors could not be used in training
        mean, std = (
            torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        return mean.to(device), std.to(device)


@dataclass
class Numbers:
    """The random numbers of N images: each field is a tensor with N rows."""

    flip: Tensor  # (N,) bool
    shift: Tensor  # (N, 2) int64: offset of the crop in the padded image, rows and columns
    brightness: Tensor  # (N,) factor
    contrast: Tensor  # (N,) factor
    saturation: Tensor  # (N,) factor
    erase: Tensor  # (N, 4) int64: top, left, height, width; height 0 erases nothing

    def __getitem__(self, rows) -> "Numbers":
        return Numbers(*(getattr(self, f.name)[rows] for f in fields(self)))

    def to(self, device: torch.device) -> "Numbers":
        """Copy to the device in one transfer; integers become int32 there."""
        return self if self.flip.device == device else Numbers.unpacked(to_device(self.packed(), device))

    def packed(self) -> Tensor:
        """All fields as (N, 10) int32, floats by their bits."""
        factors = torch.stack([self.brightness, self.contrast, self.saturation], 1).view(torch.int32)
        return torch.cat([self.flip[:, None], self.shift, factors, self.erase], 1).to(torch.int32)

    @classmethod
    def unpacked(cls, packed: Tensor) -> "Numbers":
        """The inverse of `packed`, on the same device."""
        flip, shift, factors, erase = packed.split([1, 2, 3, 4], 1)
        return cls(flip[:, 0] != 0, shift, *factors.view(torch.float32).unbind(1), erase)


@dataclass(frozen=True)
class Augment:
    """The augmentations and their strengths.

    Args:
        flip: probability of a horizontal flip.
        pad: padding on each side before a random crop, as a fraction of height and width.
        jitter: brightness, contrast and saturation factors are uniform in [1 - jitter, 1 + jitter].
        erase: probability of erasing a rectangle (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020).
        erase_area: smallest and largest erased fraction of the image.
    """

    flip: float = 0.5
    pad: float = 0.08
    jitter: float = 0.0
    erase: float = 0.0
    erase_area: tuple[float, float] = (0.02, 0.3)

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Numbers:
        """Random numbers for `count` images of height x width pixels, on the CPU."""
        uniform = torch.rand(11 * count, generator=generator).split([count, 2 * count, 3 * count, 5 * count])
        flip, shift, factors, boxes = uniform
        padding = torch.tensor(self.padding(height, width))
        brightness, contrast, saturation = (1 + self.jitter * (2 * factors - 1)).view(3, count)
        return Numbers(
            flip=flip < self.flip,
            shift=(shift.view(count, 2) * (2 * padding + 1)).long(),
            brightness=brightness,
            contrast=contrast,
            saturation=saturation,
            erase=self._draw_boxes(boxes.view(count, 5), height, width),
        )

    def padding(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of padding on each side, in pixels."""
        return round(self.pad * height), round(self.pad * width)

    def _draw_boxes(self, numbers: Tensor, height: int, width: int) -> Tensor:
        """(N, 5) uniform numbers -> (N, 4) boxes: area and place uniform, aspect ratio log-uniform in [0.3, 3.3]."""
        chance, area, aspect, top, left = numbers.unbind(1)
        smallest, largest = self.erase_area
        area = (smallest + (largest - smallest) * area) * height * width
        aspect = 0.3 * (3.3 / 0.3) ** aspect
        box_height = (area * aspect).sqrt().round().clamp(1, height)
        box_width = (area / aspect).sqrt().round().clamp(1, width)
        box_height = torch.where(chance < self.erase, box_height, 0.0)
        top = (top * (height - box_height + 1)).floor()
        left = (left * (width - box_width + 1)).floor()
        return torch.stack([top, left, box_height, box_width], 1).long()

    def apply(self, pixels: Tensor, numbers: Numbers) -> Tensor:
        """(N, 3, H, W) uint8 -> (N, 3, H, W) float32, augmented and normalised, channels-last."""
        numbers = numbers.to(pixels.device)
        images = _crop_and_flip(pixels, self.padding(*pixels.shape[-2:]), numbers)
        if self.jitter:
            images = _jitter(images.float(), numbers)
        images = normalize(images)
        return _erase(images, numbers.erase) if self.erase else images


def _crop_and_flip(pixels: Tensor, padding: Sequence[int], numbers: Numbers) -> Tensor:
    """Random crop of the black-padded images and flip, as one gather: (N, 3, H, W) uint8 -> the same."""
    n, _, height, width = pixels.shape
    device = pixels.device
    padded = F.pad(pixels, (padding[1], padding[1], padding[0], padding[0]))
    rows = numbers.shift[:, :1] + torch.arange(height, device=device)  # (N, H)
    columns = torch.arange(width, device=device).expand(n, width)  # (N, W)
    columns = torch.where(numbers.flip[:, None], width - 1 - columns, columns) + numbers.shift[:, 1:]
    image = torch.arange(n, device=device)
    gathered = padded.permute(0, 2, 3, 1)[image[:, None, None], rows[:, :, None], columns[:, None, :]]  # (N, H, W, 3)
    return gathered.permute(0, 3, 1, 2)


def _jitter(images: Tensor, numbers: Numbers) -> Tensor:
    """Brightness, contrast, saturation, in this order, as in torchvision, on float pixels 0 to 255."""

    def per_image(factors: Tensor) -> Tensor:
        return factors.view(-1, 1, 1, 1)

    images = (images * per_image(numbers.brightness)).clamp(0, 255)
    mean = _grey(images).mean((1, 2, 3), keepdim=True)
    images = (mean + (images - mean) * per_image(numbers.contrast)).clamp(0, 255)
    grey = _grey(images)
    return (grey + (images - grey) * per_image(numbers.saturation)).clamp(0, 255)


def _grey(images: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W) by the ITU-R 601 luma weights."""
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


def _erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Set each image's rectangle to 0, the mean colour after normalisation, in place."""
    top, left, box_height, box_width = boxes.unbind(1)
    row = torch.arange(images.shape[2], device=images.device)
    column = torch.arange(images.shape[3], device=images.device)
    in_rows = (row >= top[:, None]) & (row < (top + box_height)[:, None])  # (N, H)
    in_columns = (column >= left[:, None]) & (column < (left + box_width)[:, None])  # (N, W)
    # in place: masked_fill would change the memory format
    return images.masked_fill_((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)
