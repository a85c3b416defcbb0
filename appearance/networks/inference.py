"""Networks for inference: fold BatchNorm, normalise vectors, average over the mirror image."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from appearance.cli import InputError
from appearance.data.augment import normalize
from appearance.networks.im2col import use_im2col
from appearance.networks.precision import full_precision

UNIT_TOLERANCE = 1e-3  # large enough for unit rows that were rounded to float16


def unit_rows(features: Tensor) -> Tensor:
    """(N, D) -> (N, D) float32 rows of length 1; a zero row stays zero rather than becoming NaN."""
    return F.normalize(features.float(), dim=1)


def are_unit(rows: Tensor) -> Tensor:
    """(N, D) -> (N,) bool: which rows have length 1; False for zero rows and rows with NaN or infinite values."""
    return (torch.linalg.vector_norm(rows, dim=1) - 1).abs() <= UNIT_TOLERANCE


def check_vectors(net: nn.Module, height: int, width: int, path) -> None:
    """Run two noise images through a network's `embed`, in eval mode, to find damaged weights.

    Finite weights can still give useless vectors: NaN from negative variances, infinities from huge weights, zeros
    from tiny ones.

    Args:
        height, width: of the images in pixels.
        path: file of the network, for messages.

    Raises:
        InputError: the network does not run on such images, or gives zero, NaN or infinite vectors.
    """
    noise = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    training = net.training
    try:
        with torch.inference_mode(), full_precision():
            rows = unit_rows(net.eval().embed(normalize(noise)))  # (2, D)
    except Exception as error:  # PyTorch and other libraries raise many types
        told = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"{path}: does not run on images of {height}x{width} pixels ({told[:200]})") from None
    finally:
        net.train(training)
    if not are_unit(rows).all():
        raise InputError(
            f"{path}: the network gives zero, NaN or infinite vectors, because its weights are damaged or its training "
            "diverged; use another file"
        )


def fuse_for_inference(net: nn.Module) -> nn.Module:
    """A copy of `net` for inference: eval mode, BatchNorm folded into convolutions, im2col, channels-last weights.

    Features change by rounding errors only.
    """
    net = copy.deepcopy(net).eval()
    for module in list(net.modules()):
        _fold_batch_norms(module)
    return use_im2col(net).to(memory_format=torch.channels_last)


class BothDirections(nn.Module):
    """Average the unit vectors of each image and its mirror image, in twice the time.

    Args:
        net: its `embed` maps normalised images (N, 3, H, W) to (N, D).
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
