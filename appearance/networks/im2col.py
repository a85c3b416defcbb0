"""Convolutions of few pixels as one matrix product each (im2col), which a CPU does faster than a convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS_PER_PIXEL = 32  # of input for each pixel of output, from which on a product is faster (results/speed.csv)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, which on a CPU takes im2col and a matrix product wherever its kernel meets few pixels.

    The last stages of a network see maps of 2x1 to 4x2 pixels while images are small: in progressive resizing, and of
    64x32 crops at all times. A convolution then moves far more weights than pixels, for which oneDNN's are not made.
    Nor are they right: in bfloat16 those that stride to a width of one pixel read memory that nobody wrote (oneDNN
    3.12, torch 2.14; on processors with AMX in the forward pass, on others with AVX-512 in the kernel's gradient). So
    everything of that width is a product as well. In exported files convolutions stay what they are.

    For layers that `use_im2col` chooses: without groups, dilation or other padding than so many zeros.
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
    """Let a network's convolutions, torchvision's as well, use im2col where it is faster; changed in place, returned.

    But for those that look at each pixel alone: there is little to gain, and light networks have a hundred of them.
    """
    for module in net.modules():
        if type(module) is nn.Conv2d and module.groups == 1 and module.dilation == (1, 1):
            zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
            if zeros and (module.kernel_size, module.stride) != ((1, 1), (1, 1)):
                module.__class__ = Conv2d
    return net


def _product(images: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, size) -> Tensor:
    """(N, I, H, W) images, (O, I, h, w) weight -> (N, O, *size): a row of pixels for each place of the kernel.

    As `F.unfold` makes such rows, but channels last, as pixels and weights lie in memory: in bfloat16 nearly twice as
    fast, in float32 up to 1.8 times.
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
