"""Saved weights between the starting and the trained ones."""

import copy

import torch
from torch import Tensor, nn


class WeightInterpolation:
    """Interpolates a network's weights with the starting ones, tensor by tensor: `share` of the start, 1 - `share` of
    the trained (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022). With
    few identities the trained weights alone fit these identities and nobody else.

    Batch norm statistics are interpolated as well; the classifier, which may have started at random, is not.

    Args:
        net: the network, on its device, with its starting weights.
        share: of the starting weights, 0 to 1.
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
        """The network between the start and `net`; the next call overwrites it."""
        own = self.module.state_dict()
        for name, value in net.state_dict().items():
            own[name].copy_(value.lerp(self.start[name], self.share) if name in self.start else value)
        return self.module
