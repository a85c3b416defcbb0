"""The test of docs/results.md, cut out of Market-1501's training images.

    python benchmarks/market_slice.py Market-1501-v15.09.15 SPLIT --identities 250

Identities are sorted. The first 10, 50, 250 or 500 are for training, the last 251 of the 751 for testing: one image of
each person in each camera is a query, all others are the gallery. Images are linked, not copied.
"""

import random
import sys
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

from appearance import cli
from appearance.cli import InputError
from appearance.data import layouts
from appearance.files import beside
from appearance.flags import positive

TESTED = 251  # identities, the last ones


def main(args) -> None:
    by_identity = defaultdict(list)
    for sample in layouts.find(args.root).train:
        by_identity[sample.pid].append(sample)
    pids = sorted(by_identity)
    if args.identities + TESTED > len(pids):
        raise InputError(f"--identities {args.identities}: {args.root} has {len(pids)}, of which {TESTED} are tested")
    if args.out.exists():
        raise InputError(f"{args.out}: exists already; name a new folder")
    draw = random.Random(0)
    with beside(args.out) as out:
        for pid in pids[: args.identities]:
            link(by_identity[pid], out / "train" / f"{pid:04d}")
        for pid in pids[-TESTED:]:
            by_camera = defaultdict(list)
            for sample in sorted(by_identity[pid], key=lambda sample: Path(sample.path).name):
                by_camera[sample.camera].append(sample)
            queries = [draw.choice(images) for _, images in sorted(by_camera.items())]
            link(queries, out / "query" / f"{pid:04d}")
            link([sample for sample in by_identity[pid] if sample not in queries], out / "gallery" / f"{pid:04d}")
    print(f"{args.out}: {args.identities} identities to train on, {TESTED} to test")


def link(samples: list, folder: Path) -> None:
    """Symbolic links to the images, with their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        (folder / Path(sample.path).name).symlink_to(Path(sample.path).resolve())


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(description="Cut the test of docs/results.md out of Market-1501's training images.")
    parser.add_argument("root", type=Path, help="Market-1501, with bounding_box_train/")
    parser.add_argument("out", type=Path, help="new folder: train/, query/, gallery/")
    parser.add_argument("--identities", type=positive, default=250, help="to train on")
    return parser


if __name__ == "__main__":
    cli.run(main, get_args_parser())
