"""Extraction speed: `test.py`'s loop against a plain reference loop, in one run.

    python benchmarks/extract_speed.py [--model net] [--height 128 --width 64] [--images 512] [--rounds 5]

The reference decodes one image after the other in a DataLoader, runs the network as it was trained in float32 and the
default memory layout, and fetches each batch's features at once. Ours is `embed.features_of`: decoding ahead in
threads, BatchNorm folded, channels-last. A third figure leaves decoding out: pixels in memory to features. Prints JSON.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import torch
from machine import machine, publish, synchronise
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import datasets
from appearance import cli
from appearance.data import layouts
from appearance.data.augment import IMAGENET_MEAN, IMAGENET_STD
from appearance.data.images import load_rgb
from appearance.drawn import sample
from appearance.flags import positive
from appearance.machine import decoders
from appearance.measure.embed import extract_features, features_of, fixed_batches
from appearance.networks.inference import unit_rows
from model import build_model
from utils import seed_everything, single_process


class PlainImages(Dataset):
    """Decode, resize and normalise one image at a time."""

    def __init__(self, samples, height: int, width: int):
        self.paths = [s.path for s in samples]
        scale = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
        self.transform = v2.Compose([v2.Resize((height, width)), *scale])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        return self.transform(load_rgb(self.paths[index]))


@torch.no_grad()
def reference(net, loader, device) -> torch.Tensor:
    return torch.cat([unit_rows(net.embed(images.to(device))).cpu() for images in loader])


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="net", help="architecture to run")
    add("--height", type=positive, default=128, help="input height in pixels")
    add("--width", type=positive, default=64, help="input width in pixels")
    add("--batch_size", type=positive, default=128, help="images per forward pass")
    add("--data-dir", type=Path, help="dataset to take the images of; drawn if left out")
    add("--images", type=positive, default=512, help="images, about")
    add("--rounds", type=positive, default=5, help="passes timed of each loop, after one to warm up")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="arithmetic of ours")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--json", type=Path, help="also write the result to this file")
    return parser


def main(args) -> None:
    seed_everything(0)
    world = single_process(args.device)
    device = world.device
    workers = decoders()
    net = build_model(args.model, 751).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "sample"
        data = layouts.find(args.data_dir or sample.ensure(drawn, identities=max(9, args.images // 13)))
        samples = (data.train + data.query + data.gallery)[: args.images]
        plain = PlainImages(samples, args.height, args.width)
        loader = DataLoader(plain, args.batch_size, num_workers=workers if device.type == "cuda" else 0)
        images = datasets.PersonImages(samples, args.height, args.width, pids=())
        decoded = torch.stack([images[i][0] for i in range(len(images))]).to(device)
        batches = fixed_batches(len(images), args.batch_size)

        loops = {
            "reference": lambda: reference(net, loader, device),
            "ours": lambda: features_of(net, images, world, args.batch_size, args.precision, workers),
            "from_pixels": lambda: torch.cat(
                extract_features(net, (decoded[b.start : b.stop] for b in batches), world, args.precision)
            ),
        }
        results, speeds = {}, {name: [] for name in loops}
        for number in range(args.rounds + 1):
            for name, loop in loops.items():
                synchronise(device)
                started = time.perf_counter()
                results[name] = loop()
                if number:
                    speeds[name].append(len(images) / (time.perf_counter() - started))
    pairs = zip(speeds["ours"], speeds["reference"], strict=True)
    result = {
        "benchmark": "extract_speed",
        "model": args.model,
        "input": [args.height, args.width],
        "images": len(images),
        "precision": args.precision,
        **{f"{name}_images_per_second": round(statistics.median(v), 1) for name, v in speeds.items()},
        "ratio": round(statistics.median(o / r for o, r in pairs), 2),
        "largest_difference": float((results["ours"] - results["reference"]).abs().max()),
        **machine(device),
    }
    publish(result, args.json)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
