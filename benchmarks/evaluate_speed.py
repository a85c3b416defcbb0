"""How long does an evaluation take, as a multiple of the bare similarity product, and how much memory?

Synthetic unit features of Market-1501's size and shape (3,368 queries, 750 people in 6 cameras, 15,913 gallery images
with 2,798 distractors, 512 numbers each). The product alone, into memory that is already there, and the whole
evaluation (`evaluate.rank_metrics`: checks, product, metrics) are timed in turn in the same run, and so are the product
of all vectors with all and k-reciprocal re-ranking. `ratio` is that of wall times, for an idle machine; `cpu_ratio`
that of processor times, which other programs disturb less.

--sizes times other sizes and fits a line; --large evaluates 20,000 x 200,000 from a memory-mapped folder with
`python evaluate.py` and takes the whole process's peak memory.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import numpy as np
import torch
from machine import machine

from appearance.cli import ArgumentParser, run
from appearance.device import choose_device
from appearance.files import write_text
from appearance.flags import positive
from appearance.measure import features_file
from evaluate import rank_metrics, re_ranking

ROOT = Path(__file__).resolve().parents[1]

QUERIES, IMAGES, SIZE, PEOPLE, CAMERAS = 3368, 15913, 512, 750, 6
DISTRACTORS = 2798 / 15913  # share of the gallery
NOISE = {"good": 2.13, "poor": 3.5}  # against unit normal centres: mAP about 0.8, and under 0.1


def get_args_parser():
    parser = ArgumentParser(prog="evaluate_speed.py", description=__doc__)
    add = parser.add_argument
    add("--repeats", type=positive, default=7, help="timings of each, of which the median counts")
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=positive, default=os.cpu_count(), help="processor threads to use")
    add("--sizes", action="store_true", help="also time a quarter to four times the size")
    add("--large", action="store_true", help="also 20,000 queries x 200,000 images from disk, with peak memory")
    add("--json", metavar="FILE", help="write the figures there, too")
    return parser


def main(args):
    torch.set_num_threads(args.threads)
    args.device = choose_device(args.device)
    found = {"machine": machine(args.device), "runs": []}
    for quality in NOISE:
        found["runs"].append(evaluation(QUERIES, IMAGES, quality, args))
    found["rerank"] = reranking(QUERIES, IMAGES, args)
    if args.sizes:
        table = [evaluation(int(QUERIES * f), IMAGES, "poor", args) for f in (0.25, 0.5, 1, 2, 4)]
        found["sizes"] = table
        pairs = [row["queries"] * row["gallery"] for row in table]
        found["lines"] = {key: line(pairs, [row[key] for row in table]) for key in ("seconds", "cpu_seconds")}
    if args.large:
        found["large"] = large(20_000, 200_000)
    text = json.dumps(found, indent=2)
    print(text)
    if args.json:
        write_text(args.json, text + "\n")


def market_like(queries: int, images: int, quality: str, people: int = PEOPLE, seed: int = 0) -> dict:
    """A features dict whose people are clouds around random centres, as wide as `quality` says."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(people + 1, SIZE, generator=generator)

    def side(labels):
        strangers = (labels == 0)[:, None] * torch.randn(len(labels), SIZE, generator=generator)
        rows = torch.where(labels[:, None] > 0, centres[labels], strangers)
        rows += NOISE[quality] * torch.randn(len(labels), SIZE, generator=generator)
        return torch.nn.functional.normalize(rows)

    ql = torch.randint(1, people + 1, (queries,), generator=generator)
    gl = torch.randint(1, people + 1, (images,), generator=generator)
    gl[torch.rand(images, generator=generator) < DISTRACTORS] = 0
    return {
        "qf": side(ql),
        "ql": ql,
        "qc": torch.randint(CAMERAS, (queries,), generator=generator),
        "gf": side(gl),
        "gl": gl,
        "gc": torch.randint(CAMERAS, (images,), generator=generator),
    }


def evaluation(queries: int, images: int, quality: str, args) -> dict:
    data = {key: value.to(args.device) for key, value in market_like(queries, images, quality).items()}
    out = torch.empty(queries, images, device=args.device)
    seconds = timed(lambda: torch.mm(data["qf"], data["gf"].T, out=out), lambda: rank_metrics(**data), args)
    found = {"features": quality, "queries": queries, "gallery": images}
    return found | {"mAP": round(rank_metrics(**data)["mAP"], 4)} | seconds


def reranking(queries: int, images: int, args) -> dict:
    """With the usual k1 20, k2 6 and lambda 0.3."""
    data = market_like(queries, images, "good")
    qf, gf = data["qf"].to(args.device), data["gf"].to(args.device)
    everything = torch.cat([qf, gf])
    return {"vectors": len(everything)} | timed(lambda: everything @ everything.T, lambda: re_ranking(qf, gf), args)


def timed(product, whole, args) -> dict:
    """Median seconds of the bare product and of the whole, measured in turn."""
    rounds = [(*clock(product, args.device), *clock(whole, args.device)) for _ in range(args.repeats + 1)]
    product, product_cpu, whole, whole_cpu = np.array(rounds[1:]).T  # the first round warms up
    return {
        "product_seconds": round(float(np.median(product)), 4),
        "seconds": round(float(np.median(whole)), 4),
        "cpu_seconds": round(float(np.median(whole_cpu)), 4),
        "ratio": round(float(np.median(whole / product)), 2),
        "cpu_ratio": round(float(np.median(whole_cpu / product_cpu)), 2),
    }


def clock(work, device: torch.device):
    """Wall seconds and processor seconds that work() takes."""
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronize()
    start, cpu_start = time.perf_counter(), time.process_time()
    work()
    synchronize()
    return time.perf_counter() - start, time.process_time() - cpu_start


def line(x, y) -> dict:
    """Straight line through the points, and the share of the variance that it explains."""
    slope, offset = np.polyfit(x, y, 1)
    residual = np.array(y) - (slope * np.array(x) + offset)
    return {
        "nanoseconds_per_pair": round(slope * 1e9, 3),
        "seconds_at_zero": round(offset, 3),
        "r_squared": round(1 - float((residual**2).sum() / ((np.array(y) - np.mean(y)) ** 2).sum()), 5),
    }


def large(queries: int, images: int) -> dict:
    """`python evaluate.py` on a memory-mapped folder: wall time and peak memory of the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        data = market_like(queries, images, "poor", people=int(images * (1 - DISTRACTORS) / 17.5))
        features_file.save(folder + "/features", data)
        size = sum(data[key].numel() * 4 for key in ("qf", "gf"))
        del data
        start = time.perf_counter()
        peak = peak_memory([sys.executable, str(ROOT / "evaluate.py"), folder + "/features"])
        seconds = time.perf_counter() - start
    return {
        "queries": queries,
        "gallery": images,
        "seconds": round(seconds, 1),
        "features_GB": round(size / 2**30, 3),
        "peak_GB": round(peak / 2**30, 3),
        "beyond_features_GB": round((peak - size) / 2**30, 3),
    }


def peak_memory(command: list[str]) -> int:
    """Bytes of memory that a command takes at most, interpreter and libraries included.

    It is started by a small Python of its own: a process begins with its parent's peak as its own.
    """
    start = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
    start += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", start, *command], stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout) * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    run(main, get_args_parser())
