"""A share of the weights that a run started from, kept in those that are tested and saved."""

import copy

import torch
from torch import Tensor, nn


class KeptStart:
    """Between the weights that a network starts from and those it has by now: what few people teach is a correction,
    and the whole way fits them alone (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).

    Tensor by tensor `share` of the start and 1 - `share` of what was trained, BatchNorm's statistics as well; the
    classifier, which may have started from chance, as it was trained.

    Args:
        net: the network, on its device, with the weights it starts from.
        share: what is kept of them, 0 to 1.
    """

    def __init__(self, net: nn.Module, share: float):
        self.share, self.module = share, copy.deepcopy(net)
        self.start: dict[str, Tensor] = {  # name -> value
            name: value.clone()
            for name, value in net.state_dict().items()
            if value.is_floating_point() and not name.startswith(net.classifier_prefix)
        }

    @torch.no_grad()
    def between(self, net: nn.Module) -> nn.Module:
        """The network between the start and `net`; it is overwritten by the next call."""
        own = self.module.state_dict()
        for name, value in net.state_dict().items():
            own[name].copy_(value.lerp(self.start[name], self.share) if name in self.start else value)
        return self.module
