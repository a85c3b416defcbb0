"""Sums over an epoch and all processes: loss, correct images, images."""

import torch
from torch import Tensor

from appearance.distributed import World


class Totals:
    """Accumulates on the device, without host syncs; `reduce` all-reduces and copies to the host.

    Args:
        world: this process.
        sums: (3,) float64 to continue from, of a resumed epoch.
    """

    def __init__(self, world: World, sums: Tensor | None = None):
        self.world = world
        self.sums = torch.zeros(3, dtype=torch.float64) if sums is None else sums  # loss, correct, images
        self._added = torch.zeros(3, dtype=torch.float64, device=world.device)  # since the last `reduce`
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=world.device)

    @property
    def images(self) -> float:
        return float(self.sums[2])

    def add(self, step: int, loss: Tensor, correct: Tensor, images: int) -> None:
        """Add a batch of `images` images: mean loss and number of correct images, both scalars on the device."""
        self._added += torch.stack([loss * images, correct, torch.full_like(correct, images)])
        self._bad_step = torch.where((self._bad_step < 0) & ~loss.isfinite(), step, self._bad_step)

    def reduce(self, stop: bool = False) -> tuple[bool, int | None]:
        """All-reduce the additions since the last call into `sums`.

        Args:
            stop: whether this process got a stop signal.

        Returns:
            whether any process got a stop signal, and the first step with a NaN or infinite loss, or None.
        """
        *added, stops = self.world.total(torch.cat([self._added, self._added.new_tensor([stop])])).cpu()
        added = torch.stack(added)
        bad_step = None if added[0].isfinite() else self.world.lowest(self._bad_step)
        self._added.zero_()
        self.sums = self.sums + added
        return bool(stops), bad_step

    def means(self, prefix: str) -> dict[str, float]:
        """Mean loss and accuracy, as the columns `<prefix>_loss` and `<prefix>_acc` of the history."""
        loss, correct, images = self.sums.tolist()
        return {f"{prefix}_loss": loss / images, f"{prefix}_acc": correct / images}
