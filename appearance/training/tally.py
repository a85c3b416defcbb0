"""The sums of an epoch: loss, correct images and images, over all processes."""

from collections.abc import Callable

import torch
from torch import Tensor

from appearance.faults import GracefulStop
from appearance.world import World


class Tally:
    """Adds up on the device, which need not wait; `read` brings the sums to the host.

    Args:
        world: this process.
        totals: (3,) float64 sums to go on from.
    """

    def __init__(self, world: World, totals: Tensor | None = None):
        self.world = world
        self.totals = torch.zeros(3, dtype=torch.float64) if totals is None else totals  # loss, correct, images
        self._counted = torch.zeros(3, dtype=torch.float64, device=world.device)  # since the last reading
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=world.device)

    @property
    def images(self) -> float:
        return float(self.totals[2])

    def add(self, step: int, loss: Tensor, correct: Tensor, images: int) -> None:
        """One batch: its mean loss and its number of correct images, both scalars on the device."""
        self._counted += torch.stack([loss * images, correct, torch.full_like(correct, images)])
        self._first_bad = torch.where((self._first_bad < 0) & ~loss.isfinite(), step, self._first_bad)

    def read(self, stop: GracefulStop | None = None, complain: Callable[[int], None] | None = None) -> bool:
        """Take up what was counted, on all processes at once, and say whether any of them was asked to stop.

        Args:
            stop: what this process was asked.
            complain: called with the first step whose loss was not finite, if there is one; it raises.
        """
        wish = self._counted.new_tensor([bool(stop and stop.signal is not None)])
        *counted, wishes = self.world.total(torch.cat([self._counted, wish])).cpu()
        counted = torch.stack(counted)
        if complain and not counted[0].isfinite():
            complain(self.world.lowest(self._first_bad))
        self._counted.zero_()
        self.totals = self.totals + counted
        return bool(wishes)

    def means(self, prefix: str) -> dict[str, float]:
        """Mean loss and accuracy, as the columns `<prefix>_loss` and `<prefix>_acc` of the history."""
        loss, correct, images = self.totals.tolist()
        return {f"{prefix}_loss": loss / images, f"{prefix}_acc": correct / images}

    def text(self) -> str:
        loss, correct, images = self.totals.tolist()
        return f"loss {loss / images:.3f}, acc {correct / images:.1%}"
