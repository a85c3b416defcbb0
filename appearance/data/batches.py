"""Batch sampling, and batches on the device.

An epoch's order is a pure function of seed and epoch, the same on every rank; each rank takes its own columns of it.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from appearance.cli import InputError
from appearance.data import pixels as stored
from appearance.data.images import Decoded
from appearance.device import to_device
from appearance.distributed import World


def seed_for(*numbers: int) -> int:
    """A seed derived from (seed, epoch, step, ...), so that no random state is saved. Trailing zeros are ignored."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def generator_for(seed: int, epoch: int, step: int = 0) -> torch.Generator:
    """A CPU generator seeded with `seed_for(seed, epoch, step)`."""
    return torch.Generator().manual_seed(seed_for(seed, epoch, step))


def order(recipe, labels: Tensor, epoch: int) -> Tensor:
    """(steps, B) int64 rows of the training images for each step of an epoch, by `recipe.sampler`. `labels`: (N,)."""
    if recipe.sampler == "balanced":
        return balanced_order(labels, recipe.batch_size, recipe.images_per_identity, recipe.seed, epoch)
    return shuffled_order(len(labels), recipe.batch_size, recipe.seed, epoch)


def shuffled_order(count: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """(steps, B) int64: a random permutation in batches, without an incomplete last one."""
    order = torch.randperm(count, generator=generator_for(seed, epoch))
    steps = max(1, count // batch_size)
    batch_size = min(batch_size, count)
    return order[: steps * batch_size].view(steps, batch_size)


MOST_LEFT_OUT = 0.05  # fraction of the images that an epoch may leave out to have full batches


def balanced_order(labels: Tensor, batch_size: int, per_identity: int, seed: int, epoch: int) -> Tensor:
    """(steps, P * K) int64: batches of P groups, each of K images of one identity (Hermans et al., 2017, section 2).

    Each identity's shuffled images are cut into groups of K (the last one filled by repeating images), and its groups
    are spread evenly over the batches. So all images are used, even if some identities have many more than others.
    P and the number of steps depend only on the image counts and are the same in all epochs.

    Args:
        labels: (N,) int64 identities.
        batch_size: largest number of images in a batch.
        per_identity: K; raised if there are too few identities to fill a batch with groups of K.
        seed, epoch: seed the shuffling.
    """
    generator = generator_for(seed, epoch)
    images = labels.unique(return_counts=True)[1]  # (I,) images of each identity
    shuffled = torch.randperm(len(labels), generator=generator)
    by_identity = shuffled[labels[shuffled].argsort(stable=True)]  # (N,) images sorted by identity

    size = _group_size(images, batch_size, per_identity)
    groups, steps = _shares(images, size, max(2, batch_size // size), generator)  # (I,) groups of each identity
    owner = torch.arange(len(images)).repeat_interleave(groups)  # (G,) identity of each group
    number = torch.arange(len(owner)) - (groups.cumsum(0) - groups)[owner]  # (G,) index among its identity's groups
    nth = (number[:, None] * size + torch.arange(size)) % images[
        owner, None
    ]  # (G, K) index among its identity's images
    dealt = by_identity[(images.cumsum(0) - images)[owner, None] + nth]  # (G, K) images
    return dealt[_spread(groups, steps, generator)].flatten(1)


def _group_size(images: Tensor, batch_size: int, per_identity: int) -> int:
    """The K of `balanced_order`: `per_identity`, or more if the batch has room for more images of every identity.

    Example: 10 identities with 40 images each and batches of 64 have room for 6 of each, so K = 6.
    """
    fewest = int(images.min())
    part = min(batch_size // len(images), fewest)
    return max(per_identity, math.ceil(fewest / math.ceil(fewest / part)) if part else 0)


def _shares(images: Tensor, size: int, most: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """(I,) int64 groups of `size` images per identity and epoch, and the number of steps.

    Enough groups for all images, give or take a few, so that every step has the same number of groups, at most `most`,
    from at least two identities. The largest identities leave images out; those with the least repetition repeat some.

    Args:
        images: (I,) number of images of each identity.
    """
    groups = -(-images // size)

    def give_more(givers: Tensor, count: int) -> None:
        """Add `count` groups, each to the identity that then repeats its images least."""
        for _ in range(count):
            repetition = (groups + 1) * size / images + 1e-3 * torch.rand(len(images), generator=generator)
            groups[repetition.masked_fill(~givers, math.inf).argmin()] += 1

    others = torch.arange(len(groups)) != groups.argmax()
    if others.any():  # every batch needs a group of another identity than the largest
        give_more(others, math.ceil(int(groups.max()) / (most - 1)) - int(groups[others].sum()))
    total = int(groups.sum())
    steps, width = _grid(total, most, spare=int(MOST_LEFT_OUT * images.sum()) // size)
    for _ in range(total - steps * width):
        groups[(groups + torch.rand(len(groups), generator=generator)).argmax()] -= 1
    give_more(torch.ones_like(others), steps * width - total)
    return groups, steps


def _grid(total: int, most: int, spare: int) -> tuple[int, int]:
    """(steps, groups per step) for `total` groups: full batches or smaller ones, leaving out at most `spare`.

    If neither is possible (small datasets), some groups are repeated.
    """
    steps = math.ceil(total / most)
    for some, width in ((total // most, most), (steps, total // steps)):
        if some and width > 1 and total - some * width <= spare:
            return some, width
    return steps, math.ceil(total / steps)


def _spread(groups: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """(I,) number of groups per identity -> (steps, P) int64 group numbers (sorted by identity), each group once.

    Each step takes floor(groups left / steps left) groups of each identity, and fills up at random with the remainders
    as weights.
    """
    left, width = groups.clone(), int(groups.sum()) // steps
    rows = []
    for to_come in range(steps, 0, -1):
        take, remainder = left // to_come, left % to_come
        drawn = width - int(take.sum())
        if drawn:
            take[torch.multinomial(remainder.float(), drawn, generator=generator)] += 1
        left -= take
        rows.append(torch.arange(len(groups)).repeat_interleave(take)[torch.randperm(width, generator=generator)])
    owner = torch.stack(rows)  # (steps, P)
    numbered = torch.empty(owner.numel(), dtype=torch.int64)
    numbered[owner.flatten().argsort(stable=True)] = torch.arange(owner.numel())
    return numbered.view_as(owner)


class Feed:
    """Iterate over the batches of an order as (pixels, labels) on the device: (B, 3, H, W) uint8, (B,) int64.

    `size` is the (height, width) of the images in pixels.

    Args:
        images: `datasets.PersonImages` at this size.
        pixels: (N, 3, H, W) uint8, or None to decode every epoch.
        world: this rank, which takes its own part of each batch.
        workers: decoding processes, if `pixels` is None.
    """

    def __init__(self, images, pixels: Tensor | None, world: World, workers: int = 0):
        self.images, self.world, self.size = images, world, (images.height, images.width)
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
                generator=torch.Generator(),  # else each epoch would advance the global generator
            )

    def _placed(self, pixels: Tensor) -> Tensor:
        """Keep all pixels on the GPU if they need under 40 % of its free memory: no copy per batch."""
        if self.world.device.type == "cuda" and pixels.nbytes < 0.4 * torch.cuda.mem_get_info(self.world.device)[0]:
            return pixels.to(self.world.device)
        return pixels

    def mine(self, order: Tensor) -> Tensor:
        """This rank's part of each batch: (steps, B) -> (steps, B // size)."""
        return order[:, self.columns(order.shape[1])]

    def columns(self, batch_size: int) -> slice:
        """This rank's columns of a batch; a remainder that ranks cannot share equally is left out."""
        share = batch_size // self.world.size
        return slice(self.world.rank * share, (self.world.rank + 1) * share)

    def __call__(self, order: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        order, device = self.mine(order), self.world.device
        if self._loader is not None:
            self._order[:] = order.tolist()
            try:
                for pixels, labels in self._loader:
                    yield pixels.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            except InputError as error:  # a worker's error contains its traceback
                raise InputError(str(error).rsplit("InputError: ", 1)[-1].strip()) from None
            return
        labels = to_device(self.labels, device)
        order_there = to_device(order, self.pixels.device)
        for row, row_there in zip(to_device(order, device), order_there, strict=True):
            yield to_device(self.pixels[row_there], device), labels[row]

    def rows(self, rows: range) -> tuple[Tensor, Tensor]:
        """Images and labels of `rows`, on the device, regardless of rank: (B, 3, H, W) uint8, (B,) int64."""
        device = self.world.device
        if self.pixels is None:
            found = torch.stack([self.images[row][0] for row in rows])
        else:
            found = self.pixels[rows.start : rows.stop]
        return found.to(device), self.labels[rows.start : rows.stop].to(device)


class Feeds:
    """Feeds of the training and validation images at any input size.

    Args:
        dataset: the class `datasets.PersonImages`.
        train, val: samples.
        pids: identities in label order.
        cache: see `pixels.load`.
        workers: decoding threads, or processes with cache "none".
    """

    def __init__(self, dataset, train: list, val: list, pids: list[int], cache: str, workers: int, world: World):
        self._dataset, self._pids, self._cache = dataset, pids, cache
        self.train, self.val, self.workers, self.world = train, val, workers, world
        label = {pid: number for number, pid in enumerate(pids)}
        self.labels = torch.tensor([label[sample.pid] for sample in train])  # (N,) int64, of the training images
        self._decoded = Decoded(stored.memory_for_images(cache, world))
        self._at: tuple[int, int] | None = None
        self._feeds: list[Feed] = []

    def images(self, samples: list, height: int, width: int):
        """Any samples as a dataset; shares the cache of decoded images with all input sizes."""
        return self._dataset(samples, height, width, self._pids, self._decoded)

    def at(self, size: tuple[int, int]) -> list[Feed]:
        """The feeds of training and validation images of (height, width) pixels.

        Raises:
            InputError: some images cannot be read; names them.
        """
        if self._at != size:
            self._feeds = [self._feed(self.images(samples, *size)) for samples in (self.train, self.val)]
            self._at = size
        return self._feeds

    def _feed(self, images) -> Feed:
        return Feed(images, stored.load_shared(images, self._cache, self.workers, self.world), self.world, self.workers)


class _Current:
    """A batch sampler over a list that changes each epoch, so that the loader's workers persist."""

    def __init__(self, rows: list[list[int]]):
        self.rows = rows

    def __iter__(self):
        return iter(list(self.rows))

    def __len__(self) -> int:
        return len(self.rows)
