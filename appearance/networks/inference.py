"""Networks made ready to run: BatchNorm folded away, vectors as unit rows, an image seen in both directions."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from appearance.networks.convolve import take_products


def unit_rows(features: Tensor) -> Tensor:
    """(N, D) -> (N, D) float32 rows of length 1; a zero row stays zero rather than becoming NaN."""
    return F.normalize(features.float(), dim=1)


def fuse_for_inference(net: nn.Module) -> nn.Module:
    """A copy of `net` for inference: eval mode, BatchNorm folded into the convolutions, channels-last weights.

    Folding, and products of few pixels, only re-associate the same multiplications: features change by rounding alone.
    """
    net = copy.deepcopy(net).eval()
    for module in list(net.modules()):
        _fold_batch_norms(module)
    return take_products(net).to(memory_format=torch.channels_last)


class BothDirections(nn.Module):
    """A network that looks at each image and at its mirror image, for twice the time.

    Args:
        net: normalised images (N, 3, H, W) -> `embed` -> (N, D); the mean of both directions' unit rows is the answer.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.feature_dim = net.feature_dim

    def embed(self, images: Tensor) -> Tensor:
        return (unit_rows(self.net.embed(images)) + unit_rows(self.net.embed(images.flip(3)))) / 2  # (N, D)

    def forward(self, images: Tensor) -> Tensor:
        return unit_rows(self.embed(images))


def _fold_batch_norms(module: nn.Module) -> None:
    """Fold each BatchNorm2d child of `module` into the convolution registered right before it."""
    previous = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm) and isinstance(previous, nn.Conv2d):
            statistics = (child.running_mean, child.running_var, child.eps, child.weight, child.bias)
            fused = nn.utils.fuse_conv_bn_weights(previous.weight, previous.bias, *statistics)
            previous.weight, previous.bias = fused
            setattr(module, name, nn.Identity())
        previous = child
