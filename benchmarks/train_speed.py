"""Training speed: `train.py`'s loop against a plain reference loop, in one run.

    python benchmarks/train_speed.py [--model net] [--height 128 --width 64] [--images 512] [--rounds 5]

The reference does what simple scripts do: float32 in the default memory layout, each image decoded and augmented one by
one in a DataLoader every epoch, SGD, loss and accuracy read at every step. Ours is `train_one_epoch` with the
default recipe at one size (no progressive resizing, which would only flatter it). The two take turns; the figures are
medians. Images are the sample's, drawn once. Prints JSON: images/s of both, their ratio, and the share of the device's
measured matrix-product peak that our forward and backward passes reach. `--profile` adds where our time goes.
"""

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import torch
from machine import machine, publish, synchronise
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

import train
from appearance import cli
from appearance.data import batches, layouts
from appearance.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augment
from appearance.data.batches import Feeds
from appearance.data.images import load_rgb
from appearance.drawn import sample
from appearance.flags import count, positive
from appearance.machine import decoders
from appearance.networks.im2col import use_im2col
from appearance.networks.precision import fastest_precision
from appearance.training.optimizer import build_optimizer
from appearance.training.recipe import Facts, choose_recipe
from appearance.training.totals import Totals
from datasets import PersonImages
from model import build_model
from utils import seed_everything, single_process


class PlainImages(Dataset):
    """Decode, augment and normalise one image at a time."""

    def __init__(self, samples, height: int, width: int):
        label = {pid: number for number, pid in enumerate(sorted({s.pid for s in samples}))}
        self.items = [(s.path, label[s.pid]) for s in samples]
        self.classes = len(label)
        self.transform = v2.Compose(
            [
                v2.Resize((height, width)),
                v2.RandomCrop((height, width), padding=4),
                v2.RandomHorizontalFlip(),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int):
        path, label = self.items[index]
        return self.transform(load_rgb(path)), label


class Reference:
    """The plain loop."""

    def __init__(self, args, samples, device):
        images = PlainImages(samples, args.height, args.width)
        workers = args.workers if device.type == "cuda" else 0  # on a CPU decoding workers would take its cores
        self.loader = DataLoader(images, args.batch_size, shuffle=True, drop_last=True, num_workers=workers)
        self.net = build_model(args.model, images.classes).to(device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
        self.device = device

    def epoch(self) -> int:
        self.net.train()
        count = 0
        for images, labels in self.loader:
            images, labels = images.to(self.device), labels.to(self.device)
            logits = self.net(images)
            loss = torch.nn.functional.cross_entropy(logits, labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()
            (logits.argmax(1) == labels).sum().item()
            count += len(labels)
        return count


class Ours:
    """`train.py`'s own loop."""

    def __init__(self, args, data, folder: str, device):
        flags = ["--no-progressive", "--epochs", "1000", "--height", str(args.height), "--width", str(args.width)]
        flags += ["--model", args.model, "--batch_size", str(args.batch_size)] + (["--compile"] if args.compile else [])
        given, world = train.get_args_parser().parse_args(flags), single_process(str(device))
        pids = data.train_pids()
        net = use_im2col(build_model(args.model, len(pids)))
        facts = Facts(args.model, len(data.train), len(pids))
        self.recipe, _ = choose_recipe(given, facts, SimpleNamespace(precision=partial(fastest, net, world.device)))
        recipe = self.recipe
        model = train.ReIDLoss(net, len(pids), recipe).to(world.device, memory_format=torch.channels_last)
        feeds = Feeds(PersonImages, data.train, [], pids, "auto", decoders(), world)
        feed = feeds.at((args.height, args.width))[0]
        tools = build_optimizer(model, recipe, len(batches.order(recipe, feed.labels, 0)))
        self.run = train.Run(Path(folder), recipe, world, model, *tools, metadata={}, samples=data.train)
        augment = Augment(recipe.flip, recipe.pad, recipe.jitter, recipe.erase)
        self.parts = (world.wrapped(model, compile=args.compile), *tools, feed, augment, recipe, self.run)
        self.steps = args.steps

    def epoch(self) -> int:
        """One epoch, or as many as make `steps` steps."""
        images = steps = 0
        while not steps or steps < self.steps:
            self.run.step, self.run.totals = 0, Totals(self.run.world)
            train.train_one_epoch(*self.parts)
            images, steps = images + int(self.run.totals.images), steps + self.run.step
            self.run.epoch += 1
        return images


def fastest(net, device, height: int, width: int) -> str:
    """The precision that `--amp auto` takes."""
    return fastest_precision(net, height, width, device)


def timed(loop, device) -> float:
    """Images per second of one epoch."""
    started = time.perf_counter()
    count = loop.epoch()
    synchronise(device)
    return count / (time.perf_counter() - started)


def matmul_peak(device, dtype) -> float:
    """FLOP/s of a large square matrix product, the best of several."""
    side = 8192 if device.type == "cuda" else 1536
    a = torch.randn(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(6):
        started = time.perf_counter()
        for _ in range(3):
            a @ a
        synchronise(device)
        best = max(best, 3 * 2 * side**3 / (time.perf_counter() - started))
    return best


def where_time_goes(loop, device, rows: int = 12) -> dict[str, float]:
    """Share of the device's own time that each operation takes in one epoch, the largest first.

    On a GPU an operation is a kernel, and "idle" is the share of the wall time in which none ran.
    """
    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    started = time.perf_counter()
    with profile(activities=kinds) as profiler:
        loop.epoch()
        synchronise(device)
    wall = time.perf_counter() - started
    spent = {}
    for event in profiler.key_averages():
        on_gpu = event.device_type == DeviceType.CUDA
        if getattr(event, "is_user_annotation", False):  # a name for a stretch of time, no kernel
            continue
        if on_gpu == (device.type == "cuda"):
            seconds = (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6
            spent[event.key[:80]] = spent.get(event.key[:80], 0.0) + seconds
    largest = sorted(spent.items(), key=lambda item: -item[1])[:rows]
    shares = {name: round(seconds / sum(spent.values()), 3) for name, seconds in largest}
    return shares | ({"idle": round(max(0.0, 1 - sum(spent.values()) / wall), 3)} if device.type == "cuda" else {})


def flops_per_image(args, classes: int) -> int:
    """Of a forward and a backward pass, which costs twice a forward pass."""
    net = build_model(args.model, classes).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, args.height, args.width))
    return 3 * counter.get_total_flops()


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="net", help="architecture to train")
    add("--height", type=positive, default=128, help="input height in pixels")
    add("--width", type=positive, default=64, help="input width in pixels")
    add("--batch_size", type=positive, default=64, help="images per step")
    add("--images", type=positive, default=512, help="training images, about")
    add("--data-dir", type=Path, help="dataset to train on; drawn if left out")
    add("--steps", type=count, default=0, help="steps of ours a round, at least; 0: one epoch")
    add("--alone", action="store_true", help="leave the reference out")
    add("--rounds", type=positive, default=5, help="epochs timed of each loop, after one to warm up")
    add("--workers", type=count, default=decoders(), help="decoding workers of the reference on a GPU")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--compile", action="store_true", help="let ours use torch.compile")
    add("--profile", action="store_true", help="profile one more epoch of ours: the operations that take the time")
    add("--json", type=Path, help="also write the result to this file")
    return parser


def main(args) -> None:
    seed_everything(0)
    device = single_process(args.device).device
    with tempfile.TemporaryDirectory() as folder:
        identities = max(9, args.images * 3 // 2 // 11)
        data = layouts.find(args.data_dir or sample.ensure(Path(folder) / "sample", identities=identities))
        data.train = data.train[: args.images]
        loops = {} if args.alone else {"reference": Reference(args, data.train, device)}
        loops["ours"] = Ours(args, data, folder, device)
        speeds = {name: [] for name in loops}
        for number in range(args.rounds + 1):
            for name, loop in loops.items():
                speed = timed(loop, device)
                if number:
                    speeds[name].append(speed)
        precision = loops["ours"].recipe.amp
        shares = where_time_goes(loops["ours"], device) if args.profile else None
    ours = statistics.median(speeds["ours"])
    compared = {}
    if not args.alone:
        compared["reference_images_per_second"] = round(statistics.median(speeds["reference"]), 1)
        ratios = [o / r for o, r in zip(speeds["ours"], speeds["reference"], strict=True)]
        compared["ratio"] = round(statistics.median(ratios), 2)
    if device.type == "cuda":
        compared["peak_memory_GB"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    result = {
        "benchmark": "train_speed",
        "model": args.model,
        "input": [args.height, args.width],
        "batch_size": args.batch_size,
        "precision": precision,
        "compile": args.compile,
        "images_per_second": round(ours, 1),
        **compared,
        "rounds": {name: [round(s, 1) for s in values] for name, values in speeds.items()},
        "share_of_matmul_peak": round(ours * flops_per_image(args, 100) / matmul_peak(device, dtype), 3),
        **({"where_time_goes": shares} if shares else {}),
        **machine(device),
    }
    publish(result, args.json)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
