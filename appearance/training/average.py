"""The moving average of a network's weights."""

import copy

import torch
from torch import nn


class MovingAverage(nn.Module):
    """An exponential moving average of weights and BatchNorm statistics, in `module`; it begins with the first update.

    One operation for all tensors, and nothing on the device that the host would have to ask for. Whoever calls `update`
    counts in `n_averaged`, on the host: a CUDA graph that updates cannot.

    Args:
        net: what is averaged, on its device.
        decay: what the average keeps of itself in an update.
    """

    def __init__(self, net: nn.Module, decay: float):
        super().__init__()
        self.module = copy.deepcopy(net)
        self.decay = decay
        self.register_buffer("n_averaged", torch.tensor(0))  # on the host
        pairs = list(zip(self.module.state_dict().values(), net.state_dict().values(), strict=True))
        self._moving = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counting = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take up the network as it is now."""
        ours, theirs = map(list, zip(*self._moving, strict=True))
        torch._foreach_lerp_(ours, theirs, 1 - self.decay if self.n_averaged else 1.0)
        for own, other in self._counting:
            own.copy_(other)
