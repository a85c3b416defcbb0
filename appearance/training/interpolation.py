"""Interpolation between starting and trained weights."""

import copy

import torch
from torch import Tensor, nn


class WeightInterpolation:
    """Weights for saving: `share` of the starting and 1 - `share` of the trained ones, for every tensor.

    Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022. With few identities, the trained weights alone
    overfit them. Batch norm statistics are interpolated too; the classifier is not, as it may have started at random.

    Args:
        net: the network with its starting weights, on its device.
        share: weight of the starting weights, 0 to 1.
    """

    def __init__(self, net: nn.Module, share: float):
        self.share, self.module = share, copy.deepcopy(net)
        self.start: dict[str, Tensor] = {  # name -> value
            name: value.clone()
            for name, value in net.state_dict().items()
            if value.is_floating_point() and not name.startswith(net.classifier_prefix)
        }

    @torch.no_grad()
    def of(self, net: nn.Module) -> nn.Module:
        """The network with interpolated weights; overwritten by the next call."""
        own = self.module.state_dict()
        for name, value in net.state_dict().items():
            own[name].copy_(value.lerp(self.start[name], self.share) if name in self.start else value)
        return self.module
