"""The optimizers (Muon, AdamW or SGD), with learning rate scheduler and fp16 gradient scaler."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import LambdaLR

from appearance.networks.precision import full_precision
from appearance.training import schedule

# Jordan's coefficients of the quintic: five steps map singular values from 0.002 to 1 into 0.7 to 1.2
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
STEPS = 5


def build_optimizer(model: nn.Module, recipe, steps_per_epoch: int):
    """(optimizer of all trainable parameters, learning rate scheduler with one rate per step, fp16 gradient scaler).

    The optimizer is Muon for kernels and AdamW for the rest, AdamW, or SGD with momentum 0.9. Parameters with one
    dimension (biases, normalisation) have no weight decay.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    by_muon = [p for p in trained if recipe.optimizer == "muon" and learns_by_muon(p)]
    others = [p for p in trained if recipe.optimizer != "muon" or not learns_by_muon(p)]
    groups = [
        {"params": by_muon, "weight_decay": recipe.weight_decay, "muon": True},
        {"params": [p for p in others if p.ndim > 1], "weight_decay": recipe.weight_decay, "muon": False},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "muon": False},
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cuda", "cpu") for p in trained)
    if recipe.optimizer == "muon":
        optimizer = Muon(groups, recipe.lr, fused=fused)
    elif recipe.optimizer == "adamw":
        optimizer = AdamW(groups, lr=recipe.lr, fused=fused)
    else:  # the fused kernel reads uninitialised momentum if the first step of fp16 overflows
        optimizer = SGD(groups, lr=recipe.lr, momentum=0.9, fused=fused and recipe.amp != "fp16")
    factors = schedule.lr_factors(recipe, steps_per_epoch)
    scheduler = LambdaLR(optimizer, lambda step: factors[min(step, len(factors) - 1)])  # called once after the last
    return optimizer, scheduler, torch.amp.GradScaler(trained[0].device.type, enabled=recipe.amp == "fp16")


def learns_by_muon(parameter: nn.Parameter) -> bool:
    """Whether Muon trains a parameter: only kernels with more than 3 input channels (not the first, not depth-wise)."""
    return parameter.ndim == 4 and parameter.shape[1] > 3


class Muon(AdamW):
    """Muon for groups with `muon=True` (convolution kernels), AdamW for the others.

    The momentum of a kernel, as a matrix (outputs, inputs x height x width), is replaced by the nearest matrix with
    all singular values 1 (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024), and scaled
    to the average size of AdamW's steps, so that both kinds of groups share learning rate and weight decay (Liu et al.,
    "Muon is Scalable for LLM Training", 2025, eq. 4). PyTorch's Muon supports matrices only.

    Args:
        groups: as for AdamW, each with a key `muon`.
        lr: the highest learning rate.
        momentum: Nesterov momentum of Muon.
        block: number of output channels to orthogonalise together; the cost is proportional to it.
        fused: as for AdamW.
    """

    def __init__(
        self,
        groups: Iterable[dict],
        lr: float,
        momentum: float = 0.95,
        block: int = 128,
        fused: bool = False,
    ):
        super().__init__(groups, lr=lr, fused=fused)
        self.momentum, self.block = momentum, block
        self._step_supports_amp_scaling = False  # Muon does not unscale gradients, so the GradScaler must

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
        kernels = [kernel for kernel in group["params"] if kernel.grad is not None]
        if not kernels:
            return
        gradients = [kernel.grad for kernel in kernels]
        averages = [self._average(kernel) for kernel in kernels]
        torch._foreach_lerp_(averages, gradients, 1 - self.momentum)
        directions = torch._foreach_lerp(gradients, averages, self.momentum)
        alike = defaultdict(list)  # shape of a block -> indices of the kernels with such blocks
        for number, kernel in enumerate(kernels):
            rows = self.block if len(kernel) % self.block == 0 else len(kernel)
            alike[rows, kernel[0].numel()].append(number)
        batches = [
            torch.cat([_rows(directions[number]).reshape(-1, *shape) for number in numbers])  # (B, rows, columns)
            for shape, numbers in alike.items()
        ]
        with full_precision():
            batches = orthogonal(batches)
        order = [number for numbers in alike.values() for number in numbers]
        parts = []
        for (rows, _), numbers, batch in zip(alike.keys(), alike.values(), batches, strict=True):
            parts += batch.split([len(kernels[number]) // rows for number in numbers])
        views = [_rows(kernels[number]) for number in order]
        parts = [part.reshape(view.shape) for part, view in zip(parts, views, strict=True)]
        torch._foreach_mul_(parts, [0.2 * max(len(view), view[0].numel()) ** 0.5 for view in views])
        rate = group["lr"]
        torch._foreach_mul_(views, 1 - rate * group["weight_decay"])
        torch._foreach_add_(views, parts, alpha=-rate)

    def _average(self, kernel: nn.Parameter) -> Tensor:
        state = self.state[kernel]
        if not state:  # AdamW's names, because load_state_dict expects "step"
            state["step"], state["exp_avg"] = torch.zeros(()), torch.zeros_like(kernel)
        return state["exp_avg"]


def _rows(kernel: Tensor) -> Tensor:
    """(O, I, H, W) -> a view (O, H, W, I), the memory order of channels-last kernels.

    The order of the matrix's columns does not affect the result.
    """
    return kernel.detach().permute(0, 2, 3, 1)


def orthogonal(batches: Sequence[Tensor]) -> list[Tensor]:
    """Batches of (B, R, C) matrices -> approximately the nearest with singular values 1, by Newton-Schulz iterations.

    Jordan et al., 2024. Singular values become 0.7 to 1.2, which trains as well as 1. Zero matrices stay zero.

    A step multiplies X from the left by P = a + b G + c G G, where G = X X', and so G becomes P G P. The iterations are
    therefore done on the small symmetric G, for all matrices of the same height together, and X is multiplied once, by
    the product of all P. This needs float32, or G would not stay positive.
    """
    flat = [batch.mT if batch.shape[1] > batch.shape[2] else batch for batch in batches]
    alike = defaultdict(list)  # height -> indices of the batches of that height
    for number, batch in enumerate(flat):
        alike[batch.shape[1]].append(number)
    out: list[Tensor] = [None] * len(flat)
    for numbers in alike.values():
        gram = torch.cat([flat[number] @ flat[number].mT for number in numbers])  # (all B, R, R)
        # lengths as Frobenius norms: no singular value above 1
        scale = 1 / (gram.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)[:, None].sqrt() + 1e-7)
        product = _newton_schulz(gram * scale.square()) * scale
        for number, part in zip(numbers, product.split([len(flat[number]) for number in numbers]), strict=True):
            out[number] = part @ flat[number]
    return [found.mT if batch.shape[1] > batch.shape[2] else found for found, batch in zip(out, batches, strict=True)]


def _newton_schulz(gram: Tensor) -> Tensor:
    """(B, R, R) X X' -> (B, R, R) product of all factors P of the iterations."""
    a, b, c = NEWTON_SCHULZ
    product = None
    for step in range(STEPS):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=1, dim2=2).add_(a)
        product = factor if product is None else factor @ product
        if step + 1 < STEPS:
            gram = factor @ gram @ factor
    return product
