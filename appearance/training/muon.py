"""Muon: an optimizer whose steps are equally large in all directions of a weight matrix."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import AdamW

# Jordan's coefficients of the quintic: after five steps singular values from 0.002 to 1 lie between 0.7 and 1.2
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5


def learns_by_muon(parameter: nn.Parameter) -> bool:
    """Kernels that mix channels; not those of the image's three, not depth-wise ones."""
    return parameter.ndim == 4 and parameter.shape[1] > 3


class Muon(AdamW):
    """Muon for the groups with `muon=True`, which hold convolution kernels, and AdamW for all others.

    The momentum of each kernel, as a matrix (outputs, inputs x height x width), is replaced by the nearest matrix with
    singular values of 1 (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024), scaled to
    what AdamW's steps measure on average, so that learning rate and weight decay mean the same in both kinds of groups
    (Liu et al., "Muon is Scalable for LLM Training", 2025, eq. 4). PyTorch's own Muon takes matrices only.

    Args:
        groups: as for AdamW, each with `muon` set.
        lr: the highest learning rate.
        momentum: of Muon; Nesterov's.
        block: output channels that are made orthogonal to each other at a time; a kernel's products
            cost in proportion to it.
        dtype: of the matrix products; bfloat16 is exact enough, where the device is fast with it.
        fused: of AdamW.
    """

    def __init__(
        self,
        groups: Iterable[dict],
        lr: float,
        momentum: float = 0.95,
        block: int = 128,
        dtype: torch.dtype = torch.float32,
        fused: bool = False,
    ):
        super().__init__(groups, lr=lr, fused=fused)
        self.momentum, self.block, self.dtype = momentum, block, dtype
        self._step_supports_amp_scaling = False  # a GradScaler has to unscale the gradients: Muon does not

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._muon_step(group)
        return loss

    def _muon_step(self, group: dict) -> None:
        alike = defaultdict(list)  # shape of a block -> kernels that are cut into such blocks
        for kernel in group["params"]:
            if kernel.grad is not None:
                rows = self.block if len(kernel) % self.block == 0 else len(kernel)
                alike[rows, kernel[0].numel()].append(kernel)
        for shape, kernels in alike.items():
            blocks = [self._direction(kernel).reshape(-1, *shape) for kernel in kernels]  # (b, rows, columns) each
            parts = orthogonal(torch.cat(blocks).to(self.dtype)).float().split([len(b) for b in blocks])
            for kernel, part in zip(kernels, parts, strict=True):
                size = 0.2 * max(len(kernel), shape[1]) ** 0.5
                kernel.mul_(1 - group["lr"] * group["weight_decay"])
                kernel.add_(part.reshape(kernel.shape), alpha=-group["lr"] * size)

    def _direction(self, kernel: nn.Parameter) -> Tensor:
        state = self.state[kernel]
        if not state:  # in AdamW's names: loading a state looks for "step"
            state["step"], state["exp_avg"] = torch.zeros(()), torch.zeros_like(kernel)
        average = state["exp_avg"].lerp_(kernel.grad, 1 - self.momentum)
        return kernel.grad.lerp(average, self.momentum)


def orthogonal(matrices: Tensor) -> Tensor:
    """(B, R, C) matrices -> about the nearest ones with singular values of 1, by Newton-Schulz iterations.

    Jordan et al., 2024. The values end between 0.7 and 1.2, which trains as well as 1. A matrix of zeros stays so.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)  # no singular value above 1
    a, b, c = NEWTON_SCHULZ
    for _ in range(STEPS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
