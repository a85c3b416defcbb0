"""What do crops of one's own cameras give a trained network where nobody has said who is who?

    python benchmarks/without_labels.py --data-dir ROOT [--weights FILE] [--unlabelled ROOT ...]

The two simplest ways, each with the training images of the dataset (or of those that are named) and without their
labels: BatchNorm's statistics of these images, wholly or in part, in the place of the network's own (Li et al.,
"Revisiting Batch Normalization for practical domain adaptation", 2016), and the mean vector of each camera taken away
from that camera's vectors. Tested on query and gallery of ROOT.
"""

import argparse
import copy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import torch
from machine import machine, publish
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from appearance import cli
from appearance.data import layouts
from appearance.data.augment import normalize
from appearance.measure import features_file, protocols
from appearance.measure.embed import features_of, fixed_batches, stream_pixels, test_features
from appearance.networks import checkpoints, shipped
from appearance.training.batch_norm import measured_afresh
from datasets import PersonImages
from model import from_checkpoint
from utils import single_process

BATCH = 256


def with_statistics(net: nn.Module, images, mix: float) -> nn.Module:
    """A copy whose BatchNorm statistics are the network's own and, with weight `mix`, those of these images."""
    net = copy.deepcopy(net)
    layers = [layer for layer in net.modules() if isinstance(layer, _BatchNorm)]
    own = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    batches = [[order[place] for place in rows] for rows in fixed_batches(len(order), BATCH)]
    with measured_afresh(net):
        for pixels in stream_pixels(images, [rows for rows in batches if len(rows) > 1], 2):
            net.embed(normalize(pixels))
    for layer, (mean, variance) in zip(layers, own, strict=True):
        layer.running_mean.lerp_(mean, 1 - mix)
        layer.running_var.lerp_(variance, 1 - mix)
    return net


def without_camera(vectors: Tensor, cameras: Tensor, means: dict[int, Tensor], mix: float) -> Tensor:
    """(N, D) unit rows less their camera's part; a camera without a mean keeps it."""
    middle = torch.stack(list(means.values())).mean(0)
    away = torch.stack([mix * (means.get(camera, middle) - middle) for camera in cameras.tolist()])
    return nn.functional.normalize(vectors - away)


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data-dir", type=Path, required=True, help="dataset whose query and gallery are the test")
    add("--unlabelled", type=Path, nargs="+", help="datasets whose training images are looked at (default: --data-dir)")
    add("--weights", type=Path, default=shipped.WEIGHTS, help="checkpoint (default: the network that comes along)")
    add("--mix", type=float, nargs="+", default=[0.5, 1.0], help="weight of what the images say")
    add("--json", type=Path, help="also write the results to this file")
    return parser


def main(args) -> None:
    world = single_process("cpu")
    source = checkpoints.load(args.weights)
    net, size = from_checkpoint(source).eval(), (source.height, source.width)
    data = layouts.find(args.data_dir)
    query, gallery = (PersonImages(people, *size) for people in (data.query, data.gallery))
    rows = []

    def add(way: str, looked_at: str, mix: float, found: dict) -> None:
        metrics = protocols.figures(features_file.check(found))
        rows.append({"way": way, "images": looked_at, "mix": mix} | {key: metrics[key] for key in ("rank1", "mAP")})
        print(f"{looked_at:<20} {way:<22} {mix:<5} rank-1 {metrics['rank1']:.1%}  mAP {metrics['mAP']:.1%}", flush=True)

    as_it_is = test_features(net, query, gallery, world)
    add("as it is", "", 0.0, as_it_is)
    for root in args.unlabelled or [args.data_dir]:
        people = layouts.find(root).train
        images = PersonImages(people, *size)
        cameras, vectors = torch.tensor([one.camera for one in people]), features_of(net, images, world)
        means = {camera: vectors[cameras == camera].mean(0) for camera in cameras.unique().tolist()}
        for mix in args.mix:
            adapted = with_statistics(net, images, mix)
            add("BatchNorm's statistics", root.name, mix, test_features(adapted, query, gallery, world))
            moved = {f"{s}f": without_camera(as_it_is[f"{s}f"], as_it_is[f"{s}c"], means, mix) for s in "qg"}
            add("camera's mean away", root.name, mix, as_it_is | moved)
    publish({"benchmark": "without_labels", "rows": rows} | machine("cpu"), args.json)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
