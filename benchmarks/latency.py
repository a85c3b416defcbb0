"""How long a tracker waits for the vectors of its crops: p50 and p95 for 1, 8, 32 and 128 crops.

    python benchmarks/latency.py                                   on the CPU
    python benchmarks/latency.py --device cuda                     on a GPU
    python benchmarks/latency.py --models net --runtimes eager onnx-int8 --threads 2

What is timed is the whole call `extractor(crops)`: crops as a detector cuts them (190 x 80 pixels on average), resize,
normalisation, network, unit rows. Runtimes take turns, so that all meet the same machine, with a pause between them:
the threads of each go on spinning for a while after a call, and would take the cores from the next. Weights are random:
they do not change the time.

    eager        the network as it was trained, in PyTorch
    fused        BatchNorm folded, channels-last: what `Extractor` runs
    compiled     the same through torch.compile (needs a C++ compiler on CPUs)
    onnx         float32 through onnxruntime (CPU)
    onnx-int8    8-bit integers through onnxruntime (CPU)
    realtime     the MobileNetV2 of deep-sort-realtime at its 224x224, if that package is installed
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import machine
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

from appearance import cli
from appearance.device import choose_device
from appearance.files import write_text
from appearance.flags import above_zero, count, positive
from appearance.networks import checkpoints
from export import Job, write_onnx, write_onnx_int8
from feature_extractor import Extractor
from model import ARCHITECTURES, build_model, from_checkpoint

RUNTIMES = ("eager", "fused", "compiled", "onnx", "onnx-int8")
ON_CPU_ONLY = {"onnx", "onnx-int8"}
PAUSE = 0.3  # seconds between the turns


def some_crops(count: int) -> list[np.ndarray]:
    """RGB crops of many sizes, (h, w, 3) uint8 each."""
    rng = np.random.default_rng(0)
    sizes = rng.integers((120, 50), (260, 110), (count, 2))
    return [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]


def random_network(name: str) -> nn.Module:
    """A network with random weights and statistics.

    Fresh BatchNorms are all alike; folded, they leave equal biases, which an ONNX file keeps once for all layers, and
    onnxruntime then runs these layers in float32 where int8 is asked for. In trained networks no two are equal.
    """
    torch.manual_seed(0)
    net = build_model(name, 1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
    return net


def extractors(name: str, args, folder: Path) -> dict[str, Extractor]:
    """One Extractor for each runtime of a network with random weights."""
    weights = folder / f"{name}.pth"
    content = {"net_dict": random_network(name).state_dict(), "arch": name, "model_options": {}}
    checkpoints.save(weights, content | {"height": args.height, "width": args.width})
    checkpoint = checkpoints.load(weights)
    job = Job(checkpoint, False, torch.randint(0, 256, (32, 3, args.height, args.width), dtype=torch.uint8))
    ready = {}
    for runtime in args.runtimes:
        if runtime in ON_CPU_ONLY and args.device != "cpu":
            continue
        path = weights
        if runtime in ON_CPU_ONLY:
            path = folder / f"{name}-{runtime}.onnx"
            (write_onnx if runtime == "onnx" else write_onnx_int8)(job, path)
        extractor = Extractor(path, use_cuda=args.device == "cuda")
        if runtime == "eager":
            extractor.net = from_checkpoint(checkpoint).to(extractor.device)
        elif runtime == "compiled":
            extractor.net = torch.compile(extractor.net, dynamic=True)
        ready[runtime] = extractor
    return ready


def realtime_embedder(device: str):
    """The embedder of deep-sort-realtime as that package builds it, or None where it is not installed."""
    try:
        from deep_sort_realtime.embedder.embedder_pytorch import MobileNetv2_Embedder
    except ImportError:
        return None
    return MobileNetv2_Embedder(bgr=False, gpu=device == "cuda").predict


def time_in_turns(calls: dict, crops: list[np.ndarray], seconds: float) -> dict[str, np.ndarray]:
    """Milliseconds of each call, until `seconds` a call have passed, five calls at least.

    All take turns of three calls; of each turn the first is not counted.
    """
    times = {name: [] for name in calls}
    for call in calls.values():
        call(crops)  # memory, compilation, first-time choices
    started = time.perf_counter()
    while len(times[next(iter(times))]) < 5 or time.perf_counter() - started < seconds * len(calls):
        for name, call in calls.items():
            time.sleep(PAUSE)
            call(crops)
            for _ in range(2):
                before = time.perf_counter()
                call(crops)  # the vectors come back as numpy arrays: a GPU has finished
                times[name].append(1000 * (time.perf_counter() - before))
    return {name: np.array(values) for name, values in times.items()}


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(
        description="Latency of networks and runtimes, from crops to vectors.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    small = ["net", "mobilenet_v2", "osnet_x0_25"]
    add("--models", nargs="+", choices=sorted(ARCHITECTURES), default=small, help="networks")
    add("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES), help="how they are run")
    add("--crops", nargs="+", type=positive, default=[1, 8, 32, 128], help="crops a call")
    add("--height", type=positive, default=128, help="height of the network's input in pixels")
    add("--width", type=positive, default=64, help="width of the network's input in pixels")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the network runs")
    add("--threads", type=count, default=0, help="CPU threads; 0: as many as PyTorch takes by itself")
    add("--seconds", type=above_zero, default=2.0, help="time spent on each figure, five calls at least")
    add("--json", type=Path, help="also save the figures as JSON")
    return parser


def main(args) -> None:
    choose_device(args.device)  # before any file is written
    if args.threads:
        torch.set_num_threads(args.threads)
    hardware = machine(args.device)["hardware"]
    print(f"{hardware}, {torch.get_num_threads()} of {os.cpu_count()} CPU threads, torch {torch.__version__}")
    print(f"p50 / p95 in milliseconds from crops to vectors, network input {args.height}x{args.width}")
    print(f"  {'network':<24}" + "".join(f"{f'{count} crops':>18}" for count in args.crops) + f"{'crops/s':>10}")
    with tempfile.TemporaryDirectory() as folder:
        calls = {
            f"{name} {runtime}": extractor
            for name in args.models
            for runtime, extractor in extractors(name, args, Path(folder)).items()
        }
        embedder = realtime_embedder(args.device)
        if embedder:
            calls["realtime's MobileNetV2"] = embedder
        with torch.inference_mode():
            results = {count: time_in_turns(calls, some_crops(count), args.seconds) for count in args.crops}
    figures = {}
    for name in calls:
        p50, p95 = ([float(np.percentile(results[c][name], q)) for c in args.crops] for q in (50, 95))
        most = max(1000 * count / median for count, median in zip(args.crops, p50, strict=True))
        figures[name] = {"crops": args.crops, "p50_ms": p50, "p95_ms": p95, "crops_per_second": most}
        cells = "".join(f"{f'{a:.2f} / {b:.2f}':>18}" for a, b in zip(p50, p95, strict=True))
        print(f"  {name:<24}{cells}{most:>10,.0f}")
    if not embedder:
        print("  (for deep-sort-realtime's own embedder: pip install deep-sort-realtime opencv-python-headless)")
    if args.json:
        write_text(args.json, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main, get_args_parser())
