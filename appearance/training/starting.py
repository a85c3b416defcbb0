"""The starting weights: load `--weights`, and measure how well they recognise the training identities."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from appearance.cli import InputError
from appearance.data.layouts import Sample
from appearance.data.names import UNKNOWN
from appearance.networks import checkpoints, default_weights
from appearance.networks.architectures import HAVE_OPTIONS
from appearance.networks.checkpoints import Checkpoint

IMAGES = 600  # images to measure with, more than 100,000 pairs
FEWEST_PAIRS = 20  # cross-camera pairs; with fewer, same-camera pairs count too


def starting_weights(args, default_arch: str) -> tuple[str, Checkpoint | None]:
    """The architecture to train, and the checkpoint of `--weights` (or None) with the input size of the flags.

    The architecture is that of `--model`, else of `--weights`, else `default_arch`.

    Raises:
        InputError: the file cannot be read, its architecture is not `--model`, or there is `--keep-start` without
            `--weights`.
    """
    if args.keep_start not in (None, "auto", 0.0) and not args.weights:
        raise InputError(
            f"--keep-start {args.keep_start:g}: needs starting weights; add --weights, or leave --keep-start out"
        )
    if not args.weights:
        return args.model or default_arch, None
    if args.weights == "imagenet":
        model = args.model or default_arch
        return model, checkpoints.imagenet_checkpoint(model)
    if args.weights == "drawn":
        if args.model not in (None, default_weights.ARCH):
            raise InputError(
                f"--weights drawn: is {default_weights.ARCH}; leave --model out, or train {args.model} yourself: "
                + default_weights.how_to_make(args.model)
            )
        start = checkpoints.load(default_weights.WEIGHTS)
    else:
        if not Path(args.weights).exists():
            raise InputError(
                f"--weights {args.weights}: no such file; give a checkpoint, or `drawn` (the network in weights/), or "
                "`imagenet`"
            )
        start = checkpoints.load(args.weights)
    if args.model not in (None, start.arch):
        raise InputError(
            f"--weights {start.path}: is {start.arch}, but --model is {args.model}; leave --model out, or use weights "
            f"of {args.model}"
        )
    sides = {side: getattr(args, side) for side in ("height", "width")}
    return start.arch, start.with_input(**{side: value for side, value in sides.items() if isinstance(value, int)})


def network_options(args, arch: str, start: Checkpoint | None) -> dict:
    """The options for `build_model`."""
    options = {}
    if arch in HAVE_OPTIONS:
        options = {"last_stride": args.last_stride, "pooling": args.pooling, "neck": args.neck}
    if start and start.model_options.get("truncated"):
        options["truncated"] = True
    return options


def some_of_each(samples: Sequence[Sample]) -> list[Sample]:
    """About IMAGES samples: the same number of each identity, at least two, evenly spaced."""
    by_identity = defaultdict(list)
    for sample in samples:
        by_identity[sample.pid].append(sample)
    most = max(2, IMAGES // len(by_identity))
    chosen = []
    for _, images in sorted(by_identity.items()):
        places = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
        chosen += [images[place] for place in places]
    return chosen


def equal_error_rate(features: Tensor, samples: Sequence[Sample]) -> float | None:
    """Equal error rate of pairs: 0 with perfect features, 0.5 with useless ones.

    The larger of the two error rates (same-identity pairs beyond a distance threshold, different-identity pairs within
    it), at the best threshold. Same-identity pairs are from different or unknown cameras, if there are enough.

    Args:
        features: (N, D) float32 unit rows of the samples.

    Returns:
        the rate; None if there are no same-identity or no different-identity pairs.
    """
    identity = torch.tensor([sample.pid for sample in samples])
    camera = torch.tensor([sample.camera for sample in samples])
    first, second = torch.triu_indices(len(samples), len(samples), offset=1)
    same = identity[first] == identity[second]
    across = same & ((camera[first] != camera[second]) | (camera[first] == UNKNOWN))
    right = across if across.sum() >= FEWEST_PAIRS else same
    distance = (1 - features @ features.T)[first, second]
    own, others = distance[right].sort().values, distance[~same].sort().values
    if not len(own) or not len(others):
        return None
    missed = 1 - torch.arange(1, len(own) + 1) / len(own)  # at each distance in `own` as a threshold
    accepted = torch.searchsorted(others, own, right=True) / len(others)
    return float(torch.maximum(missed, accepted).min())
