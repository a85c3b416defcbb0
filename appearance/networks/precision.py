"""In which arithmetic a network runs."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode


def fastest_precision(net: nn.Module, height: int, width: int, device: torch.device) -> str:
    """What `--amp auto` means: "bf16" where the device trains this network faster with it, else "fp32".

    A CPU is measured, at the size of training: many take bfloat16 and are slower with it, and those that are made for
    it are so for large convolutions only. Of a forward and backward pass of four images the best of three counts.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    net = copy.deepcopy(net).train().to(memory_format=torch.channels_last)
    images = torch.zeros(4, 3, height, width).contiguous(memory_format=torch.channels_last)

    def seconds(precision: str) -> float:
        started = time.perf_counter()
        with autocast(device, precision):
            loss = net.embed(images).float().sum()
        loss.backward()
        return time.perf_counter() - started

    with torch.random.fork_rng(devices=[]):  # dropout draws
        times = {precision: min(seconds(precision) for _ in range(3)) for precision in ("fp32", "bf16")}
    return "bf16" if times["bf16"] < 0.9 * times["fp32"] else "fp32"


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions and matrix products of float32 numbers in true float32.

    GPUs convolve in TF32 unless told otherwise, with errors of 1e-3; and what a feature or a metric means must not
    change with the settings of the program around it.
    """
    backends = torch.backends
    settings = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def autocast(device: torch.device, precision: str):
    """The context for forward passes: "fp32" (none), "bf16" or "fp16"."""
    if precision == "fp32":
        return nullcontext()
    if device.type == "cpu" and precision == "bf16":
        return _bfloat16_on_cpu()
    return torch.autocast(device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[precision])


@contextmanager
def _bfloat16_on_cpu() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16), _NarrowInFloat32():
        yield


class _NarrowInFloat32(TorchFunctionMode):
    """Convolutions with a stride whose output is one pixel wide run in float32, all others as they would.

    In bfloat16 oneDNN 3.12 (torch 2.14) reads memory there that nobody wrote: on processors with AMX in the forward
    pass, on others with AVX-512 in the kernel's gradient where the input is as narrow too. `Net` comes to them at a
    width of 16 pixels, the first size of progressive resizing. They are small, and cost next to nothing.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.conv2d and _narrow(*args, **kwargs):
            with torch.autocast("cpu", enabled=False):
                images, kernel, *rest = args
                bias = [value.float() if isinstance(value, torch.Tensor) else value for value in rest]
                return function(images.float(), kernel.float(), *bias, **kwargs).bfloat16()
        return function(*args, **kwargs)


def _narrow(images, kernel, bias=None, stride=1, padding=0, dilation=1, groups=1) -> bool:
    """Whether such a convolution strides over (N, C, H, W) images to an output of one column."""
    step, edge, gap = (value if isinstance(value, int) else value[-1] for value in (stride, padding, dilation))
    if step == 1 or isinstance(edge, str):
        return False
    return (images.shape[-1] + 2 * edge - gap * (kernel.shape[-1] - 1) - 1) // step == 0
