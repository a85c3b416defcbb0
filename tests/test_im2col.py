"""Convolutions of few pixels on a CPU: matrix products, and exact."""

import copy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from appearance.networks.im2col import Conv2d, use_im2col
from appearance.networks.inference import fuse_for_inference
from appearance.networks.precision import autocast
from model import build_model

CPU = torch.device("cpu")


class Convolutions(TorchDispatchMode):
    """Keeps the width of what comes out of each convolution that PyTorch is asked for, and that of its kernel."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if "convolution" in str(function) and "backward" not in str(function):
            self.seen.append((result.shape[3], args[1].shape[3]))
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
        images = torch.randn(2, 32, height, width, dtype=torch.float64, requires_grad=True)
        layer = Conv2d(32, 4, kernel, stride, padding, dtype=torch.float64)
        weight, bias = layer.weight, layer.bias
        plain = F.conv2d(images, weight, bias, stride, padding)
        with Convolutions() as found:
            ours = layer(images)
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
        ((4, 2), 16, {"stride": 2}, True),  # one column
        ((4, 1), 16, {}, True),
        ((4, 3), 16, {"stride": 2}, False),  # two of them
        ((4, 2), 256, {}, True),  # eight pixels of 256 channels
        ((4, 2), 255, {}, False),
        ((8, 4), 256, {"stride": 2}, True),
        ((8, 4), 256, {}, False),
        ((8, 4), 256, {"kernel_size": 1, "stride": 2, "padding": 0}, True),
        ((4, 2), 256, {"kernel_size": 1, "padding": 0}, False),
        ((4, 1), 16, {"groups": 16}, False),
        ((4, 3), 1600, {"dilation": 2}, False),
        ((4, 1), 16, {"padding": "same"}, False),
        ((4, 1), 16, {"padding_mode": "circular"}, False),
    ],
)
def test_which_convolutions_are_products(size, channels, options, replaced):
    layer = use_im2col(nn.Conv2d(channels, 32, **{"kernel_size": 3, "padding": 1} | options))
    with Convolutions() as found:
        layer(torch.randn(2, channels, *size))
    assert bool(found.seen) != replaced


@pytest.mark.parametrize("name", ["net", "resnet18"])
def test_small_images_have_finite_features_and_gradients_whatever_lies_in_memory(name):
    """128x64 pixels begin at a quarter, 32x16, which `Net` and the ResNets bring down to one column by a stride."""
    torch.manual_seed(0)
    net = use_im2col(build_model(name, 10)).to(memory_format=torch.channels_last)
    images = torch.randn(16, 3, 32, 16).contiguous(memory_format=torch.channels_last)
    exact = net.embed(images).detach()
    for _ in range(5):
        for size in range(10, 20):
            torch.full((1 << size,), 3e38, dtype=torch.bfloat16)  # freed at once, to be found by who reads too far
        net.zero_grad()
        with autocast(CPU, "bf16"), Convolutions() as found:
            features = net.embed(images)
        features.float().square().sum().backward()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in net.parameters())
        assert torch.cosine_similarity(features.float(), exact).min() > 0.99
    assert found.seen
    assert not any(width == 1 and kernel > 1 for width, kernel in found.seen)


def test_in_bfloat16_the_result_is_bfloat16():
    layer, images = Conv2d(512, 8, 3, padding=1), torch.randn(2, 512, 2, 1)
    with autocast(CPU, "bf16"):
        found = layer(images)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), layer(images), atol=0.03)


def test_a_network_stays_what_it_was():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(4, 4, 3)))
    names, text = list(plain.state_dict()), repr(plain)
    net = use_im2col(plain)
    assert [type(module) for module in net.modules() if isinstance(module, nn.Conv2d)] == [Conv2d, Conv2d]
    assert (list(net.state_dict()), repr(net)) == (names, text)
    assert type(copy.deepcopy(net)[0]) is Conv2d


def test_the_network_of_a_test_or_a_tracker_takes_products_too():
    with Convolutions() as found:
        fuse_for_inference(build_model("net", 10)).embed(torch.zeros(1, 3, 32, 16))
    assert found.seen
    assert not any(width == 1 for width, _ in found.seen)


def test_exported_files_keep_their_convolutions():
    net = use_im2col(build_model("net", 10, reid=True).eval())
    traced = torch.jit.trace(net, torch.zeros(1, 3, 32, 16))
    assert str(traced.inlined_graph).count("aten::_convolution") == 20
    assert "aten::cat" not in str(traced.inlined_graph)


def test_a_compiled_network_is_one_graph():
    net, images = use_im2col(build_model("net", 10)).eval(), torch.randn(2, 3, 32, 16)
    torch.compiler.reset()
    assert torch.equal(torch.compile(net.embed, backend="eager", fullgraph=True)(images), net.embed(images))
