"""Networks made ready to run: BatchNorm folded away, vectors as unit rows, an image seen in both directions."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from appearance.cli import InputError
from appearance.data.augment import normalize
from appearance.networks.im2col import use_im2col
from appearance.networks.precision import full_precision

UNIT_TOLERANCE = 1e-3  # rows rounded to float16 on their way are still unit rows


def unit_rows(features: Tensor) -> Tensor:
    """(N, D) -> (N, D) float32 rows of length 1; a zero row stays zero rather than becoming NaN."""
    return F.normalize(features.float(), dim=1)


def are_unit(rows: Tensor) -> Tensor:
    """(N, D) -> (N,) bool: which rows have length 1; zero rows have not, nor have those with a NaN or an infinity."""
    return (torch.linalg.vector_norm(rows, dim=1) - 1).abs() <= UNIT_TOLERANCE


def check_vectors(net: nn.Module, height: int, width: int, path) -> None:
    """Run two images of noise through a network's `embed`, in eval mode.

    Weights can be finite and yet give nothing: negative variances NaN, huge weights infinities, tiny ones zeros.

    Args:
        height, width: of the images.
        path: the file that the network is from.

    Raises:
        InputError: the network does not run on such images, or a vector has no direction; names the file.
    """
    noise = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    training = net.training
    try:
        with torch.inference_mode(), full_precision():
            rows = unit_rows(net.eval().embed(normalize(noise)))  # (2, D)
    except Exception as error:  # PyTorch has many, and so have other libraries
        told = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise InputError(f"{path}: does not run on images of {height}x{width} pixels ({told[:200]})") from None
    finally:
        net.train(training)
    if not are_unit(rows).all():
        raise InputError(
            f"{path}: its network gives vectors of zeros, NaN or infinities; its weights are damaged, or those of a "
            "training that diverged: take another file"
        )


def fuse_for_inference(net: nn.Module) -> nn.Module:
    """A copy of `net` for inference: eval mode, BatchNorm folded into the convolutions, channels-last weights.

    Folding, and products of few pixels, only re-associate the same multiplications: features change by rounding alone.
    """
    net = copy.deepcopy(net).eval()
    for module in list(net.modules()):
        _fold_batch_norms(module)
    return use_im2col(net).to(memory_format=torch.channels_last)


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
