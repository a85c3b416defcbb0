"""Convolutions of few pixels on a CPU: matrix products, and exact."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from appearance.networks.convolve import FewPixelsAsProducts
from appearance.networks.precision import autocast
from model import build_model

CPU = torch.device("cpu")


class Convolutions(TorchDispatchMode):
    """Keeps height and width of what comes out of each convolution that PyTorch is asked for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if "convolution" in str(function) and "backward" not in str(function):
            self.seen.append(tuple(result.shape[2:]))
        return result


KERNELS = ((1, 1), (3, 3), (5, 5), (1, 3), (3, 1), (2, 2))
STRIDES, PADDINGS = (1, 2, 3, (2, 1), (1, 2)), (0, 1, 2, (1, 0))


@pytest.mark.parametrize("kernel", KERNELS)
def test_values_and_gradients_are_those_of_the_convolution(kernel):
    torch.manual_seed(0)
    replaced = 0
    for stride, padding, height, width in product(STRIDES, PADDINGS, (1, 2, 5), (1, 2, 3, 4)):
        around = (padding, padding) if isinstance(padding, int) else padding
        if height + 2 * around[0] < kernel[0] or width + 2 * around[1] < kernel[1]:
            continue
        images, weight, bias = (
            torch.randn(shape, dtype=torch.float64, requires_grad=True)
            for shape in ((2, 32, height, width), (4, 32, *kernel), (4,))
        )
        plain = F.conv2d(images, weight, bias, stride, padding)
        with FewPixelsAsProducts(), Convolutions() as found:
            ours = F.conv2d(images, weight, bias, stride, padding)
        replaced += not found.seen
        assert torch.allclose(ours, plain, atol=1e-12)
        to_go = torch.randn_like(plain)
        for gradient, wanted in zip(
            torch.autograd.grad(ours, (images, weight, bias), to_go),
            torch.autograd.grad(plain, (images, weight, bias), to_go),
            strict=True,
        ):
            assert torch.allclose(gradient, wanted, atol=1e-12)
    assert replaced > 20


@pytest.mark.parametrize(
    ("size", "channels", "options", "replaced"),
    [
        ((4, 2), 16, {"stride": 2, "padding": 1}, True),  # one column
        ((4, 1), 16, {"padding": 1}, True),
        ((4, 3), 16, {"stride": 2, "padding": 1}, False),  # two of them
        ((4, 2), 256, {"padding": 1}, True),  # eight pixels of 256 channels
        ((4, 2), 255, {"padding": 1}, False),
        ((8, 4), 256, {"stride": 2, "padding": 1}, True),
        ((8, 4), 256, {"padding": 1}, False),
        ((8, 4), 64, {"kernel": 1}, True),
        ((8, 4), 63, {"kernel": 1}, False),
        ((16, 8), 64, {"kernel": 1, "stride": 2}, True),
        ((4, 1), 16, {"padding": 1, "groups": 16}, False),
        ((4, 5), 16, {"dilation": 2}, False),
        ((4, 1), 16, {"padding": "same"}, False),
    ],
)
def test_which_convolutions_are_products(size, channels, options, replaced):
    side = options.pop("kernel", 3)
    weight = torch.randn(32, channels // options.get("groups", 1), side, side)
    if options.get("dilation"):
        weight = weight[:, :, :1]
    with autocast(CPU, "fp32"), Convolutions() as found:
        F.conv2d(torch.randn(2, channels, *size), weight, **options)
    assert bool(found.seen) != replaced


@pytest.mark.parametrize("name", ["net", "resnet18"])
def test_small_images_have_finite_features_and_gradients_whatever_lies_in_memory(name):
    """128x64 pixels begin at a quarter, 32x16, which `Net` and the ResNets bring down to one column by a stride."""
    torch.manual_seed(0)
    net = build_model(name, 10).to(memory_format=torch.channels_last)
    images = torch.randn(16, 3, 32, 16).contiguous(memory_format=torch.channels_last)
    exact = net.embed(images).detach()
    for _ in range(5):
        del [torch.full((1 << size,), 3e38, dtype=torch.bfloat16) for size in range(10, 20)][:]
        net.zero_grad()
        with autocast(CPU, "bf16"), Convolutions() as found:
            features = net.embed(images)
        features.float().square().sum().backward()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in net.parameters())
        assert torch.cosine_similarity(features.float(), exact).min() > 0.99
    assert found.seen
    assert not any(width == 1 for _, width in found.seen)


def test_in_bfloat16_the_result_is_bfloat16():
    images, weight = torch.randn(2, 512, 2, 1), torch.randn(8, 512, 3, 3) / 70
    with autocast(CPU, "bf16"):
        found = F.conv2d(images, weight, padding=1)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), F.conv2d(images, weight, padding=1), atol=0.03)
