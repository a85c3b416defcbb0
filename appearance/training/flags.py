"""The command line of `train.py` and `train_multiGPU.py`."""

import argparse
import math
from pathlib import Path

from appearance import cli
from appearance.machine import decoders
from appearance.networks.checkpoints import NAMES
from appearance.training import recipe
from appearance.training.losses import METRIC_LOSSES, metric_losses


def get_args_parser(otherwise: str = "net") -> cli.ArgumentParser:
    """The flags of training; `otherwise` is the network that is built where neither flag nor file names one."""
    parser = cli.ArgumentParser(
        description="Train a re-ID network for DeepSORT and its kin; without arguments, on the sample dataset.",
        epilog=_recipe_table(),
    )
    add = parser.add_argument_group("data").add_argument
    add(
        "--data-dir",
        type=Path,
        nargs="+",
        metavar="ROOT",
        help="datasets of any known layout, several as one (default: the sample)",
    )
    add(
        "--height",
        type=positive,
        default=128,
        help="height of the network's input in pixels; left out: what --weights knows",
    )
    add("--width", type=positive, default=64, help="width of the input, left out as well")
    add("--val-ratio", type=share, default=0.1, help="share of each identity's images held out")
    add("--cache", choices=("auto", "ram", "disk", "none"), default="auto", help="where decoded images are kept")
    add("--cache-dir", type=Path, default=Path("data/cache"), help="folder of --cache disk")
    add("--skip-bad-images", action="store_true", help="leave out images that cannot be read, and say how many")
    add("--workers", type=count, default=decoders(), help="threads or processes that decode images")

    add = parser.add_argument_group("network").add_argument
    add("--model", choices=sorted(NAMES), help=f"architecture (default: that of --weights, else {otherwise})")
    add("--last-stride", type=int, choices=(1, 2), default=1, help="of ResNets and MobileNet, last stage")
    add("--pooling", choices=("avg", "gem"), default="avg", help="pooling of ResNets and MobileNet")
    add("--neck", choices=("none", "bn"), default="none", help="batch normalisation after it, in the same networks")
    add(
        "--weights",
        metavar="FILE|imagenet|drawn",
        help="start from these instead of random ones; drawn: the network in weights/",
    )
    add("--teacher", type=Path, metavar="FILE", help="learn from this checkpoint's vectors and classes as well")
    add("--teacher-weight", type=from_zero, default=1.0, help="what they count beside the other losses")
    add("--freeze-layers", action="store_true", help="train the classifier alone; all else stays as it is")

    add = parser.add_argument_group("run").add_argument
    add("--output", type=Path, default=Path("checkpoint"), help="folder for checkpoints, history and curves")
    add("--overwrite", action="store_true", help="replace the run that --output holds")
    add("--resume", nargs="?", const=True, metavar="FILE", help="go on from last.pth in --output, or from FILE")
    add(
        "--epochs",
        type=positive,
        default=40,
        help="passes over the training images; without the flag, more of them in very small sets",
    )
    add("--seed", type=count, default=0, help="seed of split, weights, order and augmentation")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    add("--gpu_id", type=count, default=0, help="which GPU, when there are several")
    add("--eval-interval", type=count, default=0, help="epochs between rank-1/mAP tests; 0: about five a run")
    add("--save-interval", type=count, default=0, help="also save last.pth every so many steps; 0: each epoch only")
    add(
        "--log-interval",
        type=positive,
        default=10,
        help="steps between readings of a GPU's loss and accuracy",
    )
    add("--compile", action="store_true", help="compile the network with torch.compile: slow start, faster steps")
    add(
        "--cuda-graph",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="have a GPU repeat the whole step by itself, for small images, where Python is slow; not yet tried on one",
    )
    add("--accumulate", type=positive, default=1, help="run each batch in so many parts, to save memory")

    add = parser.add_argument_group("recipe (defaults by recipe below)").add_argument
    add("--recipe", choices=sorted(recipe.RECIPES), default="default", help="named set of the flags that follow")
    add(
        "--amp",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="arithmetic; auto: bf16 where faster, or a GPU has it, else fp32 (TF32 on GPUs); fp16 waits each step",
    )
    add("--batch_size", type=positive, help="images per step, over all processes")
    help = (
        "highest learning rate, for the whole batch of all processes; without the flag, a quarter of the recipe's for "
    )
    help += "--weights that know people, and four times as high for osnet_x0_25 with a --teacher"
    add("--lr", type=from_zero, help=help)
    add("--lrf", type=share, help="last learning rate as a share of --lr, reached by a cosine")
    add("--warmup", type=share, help="share of all steps in which the learning rate rises linearly")
    add("--optimizer", choices=("muon", "adamw", "sgd"), help="Muon with AdamW, AdamW, or SGD with momentum 0.9")
    add("--weight-decay", type=from_zero, help="weight decay of weight matrices and kernels")
    add("--clip", type=from_zero, help="largest gradient norm; 0: not clipped")
    add("--ema", type=share, help="decay of the weights' moving average, which is then saved; 0: none")
    add(
        "--keep-start",
        type=share,
        help="share of --weights in the saved weights: few identities teach a correction only",
    )
    add("--sampler", choices=("shuffle", "balanced"), help="balanced: P identities x K images a batch")
    add("--images-per-identity", type=positive, default=4, help="the K of --sampler balanced")
    add("--label-smoothing", type=share, help="probability taken from the right class")
    add("--classifier-weight", type=from_zero, help="weight of the classifier's cross-entropy")
    add(
        "--metric-loss",
        type=metric_loss,
        metavar="NAMES",
        help=f"losses on the features, joined by +: {', '.join(METRIC_LOSSES)}; or none",
    )
    add("--metric-weight", type=from_zero, help="weight of --metric-loss")
    add("--scale", type=from_zero, help="scale of the cosine and arcface losses")
    add("--margin", type=from_zero, help="margin of cosine, arcface and triplet (0: the soft-margin triplet)")
    add("--flip", type=share, help="probability of mirroring an image")
    add("--pad", type=share, help="random crop from the image padded by this share of its size")
    add("--jitter", type=share, help="strength of brightness, contrast and saturation changes")
    add("--erase", type=share, help="probability of erasing a rectangle")
    add("--progressive", action=argparse.BooleanOptionalAction, help="start at a quarter of the size, then half, 3/4")
    help = "measure BatchNorm's statistics on mixed batches, in the last fifth of the epochs"
    add("--precise-bn", action=argparse.BooleanOptionalAction, help=help)
    return parser


def _recipe_table() -> str:
    names = sorted(recipe.RECIPES)
    lines = ["recipes:", f"  {'flag':<22}" + "".join(f"{name:>16}" for name in names)]
    for flag in recipe.RECIPES["default"]:
        spelled = flag if flag == "batch_size" else flag.replace("_", "-")
        lines.append(f"  --{spelled:<20}" + "".join(f"{_in_table(name, flag):>16}" for name in names))
    lines += ["  auto: chosen for the data and the starting weights; the value is printed when training starts"]
    return "\n".join(lines)


def _in_table(name: str, flag: str) -> str:
    return "auto" if name == "default" and flag in recipe.CHOSEN else str(recipe.RECIPES[name][flag])


def _number(kind, text: str, fits, wanted: str):
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and fits(value)):
        raise argparse.ArgumentTypeError(f"{text} is not {wanted}")
    return value


def positive(text: str) -> int:
    return _number(int, text, lambda value: value > 0, "a whole number above 0")


def count(text: str) -> int:
    return _number(int, text, lambda value: value >= 0, "a whole number from 0 up")


def share(text: str) -> float:
    return _number(float, text, lambda value: 0 <= value < 1 or value == 1, "a number from 0 to 1")


def from_zero(text: str) -> float:
    return _number(float, text, lambda value: value >= 0, "a number from 0 up")


def metric_loss(text: str) -> str:
    try:
        metric_losses(text)
    except ValueError:
        known = ", ".join(METRIC_LOSSES)
        raise argparse.ArgumentTypeError(f"{text} is not none, nor one or more of {known} joined by +") from None
    return text
