"""Choose the device, and copy tensors to it."""

import torch
from torch import Tensor

from appearance.cli import InputError


def choose_device(name: str = "auto", gpu_id: int | None = None) -> torch.device:
    """The device `name` with its index, such as cuda:0; "auto": a GPU if there is one, else the CPU.

    Args:
        gpu_id: index of the GPU for "auto" and "cuda"; None: the current one of this process.

    Raises:
        InputError: this machine does not have the device.
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
        raise InputError(f"{flag}: not available; this machine has {found}, use --device cpu") from None


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to the device without a host sync: from the host through pinned memory.

    PyTorch keeps the pinned copy until the device has read it.
    """
    if tensor.device.type == "cpu" and device.type != "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
