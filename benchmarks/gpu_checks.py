"""Whether a device gives what the CPU gives, and whether every mode of training runs on it.

    python benchmarks/gpu_checks.py arithmetic|training|torchrun [--device cuda] [--data-dir ROOT]

Prints JSON, and with `--json` writes it after each check: what failed, and the figures that there are.
"""

import argparse
import contextlib
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import numpy as np
import torch
from evaluate_speed import market_like
from machine import machine, publish

import train
from appearance import cli
from appearance.data.augment import Augment, normalize
from appearance.data.batches import Feed, generator_for
from appearance.data.resize import resize_all
from appearance.device import choose_device
from appearance.distributed import World
from appearance.drawn import sample
from appearance.flags import positive
from appearance.measure.embed import extract_features
from appearance.networks.inference import fuse_for_inference, unit_rows
from appearance.training.optimizer import build_optimizer
from appearance.training.recipe import Facts, choose_recipe
from appearance.training.totals import Totals
from evaluate import rank_metrics, re_ranking
from model import build_model

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
SECONDS = 80  # that a run under torchrun may take


def features(args) -> dict:
    """Unit features against the CPU's: as they are made, and with the convolutions that PyTorch takes by itself."""
    torch.manual_seed(0)
    net = build_model(args.model, 8)
    images = torch.randint(0, 256, (16 if args.small else 256, 3, args.height, args.width), dtype=torch.uint8)
    wanted, found = (extract_features(net, [images], World(device))[0] for device in (CPU, args.device))
    with torch.inference_mode():
        quick = unit_rows(fuse_for_inference(net).to(args.device).embed(normalize(images.to(args.device)))).cpu()
    difference, by_itself = ((rows - wanted).abs().max().item() for rows in (found, quick))
    return {"passed": difference < 1e-5, "largest_difference": difference, "by_itself": by_itself}


def resized(args) -> dict:
    """Crops of many sizes: the same pixels."""
    rng = np.random.default_rng(0)
    sizes = rng.integers((20, 10), (300, 150), (16 if args.small else 128, 2))
    crops = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    wanted, found = (resize_all(crops, args.height, args.width, device).cpu() for device in (CPU, args.device))
    return {"passed": torch.equal(wanted, found), "different": int((wanted != found).sum())}


def evaluated(args) -> dict:
    """The metrics: the same numbers."""
    data = market_like(100, 1000, "poor", people=50)
    wanted, found = (rank_metrics(**{k: v.to(d) for k, v in data.items()}) for d in (CPU, args.device))
    difference = max(abs(wanted[key] - found[key]) for key in ("rank1", "mAP", "mINP", "mAP_trapezoid"))
    return {"passed": difference < 1e-5, "largest_difference": difference}


def reranked(args) -> dict:
    """Re-ranked distances: as the CPU's but for neighbours at nearly the same distance, and the same every time."""
    data = market_like(100, 1000, "good", people=50)
    wanted = re_ranking(data["qf"], data["gf"])
    first, second = (re_ranking(data["qf"].to(args.device), data["gf"].to(args.device)).cpu() for _ in range(2))
    apart = ((first - wanted).abs() > 1e-4).float().mean().item()
    return {"passed": apart < 1e-3 and torch.equal(first, second), "share_apart": apart}


class Steps:
    """Two training steps of made-up images of 8 people, as `train.train_one_epoch` takes them."""

    def __init__(self, args):
        flags = ["--model", args.model, "--height", str(args.height), "--width", str(args.width)]
        flags += ["--batch_size", "16", "--epochs", "1", "--amp", "fp32", "--metric-loss", "cosine+triplet"]
        flags = train.get_args_parser().parse_args(flags)
        self.recipe, _ = choose_recipe(flags, Facts(args.model, images=1, identities=8), measure=None)
        world, count = World(args.device), 2 * self.recipe.batch_size
        model = train.ReIDLoss(build_model(args.model, 8), 8, self.recipe)
        model = model.to(args.device, memory_format=torch.channels_last).train()
        self.tools = build_optimizer(model, self.recipe, steps_per_epoch=2)
        self.model = world.wrapped(model, compile=False)
        self.augment = Augment(self.recipe.flip, self.recipe.pad, self.recipe.jitter, self.recipe.erase)
        self.totals = Totals(world)
        images = mock.Mock(targets=[number % 8 for number in range(count)], height=args.height, width=args.width)
        pixels = torch.randint(0, 256, (count, 3, args.height, args.width), dtype=torch.uint8)
        self.feed, self.order = Feed(images, pixels, world), torch.arange(count).view(2, -1)

    def run(self) -> None:
        for step, (images, labels) in enumerate(self.feed(self.order)):
            numbers = self.augment.draw(len(labels), *images.shape[-2:], generator_for(0, 0, step))
            images = self.augment.apply(images, numbers)
            results = train.train_step(self.model, images, labels, *self.tools, self.recipe)
            self.totals.add(step, *results, len(labels))


def waits(args) -> dict:
    """A training step for which the host waits: CUDA itself watches. A CPU only shows that the steps run."""
    steps, watched = Steps(args), args.device.type == "cuda"
    steps.run()
    if watched:
        torch.cuda.set_sync_debug_mode("error")
    try:
        steps.run()
    finally:
        if watched:
            torch.cuda.set_sync_debug_mode("default")
    return {"passed": True, "watched": watched}


def one_epoch(args, *flags: str) -> dict:
    """Training with some flags: the loss is a number."""
    with tempfile.TemporaryDirectory() as folder:
        history = trained(args, Path(folder), "--epochs", "1", *flags)["history"]
    loss = history[-1]["train_loss"]
    return {"passed": math.isfinite(loss), "loss": loss, "seconds_of_the_epoch": history[-1]["seconds"]}


def resumed(args) -> dict:
    """A run that is broken off in its second epoch and goes on: as near to an unbroken one as that to itself."""

    class Broken(Exception):
        pass

    with tempfile.TemporaryDirectory() as folder:
        flags = ["--epochs", "2", "--amp", "fp32", "--val-ratio", "0"]
        whole, again = (trained(args, Path(folder) / name, *flags)["net_dict"] for name in ("whole", "again"))
        begin, parts = train.Run.begin_epoch, Path(folder) / "parts"

        def breaking(run, *epoch):
            if run.epoch:
                raise Broken
            begin(run, *epoch)

        with mock.patch.object(train.Run, "begin_epoch", breaking), contextlib.suppress(Broken):
            trained(args, parts, *flags)
        found = trained(args, parts, "--resume", "--epochs", "2")["net_dict"]
    repeated, difference = (
        max((other[key].float() - value.float()).abs().max().item() for key, value in whole.items())
        for other in (again, found)
    )
    return {"passed": difference <= 10 * repeated + 1e-6, "largest_difference": difference, "of_a_repetition": repeated}


def trained(args, folder: Path, *flags: str) -> dict:
    """`last.pth` of a run on the sample."""
    line = ["--output", folder, "--device", args.device, "--eval-interval", "9", *flags]
    if "--resume" not in flags:
        line += ["--data-dir", args.data_dir, "--model", args.model, "--height", args.height, "--width", args.width]
        line += ["--batch_size", "16"] if args.small else []
    train.main(train.get_args_parser().parse_args([str(word) for word in line]))
    return torch.load(folder / "last.pth", map_location="cpu", weights_only=True)


def launched(args, *flags: str) -> dict:
    """`train_multiGPU.py` under torchrun in one process."""
    with tempfile.TemporaryDirectory() as folder:
        line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"]
        line += [ROOT / "train_multiGPU.py", "--output", folder, "--device", args.device.type, "--epochs", "1"]
        line += ["--data-dir", args.data_dir, "--model", args.model, "--height", args.height, "--width", args.width]
        done = subprocess.run([*map(str, line), *flags], capture_output=True, text=True, timeout=SECONDS)
    return {"passed": done.returncode == 0, **({"said": done.stderr[-500:]} if done.returncode else {})}


def mode(*flags: str):
    return lambda args: one_epoch(args, *flags)


CHECKS = {
    "arithmetic": {
        "features": features,
        "resize": resized,
        "evaluator": evaluated,
        "re-ranking": reranked,
        "no waits in a step": waits,
    },
    "training": {
        "plain": mode(),
        "fp16": mode("--amp", "fp16"),
        "fp16 with SGD": mode("--amp", "fp16", "--recipe", "deepsort"),
        "bf16, in parts": mode("--amp", "bf16", "--accumulate", "2"),
        "pixels that do not stay": mode("--cache", "none", "--workers", "0"),
        "resumed": resumed,
        "compiled": mode("--compile"),
    },
    "torchrun": {
        "one process": launched,
        "one process, --syncBN": lambda args: launched(args, "--syncBN"),
    },
}


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("kind", choices=list(CHECKS), help="which checks")
    add("--device", default="cuda", help="cuda, cuda:1, ... or cpu")
    add("--data-dir", type=Path, help="dataset to train on; a drawn one if left out")
    add("--model", default="net", help="architecture to try")
    add("--height", type=positive, default=128, help="input height in pixels")
    add("--width", type=positive, default=64, help="input width in pixels")
    add("--small", action="store_true", help="a tiny network, and nothing compiled")
    add("--json", type=Path, help="also write the results to this file")
    return parser


def main(args) -> None:
    if args.small:
        args.model, args.height, args.width = "osnet_x0_25", 32, 16
    args.device = choose_device(args.device)
    result = {"benchmark": "gpu_checks", "kind": args.kind, **machine(args.device), "failed": [], "checks": {}}
    with tempfile.TemporaryDirectory() as folder:
        args.data_dir = args.data_dir or sample.ensure(Path(folder) / "sample", identities=12)
        for name, check in CHECKS[args.kind].items():
            if name == "compiled" and args.small:
                continue
            started = time.perf_counter()
            try:
                found = check(args)
            except Exception as error:
                found = {"passed": False, "error": f"{type(error).__name__}: {error}"[:500]}
            result["checks"][name] = found | {"seconds": round(time.perf_counter() - started, 1)}
            if not found["passed"]:
                result["failed"].append(name)
            publish(result, args.json)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
