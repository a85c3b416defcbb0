"""Measurements for `choose_recipe`: speed of this machine, and quality of the starting weights."""

import copy
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from appearance.data import batches
from appearance.data.augment import normalize
from appearance.measure.embed import features_of
from appearance.networks.precision import fastest_precision
from appearance.training import schedule, starting
from appearance.training.optimizer import build_optimizer
from appearance.training.recipe import Recipe

TIMED = 3  # timed steps, after one for warm-up
DECODED = 16  # images to time decoding with
FORWARD = 1 / 3  # time of inference on an image, relative to training
TESTS = 5  # approximate number of tests on query and gallery in a run


class Measurements:
    """Lazy measurements, each made once and on all processes together; the global random state is unchanged.

    Args:
        net: the network with its starting weights.
        feeds: the training and validation images.
        objective: (network, recipe) -> the network with its losses.
        train_step: `train.train_step`.
        tested: number of images in query and gallery.
    """

    def __init__(
        self,
        net: nn.Module,
        feeds: batches.Feeds,
        objective: Callable[[nn.Module, Recipe], nn.Module],
        train_step: Callable,
        tested: int,
    ):
        self.net, self.feeds, self.world, self.tested = net, feeds, feeds.world, tested
        self._objective, self._train_step = objective, train_step
        self._step_seconds: dict[tuple, float] = {}
        self._decode_seconds: float | None = None
        self._spent = 0.0

    def precision(self, height: int, width: int) -> str:
        """The fastest `--amp` for this network on this device: "fp32" or "bf16"."""
        return self.world.broadcast(fastest_precision(self.net, height, width, self.world.device))

    def equal_error_rate(self, height: int, width: int) -> float | None:
        """Equal error rate of the starting weights on the training identities; None if these have one image each."""
        some = starting.some_of_each(self.feeds.train)
        dataset = self.feeds.images(some, height, width)
        rows = features_of(self.net, dataset, self.world, workers=self.feeds.workers, desc="starting weights")
        return self.world.broadcast(None if rows is None else starting.equal_error_rate(rows, some))

    def seconds(self, recipe: Recipe) -> float:
        """Estimated seconds of a run: decoding, steps, validation, tests, and the measurements so far."""
        steps, share = len(batches.order(recipe, self.feeds.labels, 0)), FORWARD / recipe.batch_size
        training, validation = len(self.feeds.train), len(self.feeds.val)
        sizes = [schedule.image_size(recipe, epoch) for epoch in range(recipe.epochs)]
        total = sum(self._step(recipe, size) * (steps + validation * share) for size in sizes)
        total += min(TESTS, recipe.epochs) * self.tested * share * self._step(recipe, sizes[-1])
        return total + self._decode() * (training + validation + self.tested) + self._spent

    def _step(self, recipe: Recipe, size: tuple[int, int]) -> float:
        """Seconds per step at (height, width): median of TIMED steps."""
        key = (size, recipe.batch_size)
        if key not in self._step_seconds:
            began = time.perf_counter()
            devices = [self.world.device] if self.world.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                step = self._trial(recipe, size)
                seconds = [self._timed(step) for _ in range(1 + TIMED)][1:]
            self._step_seconds[key] = self.world.broadcast(statistics.median(seconds))
            self._spent = self.world.broadcast(self._spent + time.perf_counter() - began)
        return self._step_seconds[key]

    def _trial(self, recipe: Recipe, size: tuple[int, int]) -> Callable[[], object]:
        """A function that runs one training step on a copy of the network, with random images of (height, width)."""
        device, count = self.world.device, recipe.batch_size // self.world.size
        objective = self._objective(copy.deepcopy(self.net), recipe).to(device, memory_format=torch.channels_last)
        tools = build_optimizer(objective, recipe, 1)
        model = self.world.wrapped(objective).train()
        images = normalize(torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, device=device))
        labels = torch.arange(count, device=device) // recipe.images_per_identity % len(self.feeds.labels.unique())
        return lambda: self._train_step(model, images, labels, *tools, recipe)

    def _timed(self, step: Callable[[], object]) -> float:
        began = time.perf_counter()
        step()
        if self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)
        return time.perf_counter() - began

    def _decode(self) -> float:
        """Seconds per image for decoding and resizing, with all workers."""
        if self._decode_seconds is None:
            some = self.feeds.train[:: math.ceil(len(self.feeds.train) / DECODED)]
            dataset = self.feeds.images(some, 128, 64)
            seconds = self._timed(lambda: [dataset[number] for number in range(len(dataset))])
            self._decode_seconds = self.world.broadcast(seconds / len(dataset) / max(1, self.feeds.workers))
        return self._decode_seconds
