"""Checkpoints of untrained networks that nevertheless tell crops apart, and crops for them."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from appearance.networks import checkpoints
from model import build_model


def lively_network(arch: str, classes: int = 7, seed: int = 0, **options) -> nn.Module:
    """A network with random weights, shifts and scales, whose BatchNorm statistics fit what flows through it."""
    torch.manual_seed(seed)
    net = build_model(arch, classes, **options)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = None  # statistics of the next pass alone
    with torch.no_grad():
        net.train()(torch.randn(8, 3, 64, 32))
    return net.eval()


def write_checkpoint(path: Path, arch: str = "net", height: int = 64, width: int = 32, **options) -> Path:
    """A checkpoint as `train.py` writes it."""
    net = lively_network(arch, **options)
    content = {"net_dict": net.state_dict(), "acc": 50.0, "epoch": 3, "arch": arch, "model_options": options}
    checkpoints.save(path, content | {"num_classes": 7, "height": height, "width": width})
    return path


def random_crops(count: int = 6, seed: int = 0) -> list[np.ndarray]:
    """Smooth RGB crops, each of another size: (h, w, 3) uint8."""
    rng = np.random.default_rng(seed)
    crops = []
    for number in range(count):
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 5, 3)))
        size = (60 + 37 * number, 40 + 11 * number)
        fine = nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 255)
        crops.append(fine[0].permute(1, 2, 0).byte().numpy())
    return crops
