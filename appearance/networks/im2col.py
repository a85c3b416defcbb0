"""Convolutions of small feature maps as matrix products (im2col), which is faster on CPUs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS_PER_PIXEL = 32  # input channels per output pixel above which im2col is faster (results/speed.csv)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d` that uses im2col and a matrix product on CPUs for small feature maps.

    With small images (progressive resizing, 64x32 crops) the last stages have maps of 2x1 to 4x2 pixels. There are far
    more weights than pixels then, for which oneDNN's convolutions are slow. They are also wrong: strided bfloat16
    convolutions to a width of one pixel read uninitialised memory (oneDNN 3.12, torch 2.14; on CPUs with AMX in the
    forward pass, with AVX-512 in the weight gradient). So all outputs of width 1 use im2col as well. Exported files
    contain plain convolutions.

    Only for layers without groups, dilation, or padding other than zeros (see `use_im2col`).
    """

    def _conv_forward(self, images: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if images.device.type == "cpu" and not torch.jit.is_tracing():
            (down, right), (above, left), (tall, wide) = self.stride, self.padding, self.kernel_size
            height = (images.shape[2] + 2 * above - tall) // down + 1
            width = (images.shape[3] + 2 * left - wide) // right + 1
            if width == 1 or self.in_channels >= CHANNELS_PER_PIXEL * height * width:
                return _product(images, weight, bias, self.stride, self.padding, (height, width))
        return super()._conv_forward(images, weight, bias)


def use_im2col(net: nn.Module) -> nn.Module:
    """Replace the convolutions of a network by `Conv2d`, in place; returns the network.

    1x1 convolutions without stride stay: they gain little, and light networks have a hundred of them.
    """
    for module in net.modules():
        if type(module) is nn.Conv2d and module.groups == 1 and module.dilation == (1, 1):
            zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
            if zeros and (module.kernel_size, module.stride) != ((1, 1), (1, 1)):
                module.__class__ = Conv2d
    return net


def _product(images: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, size) -> Tensor:
    """(N, I, H, W) images, (O, I, h, w) weight -> (N, O, *size), by im2col.

    Like `F.unfold`, but channels last, the memory order of images and weights: up to 1.8 times as fast in float32,
    nearly twice as fast in bfloat16.
    """
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
