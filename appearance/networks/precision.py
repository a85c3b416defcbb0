"""In which arithmetic a network runs."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def fastest_precision(net: nn.Module, height: int, width: int, device: torch.device) -> str:
    """What `--amp auto` means: "bf16" where the device trains this network faster with it, else "fp32".

    A CPU is measured, at the size of training: many take bfloat16 and are slower with it, and those that are made for
    it are so for large convolutions only. Of a forward and backward pass of four images the best of three counts.
    """
    if emulates("bf16", device):
        return "fp32"
    if device.type == "cuda":
        return "bf16"
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


def emulates(precision: str, device: torch.device) -> bool:
    """Whether the device takes an arithmetic without being made for it, and so is slower with it than with float32.

    An x86 processor without AVX-512 multiplies matrices 67 times more slowly in bfloat16 (results/speed.csv). On it a
    network of some size would take half a minute to measure; a small product tells as well.
    """
    if precision == "fp32":
        return False
    if device.type == "cuda":
        return precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False)

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(256, 256, dtype=dtype)
        started = time.perf_counter()
        matrix @ matrix
        return time.perf_counter() - started

    reduced, full = (min(seconds(DTYPES[name]) for _ in range(5)) for name in (precision, "fp32"))
    return reduced > 4 * full


def emulation_warning(precision: str, device: torch.device) -> str | None:
    """What to tell somebody who asked for arithmetic that the device only emulates."""
    if not emulates(precision, device):
        return None
    return f"warning: --amp {precision}: this device only emulates it and is many times slower with it; take --amp fp32"


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions and matrix products of float32 numbers in true float32, also within a caller's autocast.

    GPUs convolve in TF32 unless told otherwise, with errors of 1e-3; and what a feature or a metric means must not
    change with the settings of the program around it.
    """
    backends = torch.backends
    settings = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "ieee"
    try:
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def autocast(device: torch.device, precision: str):
    """The context for forward passes: "fp32" (none), "bf16" or "fp16"."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])
