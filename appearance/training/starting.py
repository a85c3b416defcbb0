"""The starting weights: which file, for which network, and how well they tell the training identities apart already."""

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

IMAGES = 600  # looked at; their pairs number a hundred thousand
FEWEST_PAIRS = 20  # of one identity in two cameras, below which pairs of one camera count as well


def starting_weights(args, default_arch: str) -> tuple[str, Checkpoint | None]:
    """The architecture to train, and the checkpoint of `--weights`, if any, at the input size that the flags name.

    The architecture is that of `--model`, else of `--weights`, else `default_arch`.

    Raises:
        InputError: the file cannot be read, or holds another architecture than `--model` asks for; or there are no
            starting weights of which to keep a share.
    """
    if args.keep_start not in (None, "auto", 0.0) and not args.weights:
        raise InputError(f"--keep-start {args.keep_start:g}: needs starting weights; give --weights, or leave it out")
    if not args.weights:
        return args.model or default_arch, None
    if args.weights == "imagenet":
        model = args.model or default_arch
        return model, checkpoints.imagenet_checkpoint(model)
    if args.weights == "drawn":
        if args.model not in (None, default_weights.ARCH):
            raise InputError(
                f"--weights drawn: the network that comes along is {default_weights.ARCH}; for {args.model} make one: "
                + default_weights.how_to_make(args.model)
            )
        start = checkpoints.load(default_weights.WEIGHTS)
    else:
        if not Path(args.weights).exists():
            raise InputError(
                f"--weights {args.weights}: no such file; give a checkpoint, `drawn` (the network in weights/) or "
                "`imagenet`"
            )
        start = checkpoints.load(args.weights)
    if args.model not in (None, start.arch):
        raise InputError(
            f"--weights {start.path}: holds a {start.arch}; give --model {start.arch} or leave --model out "
            f"(it is {args.model})"
        )
    sides = {side: getattr(args, side) for side in ("height", "width")}
    return start.arch, start.with_input(**{side: value for side, value in sides.items() if isinstance(value, int)})


def network_options(args, arch: str, start: Checkpoint | None) -> dict:
    """Options of `build_model` besides the architecture."""
    options = {}
    if arch in HAVE_OPTIONS:
        options = {"last_stride": args.last_stride, "pooling": args.pooling, "neck": args.neck}
    if start and start.model_options.get("truncated"):
        options["truncated"] = True
    return options


def some_of_each(samples: Sequence[Sample]) -> list[Sample]:
    """About IMAGES samples: equally many of each identity, two at least, spread evenly over its images."""
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
    """The share of pairs on the wrong side of a distance threshold: pairs of one identity beyond it, or of two within
    it; the larger of these two shares, at the threshold where that is smallest.

    0 where the features tell all identities apart, 0.5 where they know nothing. Pairs of one identity are taken from
    different cameras (or unknown ones), where that leaves enough.

    Args:
        features: (N, D) float32 unit rows of the samples.

    Returns None where no identity, or only one, has two images.
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
    missed = 1 - torch.arange(1, len(own) + 1) / len(own)  # with the threshold at each distance of `own`
    accepted = torch.searchsorted(others, own, right=True) / len(others)
    return float(torch.maximum(missed, accepted).min())
