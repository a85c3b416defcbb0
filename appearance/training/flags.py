"""The command line of `train.py` and `train_multiGPU.py`; the recipe's flags are generated from `Recipe`."""

import argparse
from pathlib import Path

from appearance import cli
from appearance.cli import InputError
from appearance.flags import above_zero, count, share
from appearance.machine import decoders
from appearance.networks.architectures import ARCHITECTURES
from appearance.training.recipe import AUTO, RECIPES, SETTINGS, flag


class Switch(argparse.Action):
    """A flag with the forms `--name` and `--no-name`, and with `auto` also `--name auto`."""

    def __init__(self, option_strings, dest, auto: bool = False, **options):
        names = [*option_strings, *(f"--no-{name.removeprefix('--')}" for name in option_strings)]
        super().__init__(names, dest, nargs="?" if auto else 0, metavar=AUTO, **options)

    def __call__(self, parser, namespace, value, option=None):
        if value and (value != AUTO or option.startswith("--no-")):
            raise argparse.ArgumentError(self, f"{value}: the only possible value is auto (none after --no-...)")
        setattr(namespace, self.dest, value or not option.startswith("--no-"))


def get_args_parser(default_arch: str = "net") -> cli.ArgumentParser:
    """The flags of training; `default_arch` is the architecture without `--model` and `--weights`."""
    parser = cli.ArgumentParser(
        description="Train a re-ID network for a tracker; without --data-dir on the sample, which is drawn first.",
        epilog=_recipe_table(),
    )
    add = parser.add_argument_group("data").add_argument
    add(
        "--data-dir",
        type=Path,
        nargs="+",
        metavar="ROOT",
        help="dataset folders; several are joined into one (default: the sample dataset)",
    )
    add("--val-ratio", type=share, default=0.1, help="share of each identity's images held out for validation")
    add("--cache", choices=("auto", "ram", "disk", "none"), default="auto", help="where decoded images are kept")
    add(
        "--skip-bad-images",
        action="store_true",
        help="leave out unreadable images and print how many, instead of stopping",
    )
    add("--workers", type=count, default=decoders(), help="threads or processes that decode images")

    add = parser.add_argument_group("network").add_argument
    add(
        "--model", choices=sorted(ARCHITECTURES), help=f"architecture (default: that of --weights, else {default_arch})"
    )
    add("--last-stride", type=int, choices=(1, 2), default=1, help="stride of the last stage of ResNets and MobileNet")
    add("--pooling", choices=("avg", "gem"), default="avg", help="pooling of ResNets and MobileNet")
    add(
        "--neck",
        choices=("none", "bn"),
        default="none",
        help="bn: BatchNorm between pooling and classifier, for ResNets and MobileNet",
    )
    add(
        "--weights",
        metavar="FILE|imagenet|drawn",
        help="start from these weights; imagenet: torchvision's; drawn: the network in weights/",
    )
    add(
        "--teacher",
        type=Path,
        metavar="FILE",
        help="trained checkpoint whose vectors (and classes, if the identities are the same) are distilled",
    )

    add = parser.add_argument_group("run").add_argument
    add(
        "--output",
        type=Path,
        default=Path("checkpoint"),
        help="folder for best.pth, last.pth, history.csv and curves.png",
    )
    add("--overwrite", action="store_true", help="replace the run in --output")
    add(
        "--resume",
        nargs="?",
        const=True,
        metavar="FILE",
        help="continue a run: from last.pth in --output, or from FILE",
    )
    add("--minutes", type=above_zero, help="instead of --epochs: about as many as fit into this time on this machine")
    add("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: a GPU if there is one")
    add("--gpu_id", type=count, default=0, help="number of the GPU")
    add(
        "--eval-interval",
        type=count,
        default=0,
        help="epochs between tests of rank-1 and mAP; 0: about five tests in a run",
    )
    add("--save-interval", type=count, default=0, help="steps between saves of last.pth; 0: only after each epoch")
    add(
        "--compile",
        action="store_true",
        help="use torch.compile (on a GPU with CUDA graphs): a slow start, then faster steps",
    )

    add = parser.add_argument_group("recipe (defaults in the table below)").add_argument
    add("--recipe", choices=RECIPES, default="default", help="default: ours. deepsort: that of older scripts")
    for name, one in SETTINGS.items():
        auto = AUTO in one["values"].values()
        if one["type"] is bool:
            add(flag(name), action=Switch, auto=auto, help=one["help"])
            continue
        options = {"type": _or_auto(one["type"]) if auto else one["type"], "metavar": one["metavar"]}
        if one["choices"]:
            options["choices"] = (AUTO, *one["choices"]) if auto else one["choices"]
        add(flag(name), help=one["help"], **options)
    parser.set_defaults(syncBN=False)  # a flag of train_multiGPU.py
    return parser


def check(args) -> None:
    """Raises InputError if two flags contradict each other."""
    if args.minutes and args.epochs not in (None, AUTO):
        raise InputError(
            f"--minutes {args.minutes:g} --epochs {args.epochs}: both set the training time; give only one"
        )


def _or_auto(kind):
    def parse(text: str):
        return AUTO if text == AUTO else kind(text)

    return parse


def _recipe_table() -> str:
    lines = ["recipes:", f"  {'flag':<22}" + "".join(f"{name:>16}" for name in RECIPES)]
    for name, one in SETTINGS.items():
        lines.append(f"  {flag(name):<22}" + "".join(f"{one['values'][recipe]!s:>16}" for recipe in RECIPES))
    lines += ["  auto: chosen for data, starting weights and machine; train.py prints the value and the reason"]
    return "\n".join(lines)
