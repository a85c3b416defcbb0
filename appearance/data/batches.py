"""Which images make a batch, and how its pixels get to the device.

An epoch's order is a pure function of seed and epoch, the same on every process; a process then takes its own columns.
"""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from appearance.cli import InputError
from appearance.world import World


def seed_for(*numbers: int) -> int:
    """A seed of its own for each (seed, epoch, step, ...): nothing to save, nothing shared."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def generator_for(seed: int, epoch: int, step: int = 0) -> torch.Generator:
    """A generator that starts from `seed_for`."""
    return torch.Generator().manual_seed(seed_for(seed, epoch, step))


def shuffled_order(count: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """(steps, B) int64: every image at most once an epoch; what does not fill a batch waits for another epoch."""
    order = torch.randperm(count, generator=generator_for(seed, epoch))
    steps = max(1, count // batch_size)
    batch_size = min(batch_size, count)
    return order[: steps * batch_size].view(steps, batch_size)


def balanced_order(labels: Tensor, batch_size: int, per_identity: int, seed: int, epoch: int) -> Tensor:
    """(steps, P * K) int64: batches of P identities with K images each (Hermans et al., 2017, section 2).

    Each identity's shuffled images are dealt in groups of K, the last one filled up by repeating; each batch takes
    groups of different identities, those with most groups left first.
    """
    generator = generator_for(seed, epoch)
    by_label = defaultdict(list)
    for index in torch.randperm(len(labels), generator=generator).tolist():
        by_label[int(labels[index])].append(index)
    groups = {}
    for label, indices in sorted(by_label.items()):
        short = -len(indices) % per_identity
        indices = indices + [indices[i % len(indices)] for i in range(short)]
        groups[label] = [indices[i : i + per_identity] for i in range(0, len(indices), per_identity)]

    identities = min(max(2, batch_size // per_identity), len(groups))
    rows = []
    while len(groups) >= identities:
        left = torch.tensor([len(g) for g in groups.values()], dtype=torch.float)
        chosen = torch.multinomial(left, identities, generator=generator).tolist()
        labels_left = list(groups)
        row = []
        for position in chosen:
            label = labels_left[position]
            row += groups[label].pop()
            if not groups[label]:
                del groups[label]
        rows.append(row)
    return torch.tensor(rows)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, through pinned memory where it comes from the host, so that nobody waits for the bus.

    The pinned copy is kept by PyTorch until the device has read it.
    """
    if tensor.device.type == "cpu" and device.type != "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


class Feed:
    """Delivers the batches of an order as (uint8 pixels, labels) on the device.

    Args:
        images: `datasets.PersonImages` at the size of this stage, with their labels.
        pixels: (N, 3, H, W) uint8, or None to decode anew each epoch.
        world: this process; of each batch it takes its own part.
        workers: decoding processes, when `pixels` is None.
    """

    def __init__(self, images, pixels: Tensor | None, world: World, workers: int = 0):
        self.images, self.world = images, world
        self.labels = torch.tensor(images.targets)  # (N,) int64
        self.pixels = self._placed(pixels) if pixels is not None else None
        self._order: list[list[int]] = []
        self._loader = None
        if pixels is None:
            self._loader = DataLoader(
                images,
                batch_sampler=_Current(self._order),
                num_workers=workers,
                pin_memory=world.device.type == "cuda",
                persistent_workers=workers > 0,
                prefetch_factor=4 if workers else None,
                generator=torch.Generator(),  # else each epoch would draw a seed from the network's random numbers
            )

    def _placed(self, pixels: Tensor) -> Tensor:
        """On a GPU with room the whole set lives there, and no batch waits for the bus."""
        if self.world.device.type == "cuda" and pixels.nbytes < 0.4 * torch.cuda.mem_get_info(self.world.device)[0]:
            return pixels.to(self.world.device)
        return pixels

    def mine(self, order: Tensor) -> Tensor:
        """This process's part of each batch: (steps, B) -> (steps, B // size)."""
        return order[:, self.columns(order.shape[1])]

    def columns(self, batch_size: int) -> slice:
        """Where this process's part of a batch lies; a remainder that cannot be shared equally is left out."""
        share = batch_size // self.world.size
        return slice(self.world.rank * share, (self.world.rank + 1) * share)

    def __call__(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        order, device = self.mine(order), self.world.device
        if self._loader is not None:
            self._order[:] = order.tolist()
            try:
                for pixels, labels in self._loader:
                    yield pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            except InputError as error:  # a worker's comes wrapped in its traceback
                raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from None
            return
        labels = self.labels.to(device)
        order_there = order.to(self.pixels.device)
        for row, row_there in zip(order.to(device), order_there, strict=True):
            yield to_device(self.pixels[row_there], device), labels[row]

    def rows(self, rows: range) -> tuple[Tensor, Tensor]:
        """The images of some rows, on the device, whoever's they are: (B, 3, H, W) uint8, (B,) int64."""
        device = self.world.device
        if self.pixels is None:
            found = torch.stack([self.images[row][0] for row in rows])
        else:
            found = self.pixels[rows.start : rows.stop]
        return found.to(device), self.labels[rows.start : rows.stop].to(device)


class _Current:
    """A batch sampler over a list that is replaced each epoch, so that one loader's workers live on."""

    def __init__(self, rows: list[list[int]]):
        self.rows = rows

    def __iter__(self):
        return iter(list(self.rows))

    def __len__(self) -> int:
        return len(self.rows)
