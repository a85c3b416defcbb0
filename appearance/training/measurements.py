"""What `choose_recipe` needs to know of this machine and of the starting weights: measured when it asks."""

import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

from appearance.distributed import World
from appearance.measure.embed import features_of
from appearance.networks.precision import fastest_precision
from appearance.training import schedule, starting
from appearance.training.recipe import Recipe

TIMED = 3  # steps, after one that warms up
DECODED = 16  # images whose decoding is timed
FORWARD = 1 / 3  # of a training step's time per image: what testing an image costs
TESTS = 5  # of query and gallery in a run, about


class Measurements:
    """Each is taken once, on all processes at once; random numbers go on as if nothing had been measured.

    Args:
        net: the network with its starting weights.
        samples: training images.
        images: samples, height, width -> their dataset of (pixels, label).
        trial: recipe, (height, width) -> a function that makes one training step, on a copy of the network.
        steps: recipe -> steps of an epoch.
        validation, tested: images of a validation, and of one test on query and gallery.
    """

    def __init__(
        self,
        net: nn.Module,
        world: World,
        samples: list,
        images: Callable,
        trial: Callable[[Recipe, tuple[int, int]], Callable[[], object]],
        steps: Callable[[Recipe], int],
        validation: int,
        tested: int,
        workers: int,
    ):
        self.net, self.world, self.samples, self.images = net, world, samples, images
        self.trial, self.steps, self.validation, self.tested, self.workers = trial, steps, validation, tested, workers
        self._step_seconds: dict[tuple, float] = {}
        self._decode_seconds: float | None = None
        self._spent = 0.0

    def precision(self, height: int, width: int) -> str:
        """The fastest `--amp` of this network on this device."""
        return self.world.broadcast(fastest_precision(self.net, height, width, self.world.device))

    def equal_error_rate(self, height: int, width: int) -> float | None:
        """How badly the starting weights tell the training identities apart; None where these have one image each."""
        some = starting.some_of_each(self.samples)
        dataset = self.images(some, height, width)
        rows = features_of(self.net, dataset, self.world, workers=self.workers, desc="starting weights")
        return self.world.broadcast(None if rows is None else starting.equal_error_rate(rows, some))

    def seconds(self, recipe: Recipe) -> float:
        """About what a run takes: decoding, steps, validation, tests, and the timing itself so far."""
        steps, share = self.steps(recipe), FORWARD / recipe.batch_size
        sizes = [schedule.image_size(recipe, epoch) for epoch in range(recipe.epochs)]
        total = sum(self._step(recipe, size) * (steps + self.validation * share) for size in sizes)
        total += min(TESTS, recipe.epochs) * self.tested * share * self._step(recipe, sizes[-1])
        return total + self._decode() * (len(self.samples) + self.validation + self.tested) + self._spent

    def _step(self, recipe: Recipe, size: tuple[int, int]) -> float:
        """Seconds of a step: the median of a few."""
        key = (size, recipe.batch_size)
        if key not in self._step_seconds:
            began = time.perf_counter()
            devices = [self.world.device] if self.world.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                step = self.trial(recipe, size)
                seconds = [self._timed(step) for _ in range(1 + TIMED)][1:]
            self._step_seconds[key] = self.world.broadcast(statistics.median(seconds))
            self._spent = self.world.broadcast(self._spent + time.perf_counter() - began)
        return self._step_seconds[key]

    def _timed(self, step: Callable[[], object]) -> float:
        began = time.perf_counter()
        step()
        if self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)
        return time.perf_counter() - began

    def _decode(self) -> float:
        """Seconds to decode and resize an image, with all workers."""
        if self._decode_seconds is None:
            every = math.ceil(len(self.samples) / DECODED)
            dataset = self.images(self.samples[::every], 128, 64)
            seconds = self._timed(lambda: [dataset[number] for number in range(len(dataset))])
            self._decode_seconds = self.world.broadcast(seconds / len(dataset) / max(1, self.workers))
        return self._decode_seconds
