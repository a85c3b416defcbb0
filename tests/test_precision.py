"""bfloat16 on a CPU: what is not exact there runs in float32."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from appearance.networks.precision import autocast
from model import build_model

CPU = torch.device("cpu")


class Convolutions(TorchDispatchMode):
    """Keeps dtype and width of the output of each convolution."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if "convolution" in str(function) and "backward" not in str(function):
            self.seen.append((result.dtype, result.shape[-1]))
        return result


def convolution(width: int, stride: int, **options) -> Convolutions:
    images = torch.randn(2, 16, 4, width).contiguous(memory_format=torch.channels_last)
    with autocast(CPU, "bf16"), Convolutions() as found:
        F.conv2d(images, torch.randn(32, 16, 3, 3), torch.randn(32), stride, **options)
    return found


@pytest.mark.parametrize(
    ("width", "stride", "padding", "dtype"),
    [
        (1, 2, 1, torch.float32),
        (2, 2, 1, torch.float32),
        (3, 2, 1, torch.bfloat16),  # two columns
        (4, (2, 2), (1, 0), torch.float32),
        (4, (2, 1), (1, 1), torch.bfloat16),  # strides downwards only
        (1, 1, 1, torch.bfloat16),
        (3, 1, 0, torch.bfloat16),
    ],
)
def test_strided_convolutions_to_one_column_run_in_float32(width, stride, padding, dtype):
    assert [seen[0] for seen in convolution(width, stride, padding=padding).seen] == [dtype]


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
    assert any(dtype == torch.float32 for dtype, _ in found.seen)
    assert all(dtype == torch.bfloat16 for dtype, width in found.seen if width > 1)


def test_the_result_is_that_of_bfloat16():
    images, layer = torch.randn(2, 16, 4, 2), nn.Conv2d(16, 32, 3, 2, 1)
    with autocast(CPU, "bf16"):
        found = layer(images)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, layer(images).bfloat16())
    with autocast(CPU, "fp32"):
        assert layer(images).dtype == torch.float32
