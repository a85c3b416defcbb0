"""Seeds, and re-exports of device and process group, because users of older scripts import them from `utils`."""

import random

import numpy as np
import torch

from appearance.device import choose_device
from appearance.distributed import World, current_world, join_process_group, single_process

__all__ = ["World", "choose_device", "current_world", "join_process_group", "seed_everything", "single_process"]


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
