"""What a training step costs its host: operations, waits for the device, processor time; and the end of an epoch.

    python benchmarks/step_cost.py [--model net] [--batch_size 16] [--json FILE]

A GPU runs what the host has sent it, so a step is as fast as Python sends operations, and a host that waits for the
device sends none. Operations are counted as PyTorch dispatches them, without views. Waits are counted on tensors of the
"meta" device, which have shapes and no numbers, as if they lay on a GPU: reading a number, shapes that depend on
numbers, copies from memory that is not pinned. So no GPU is needed; the times are this processor's.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import torch
from machine import machine, publish
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import train
from appearance import cli
from appearance.data.augment import Augment
from appearance.data.batches import Feed, generator_for
from appearance.distributed import World
from appearance.drawn import sample
from appearance.training.optimizer import build_optimizer
from appearance.training.recipe import Facts, choose_recipe
from appearance.training.totals import Totals
from model import build_model

SIZES = ((32, 16), (128, 64))
CLASSES = 751
EPOCHS = 3  # of the run in which the end of an epoch is timed
# operations whose result depends on numbers on the device: its shape, or what Python does next
ASK = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "bincount", "equal", "is_nonzero"}


class Watch(TorchDispatchMode):
    """Counts the operations that pass, and names those for which the host of a GPU would wait.

    Args:
        device: where tensors lie that stand for a GPU's; the CPU's are the host's.
        pinned: addresses of pinned memory; see `pretended_pinning`.
    """

    def __init__(self, device: str = "meta", pinned: set[int] | None = None):
        super().__init__()
        self.device, self.pinned = device, pinned or set()
        self.operations: Counter[str] = Counter()
        self.waits: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = function._schema.name.removeprefix("aten::")
        if not function.is_view:
            self.operations[name] += 1
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        there = [tensor for tensor in inputs + outputs if tensor.device.type == self.device]
        if there and self._waits(name, kwargs, inputs, outputs):
            self.waits.append(name)
        return result

    def _waits(self, name: str, kwargs: dict, inputs: list, outputs: list) -> bool:
        host = [tensor for tensor in inputs if tensor.device.type == "cpu"]
        if name in ("_to_copy", "copy_"):
            across = len({tensor.device.type for tensor in inputs + outputs}) > 1
            to_device = outputs[0].device.type == self.device
            pinned = all(tensor.data_ptr() in self.pinned for tensor in host)
            return across and not (to_device and pinned and kwargs.get("non_blocking"))
        if name in ("index", "index_put_", "where", "masked_scatter"):  # these copy what the host has first
            return bool(host) or (name.startswith("index") and any(t.dtype == torch.bool for t in inputs[1:]))
        if name == "repeat_interleave":
            return kwargs.get("output_size") is None
        return name in ASK or any(tensor.ndim for tensor in host)


@contextlib.contextmanager
def pretended_pinning(watch: Watch):
    """Where there is no GPU, memory cannot be pinned: note which would be."""
    kept = []

    def pin(tensor):
        kept.append(tensor)  # so that its address is not given to another
        watch.pinned.add(tensor.data_ptr())
        return tensor

    with mock.patch.object(torch.Tensor, "pin_memory", pin):
        yield


class Steps:
    """Training steps of made-up images, as `train.train_one_epoch` takes them."""

    def __init__(self, flags: list[str], height: int, width: int, device: str = "cpu", classes: int = CLASSES):
        flags = [*flags, "--amp", "fp32", "--height", str(height), "--width", str(width), "--epochs", "1"]
        args = train.get_args_parser().parse_args(flags)
        name = args.model or "net"
        self.recipe, _ = choose_recipe(args, Facts(name, images=1, identities=classes), measure=None)
        world, batch = World(torch.device(device)), self.recipe.batch_size
        model = train.ReIDLoss(build_model(name, classes), classes, self.recipe)
        model = model.to(world.device, memory_format=torch.channels_last).train()
        self.tools = build_optimizer(model, self.recipe, steps_per_epoch=2)
        self.model = world.wrapped(model, compile=args.compile)
        self.augment = Augment(self.recipe.flip, self.recipe.pad, self.recipe.jitter, self.recipe.erase)
        self.totals = Totals(world)
        images = mock.Mock(targets=[number % classes for number in range(2 * batch)], height=height, width=width)
        pixels = torch.randint(0, 256, (len(images.targets), 3, height, width), dtype=torch.uint8)
        self.feed = Feed(images, pixels, world)
        self.order = torch.arange(len(images.targets)).view(2, -1)

    def run(self) -> None:
        """Two steps."""
        for step, (images, labels) in enumerate(self.feed(self.order)):
            numbers = self.augment.draw(len(labels), *images.shape[-2:], generator_for(0, 0, step))
            images = self.augment.apply(images, numbers)
            results = train.train_step(self.model, images, labels, *self.tools, self.recipe)
            self.totals.add(step, *results, len(labels))


def _without(*_, **__):
    """In place of `torch.autocast`, which does not know of tensors without numbers."""
    return contextlib.nullcontext()


def watched(flags: list[str], height: int, width: int, device: str, classes: int = CLASSES) -> Watch:
    """What two steps do, after two that make the optimizer's state."""
    watch = Watch(device)
    unsupported = mock.patch.object(torch, "autocast", new=_without)
    with pretended_pinning(watch), unsupported if device == "meta" else contextlib.nullcontext():
        steps = Steps(flags, height, width, device, classes)
        steps.run()
        with watch:
            steps.run()
    return watch


def step_cost(flags: list[str], height: int, width: int) -> dict:
    """Of one step at one size."""
    few = [*flags, "--batch_size", "8"]  # how many images there are makes no difference
    counted = watched(few, height, width, "cpu")
    waits = Counter(watched(few, height, width, "meta").waits)
    steps = Steps(flags, height, width)
    steps.run()
    parts = {"draw": 0.0, "optimizer": 0.0, "whole step": 0.0}

    def timed(name, function):
        def call(*args, **kwargs):
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                parts[name] += time.process_time() - started

        return call

    optimizer = steps.tools[0]
    optimizer.step = timed("optimizer", optimizer.step)
    draw = timed("draw", Augment.draw)
    with mock.patch.object(Augment, "draw", lambda *args: draw(*args)):
        timed("whole step", steps.run)()
    return {
        "operations": counted.operations.total() // 2,
        "waits": {name: count / 2 for name, count in waits.items()},
        "processor_ms": {name: round(1000 * seconds / 2, 2) for name, seconds in parts.items()},
        "most": dict(counted.operations.most_common(12)),
    }


def between_epochs(args) -> list[dict]:
    """From the last step of an epoch to the first of the next, of a short run: seconds and processor seconds."""
    clocks, step = [], train.train_step

    def watched_step(*args):
        begun = time.perf_counter(), time.process_time()
        try:
            return step(*args)
        finally:
            clocks.append((len(args[2]), *begun, time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(train, "train_step", watched_step):
        data = args.data_dir or sample.ensure(Path(folder) / "sample", identities=30)
        flags = ["--data-dir", data, "--output", Path(folder) / "run", "--epochs", EPOCHS, "--eval-interval", EPOCHS]
        flags += [
            "--no-progressive",
            "--height",
            32,
            "--width",
            16,
            "--model",
            args.model,
            "--device",
            "cpu",
            "--amp",
            "fp32",
        ]
        train.main(train.get_args_parser().parse_args([str(flag) for flag in flags]))
    per_epoch = len(clocks) // EPOCHS
    gaps = []
    for first in range(per_epoch, len(clocks), per_epoch):
        before, after = clocks[first - 1], clocks[first]
        gaps.append({"seconds": round(after[1] - before[3], 2), "processor": round(after[2] - before[4], 2)})
    return gaps


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="net", help="architecture to train")
    add("--batch_size", type=int, default=16, help="images of a timed step")
    add("--data-dir", type=Path, help="dataset for the end of an epoch; drawn if left out")
    add("--json", type=Path, help="also write the result to this file")
    return parser


def main(args) -> None:
    flags = ["--model", args.model, "--batch_size", str(args.batch_size)]
    result = {"benchmark": "step_cost", "model": args.model, "batch_size": args.batch_size}
    result |= {f"step_{height}x{width}": step_cost(flags, height, width) for height, width in SIZES}
    publish(result | {"between_epochs": between_epochs(args)} | machine(), args.json)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
