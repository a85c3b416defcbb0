"""Number formats: float32, bfloat16 or float16."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def fastest_precision(net: nn.Module, height: int, width: int, device: torch.device) -> str:
    """The choice of `--amp auto`: "bf16" if this device trains this network faster with it, else "fp32".

    On CPUs by measurement (best of three training steps of four images), because many CPUs are slower with bfloat16,
    and those with hardware for it are faster on large convolutions only.
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

    with torch.random.fork_rng(devices=[]):  # dropout uses random numbers
        times = {precision: min(seconds(precision) for _ in range(3)) for precision in ("fp32", "bf16")}
    return "bf16" if times["bf16"] < 0.9 * times["fp32"] else "fp32"


def emulates(precision: str, device: torch.device) -> bool:
    """Whether the device only emulates `precision` ("fp32", "bf16", "fp16"), and so is slower than with float32.

    x86 CPUs without AVX-512 multiply bfloat16 matrices 67 times more slowly (results/speed.csv). On CPUs a small
    product is timed: a whole network would take half a minute.
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
    """A warning if the device only emulates `precision`, else None."""
    if not emulates(precision, device):
        return None
    return f"warning: --amp {precision}: this device has no hardware for it and is many times slower; use --amp fp32"


@contextmanager
def full_precision() -> Iterator[None]:
    """Context in which float32 convolutions and matrix products are true float32, also within a caller's autocast.

    By default GPUs convolve in TF32, with errors of 1e-3; and features and metrics must not depend on the settings of
    the calling program.
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
    """The autocast context for forward passes in `precision`: "fp32" (none), "bf16" or "fp16"."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[precision])
