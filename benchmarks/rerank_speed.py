"""How long does k-reciprocal re-ranking take, and how much memory?

5,000 vectors (1,000 queries, 4,000 images) and Market-1501's 19,281 (3,368 and 15,913), 512 numbers each, with the
usual k1 20, k2 6 and lambda 0.3, beside the time of the bare product of all vectors with all. Before that the results
on the stored cases of tests/data are compared with the reference's. Peak memory is that of a process of its own.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import numpy as np
import torch
from evaluate_speed import IMAGES, QUERIES, ROOT, clock, market_like, peak_memory
from machine import machine

from appearance.cli import ArgumentParser, run
from appearance.identities import JUNK
from evaluate import re_ranking

SIZES = ((1000, 4000), (QUERIES, IMAGES))  # queries, images


def get_args_parser():
    parser = ArgumentParser(prog="rerank_speed.py", description=__doc__)
    add = parser.add_argument
    add("--repeats", type=int, default=5, help="timings of each, of which the median counts")
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int, default=os.cpu_count(), help="processor threads to use")
    add("--json", metavar="FILE", help="write the figures there, too")
    add("--only", type=int, nargs=2, metavar=("QUERIES", "IMAGES"), help="only re-rank this size once, for its memory")
    return parser


def main(args):
    torch.set_num_threads(args.threads)
    if args.only:
        data = market_like(*args.only, "good")
        re_ranking(data["qf"].to(args.device), data["gf"].to(args.device))
        return
    found = {"machine": machine(args.device), "largest_difference_to_reference": compared(args.device), "runs": []}
    for queries, images in SIZES:
        found["runs"].append(timed(queries, images, args))
    text = json.dumps(found, indent=2)
    print(text)
    if args.json:
        Path(args.json).write_text(text + "\n")


def compared(device: str) -> dict:
    """Largest difference of a distance from the reference's, per stored case."""
    found = {}
    for name in ("market_small", "sparse"):
        with np.load(ROOT / "tests" / "data" / f"{name}.npz") as case:
            kept = case["gl"] != JUNK
            ours = re_ranking(torch.tensor(case["qf"]).to(device), torch.tensor(case["gf"][kept]).to(device))
            found[name] = float(np.abs(ours.cpu().numpy() - case["reranked"]).max())
    return found


def timed(queries: int, images: int, args) -> dict:
    data = market_like(queries, images, "good", people=max(10, images // 18))
    qf, gf = data["qf"].to(args.device), data["gf"].to(args.device)
    everything = torch.cat([qf, gf])
    rounds = []
    for i in range(args.repeats + 1):
        product = clock(lambda: everything @ everything.T, args.device)[:2]
        whole = clock(lambda: re_ranking(qf, gf), args.device)[:2]
        if i:  # the first round warms up
            rounds.append((*product, *whole))
    product, product_cpu, whole, whole_cpu = np.array(rounds).T
    child = [
        sys.executable,
        __file__,
        "--only",
        str(queries),
        str(images),
        "--device",
        args.device,
        "--threads",
        str(args.threads),
    ]
    return {
        "vectors": queries + images,
        "product_seconds": round(float(np.median(product)), 3),
        "seconds": round(float(np.median(whole)), 3),
        "cpu_seconds": round(float(np.median(whole_cpu)), 3),
        "ratio": round(float(np.median(whole / product)), 2),
        "cpu_ratio": round(float(np.median(whole_cpu / product_cpu)), 2),
        "peak_GB_of_the_process": round(peak_memory(child) / 2**30, 2),
    }


if __name__ == "__main__":
    run(main, get_args_parser())
