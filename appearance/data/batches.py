"""Which images make a batch, and how its pixels get to the device.

An epoch's order is a pure function of seed and epoch, the same on every process; a process then takes its own columns.
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
    """A seed for (seed, epoch, step, ...), so that no random state has to be saved. Zeros at the end do not count."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def generator_for(seed: int, epoch: int, step: int = 0) -> torch.Generator:
    """A generator that starts from `seed_for`."""
    return torch.Generator().manual_seed(seed_for(seed, epoch, step))


def order(recipe, labels: Tensor, epoch: int) -> Tensor:
    """(steps, B) int64: which training images, with labels (N,), each step of an epoch takes, by `recipe.sampler`."""
    if recipe.sampler == "balanced":
        return balanced_order(labels, recipe.batch_size, recipe.images_per_identity, recipe.seed, epoch)
    return shuffled_order(len(labels), recipe.batch_size, recipe.seed, epoch)


def shuffled_order(count: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """(steps, B) int64: every image at most once an epoch; a last batch that is not full is left out."""
    order = torch.randperm(count, generator=generator_for(seed, epoch))
    steps = max(1, count // batch_size)
    batch_size = min(batch_size, count)
    return order[: steps * batch_size].view(steps, batch_size)


MOST_LEFT_OUT = 0.05  # share of the images that an epoch may leave for another one, so that its batches are full


def balanced_order(labels: Tensor, batch_size: int, per_identity: int, seed: int, epoch: int) -> Tensor:
    """(steps, P * K) int64: batches of P groups, each of K images of one identity (Hermans et al., 2017, section 2).

    Each identity's shuffled images are dealt into groups of K, the last one filled up by repeating images, and its
    groups are spread evenly over the batches. So every image is used, although some identities have many more images
    than others. P and the number of steps depend on these numbers alone and are the same in all epochs.

    Args:
        labels: (N,) int64 identities.
        batch_size: maximum number of images in a batch.
        per_identity: K; raised where there are too few identities to fill a batch with groups of K.
        seed, epoch: of the shuffling.
    """
    generator = generator_for(seed, epoch)
    images = labels.unique(return_counts=True)[1]  # (I,) of each identity
    shuffled = torch.randperm(len(labels), generator=generator)
    by_identity = shuffled[labels[shuffled].argsort(stable=True)]  # (N,) each identity's images side by side

    size = _group_size(images, batch_size, per_identity)
    groups, steps = _shares(images, size, max(2, batch_size // size), generator)  # (I,) of each identity
    owner = torch.arange(len(images)).repeat_interleave(groups)  # (G,) identities
    number = torch.arange(len(owner)) - (groups.cumsum(0) - groups)[owner]  # (G,) among the groups of its owner
    nth = (number[:, None] * size + torch.arange(size)) % images[owner, None]  # (G, K) among the images of its owner
    dealt = by_identity[(images.cumsum(0) - images)[owner, None] + nth]  # (G, K) images
    return dealt[_spread(groups, steps, generator)].flatten(1)


def _group_size(images: Tensor, batch_size: int, per_identity: int) -> int:
    """The K of `balanced_order`: `per_identity`, or more where the batch has room for more of each identity.

    10 identities with 40 images each and batches of 64: room for 6 each, so K = 6.
    """
    fewest = int(images.min())
    part = min(batch_size // len(images), fewest)
    return max(per_identity, math.ceil(fewest / math.ceil(fewest / part)) if part else 0)


def _shares(images: Tensor, size: int, most: int, generator: torch.Generator) -> tuple[Tensor, int]:
    """How many groups of `size` images each identity gives to an epoch, (I,) int64, and the number of steps.

    Enough to show all its images, except a few that the largest identities leave out, or that are repeated, so that
    all steps have equally many groups, at most `most`, of two or more identities.
    """
    groups = -(-images // size)

    def give_more(givers: Tensor, count: int) -> None:
        """One group each time, of the identity that then repeats its images least."""
        for _ in range(count):
            repetition = (groups + 1) * size / images + 1e-3 * torch.rand(len(images), generator=generator)
            groups[repetition.masked_fill(~givers, math.inf).argmin()] += 1

    others = torch.arange(len(groups)) != groups.argmax()
    if others.any():  # a batch full of the largest identity needs a group of another one
        give_more(others, math.ceil(int(groups.max()) / (most - 1)) - int(groups[others].sum()))
    total = int(groups.sum())
    steps, width = _grid(total, most, spare=int(MOST_LEFT_OUT * images.sum()) // size)
    for _ in range(total - steps * width):
        groups[(groups + torch.rand(len(groups), generator=generator)).argmax()] -= 1
    give_more(torch.ones_like(others), steps * width - total)
    return groups, steps


def _grid(total: int, most: int, spare: int) -> tuple[int, int]:
    """Steps, and groups in each, for `total` groups: full batches or else smaller ones that leave out `spare` at most.

    Where neither does, in small sets, some groups have to be repeated.
    """
    steps = math.ceil(total / most)
    for some, width in ((total // most, most), (steps, total // steps)):
        if some and width > 1 and total - some * width <= spare:
            return some, width
    return steps, math.ceil(total / steps)


def _spread(groups: Tensor, steps: int, generator: torch.Generator) -> Tensor:
    """(I,) numbers of groups -> (steps, P) int64, each group once; they are numbered identity by identity.

    A step takes floor(groups left / steps left) of each identity, and draws the rest of its groups at random, with the
    remainders as weights.
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
    """Delivers the batches of an order as (uint8 pixels, labels) on the device.

    `size` is the height and width of its images.

    Args:
        images: `datasets.PersonImages` at the size of this stage, with their labels.
        pixels: (N, 3, H, W) uint8, or None to decode anew each epoch.
        world: this process; of each batch it takes its own part.
        workers: decoding processes, when `pixels` is None.
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
                generator=torch.Generator(),  # else each epoch would take a seed from the global generator
            )

    def _placed(self, pixels: Tensor) -> Tensor:
        """On a GPU with room for it the whole set lies there, so that no batch is copied to it."""
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
    """Training and validation images, at the size that an epoch asks for.

    Args:
        dataset: `datasets.PersonImages`.
        train, val: samples.
        pids: identities in label order.
        cache: where decoded images are kept, see `pixels.load`.
        workers: that decode.
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
        """Any samples as a dataset; images that were decoded at another size are not decoded again."""
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
    """A batch sampler over a list that is replaced each epoch, so that one loader's workers live on."""

    def __init__(self, rows: list[list[int]]):
        self.rows = rows

    def __iter__(self):
        return iter(list(self.rows))

    def __len__(self) -> int:
        return len(self.rows)
