"""Convolutions of few pixels, as a CPU does them faster: one matrix product each."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# of input for each pixel of output, from which on a product is faster (docs/recipe.md); a larger kernel wants a copy of
# the pixels for each of its places
CHANNELS_PER_PIXEL, OF_LARGER_KERNELS = 2, 32


class FewPixelsAsProducts(TorchFunctionMode):
    """Within it `F.conv2d` takes the matrix product wherever a kernel meets few pixels.

    The last stages of a network see maps of 2x1 to 4x2 pixels while images are small: in progressive resizing, and of
    64x32 crops at all times. A convolution then moves far more weights than pixels, for which oneDNN's are not made.
    Nor are they right: in bfloat16 those that stride to a width of one pixel read memory that nobody wrote (oneDNN
    3.12, torch 2.14; on processors with AMX in the forward pass, on others with AVX-512 in the kernel's gradient). So
    everything of that width is a product as well.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _conv2d(images: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    """`F.conv2d`."""
    (down, right), edge, gap = (
        (value, value) if isinstance(value, int) else value for value in (stride, padding, dilation)
    )
    kernel = tuple(weight.shape[2:])
    if images.ndim == 4 and groups == 1 and tuple(gap) == (1, 1) and not isinstance(edge, str):
        height, width = (
            (size + 2 * around - side) // step + 1
            for size, around, side, step in zip(images.shape[2:], edge, kernel, (down, right), strict=True)
        )
        wanted = CHANNELS_PER_PIXEL if kernel == (1, 1) else OF_LARGER_KERNELS
        if width == 1 or weight.shape[1] >= wanted * height * width:
            return _product(images, weight, bias, (down, right), edge, (height, width))
    return F.conv2d(images, weight, bias, stride, padding, dilation, groups)


def _product(images: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, size) -> Tensor:
    """(N, I, H, W) images, (O, I, h, w) weight -> (N, O, *size): a row of pixels for each place of the kernel."""
    if any(padding):
        images = F.pad(images, (padding[1], padding[1], padding[0], padding[0]))
    images = images.permute(0, 2, 3, 1)
    (down, right), (height, width) = stride, size
    seen = [
        images[:, top : top + down * height : down, left : left + right * width : right]
        for top in range(weight.shape[2])
        for left in range(weight.shape[3])
    ]
    rows = torch.cat(seen, dim=3) if len(seen) > 1 else seen[0]  # (N, height, width, h * w * I)
    return F.linear(rows, weight.permute(0, 2, 3, 1).flatten(1), bias).permute(0, 3, 1, 2)
