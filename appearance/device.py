"""Which device a script runs on, and the way there from the host's memory."""

import torch
from torch import Tensor

from appearance.cli import InputError


def choose_device(name: str = "auto", gpu_id: int | None = None) -> torch.device:
    """The device called `name`, with its number ("auto": a GPU if there is one, else the CPU).

    Args:
        gpu_id: which GPU "auto" and "cuda" take; None: the current one of this process.

    Raises:
        InputError: this machine does not have it.
    """
    flag = f"--device {name}"
    if name == "auto" and not torch.cuda.is_available() and not gpu_id:
        name = "cpu"
    elif name in ("auto", "cuda"):
        name = "cuda" if gpu_id is None else f"cuda:{gpu_id}"
        flag = f"--gpu_id {gpu_id}" if gpu_id else flag
    try:
        return torch.empty(1, device=torch.device(name)).device
    except (RuntimeError, AssertionError, NotImplementedError):
        found = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise InputError(f"{flag}: not available, this machine has {found}; use --device cpu") from None


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, through pinned memory where it comes from the host, so that nobody waits for the bus.

    PyTorch keeps the pinned copy until the device has read it.
    """
    if tensor.device.type == "cpu" and device.type != "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
