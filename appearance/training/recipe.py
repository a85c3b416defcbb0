"""The recipe: all hyperparameters, defined once, chosen in one place, frozen for the run.

`Recipe` has a field for each setting, with its value in both named recipes, the help text and the source; the flags of
`train.py` and the table in `--help` are generated from it. `choose_recipe` replaces each "auto" by a value for the
data, the starting weights and the machine, and returns the reasons.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields

from appearance.cli import InputError
from appearance.flags import count, from_zero, positive, share
from appearance.networks.checkpoints import input_size
from appearance.training.losses import METRIC_LOSSES, metric_losses

AUTO = "auto"
RECIPES = ("deepsort", "default")


def loss_names(text: str) -> str:
    """Argument type of `--metric-loss`."""
    try:
        metric_losses(text)
    except ValueError:
        known = ", ".join(METRIC_LOSSES)
        raise argparse.ArgumentTypeError(f"{text} is neither none nor a list of {known} joined by +") from None
    return text


def setting(default, deepsort=None, *, type: Callable, help: str, source: str = "", choices: tuple = (), metavar=None):
    """A field of `Recipe`.

    Args:
        default: value in the default recipe; "auto": chosen by `choose_recipe`.
        deepsort: value in the deepsort recipe; None: the same.
        type: text -> value, as for argparse; `bool` for a switch.
        help: help text of the flag.
        source: its paper.
    """
    values = {"default": default, "deepsort": default if deepsort is None else deepsort}
    help = f"{help} ({source})" if source else help
    return field(metadata={"values": values, "type": type, "help": help, "choices": choices, "metavar": metavar})


@dataclass(frozen=True)
class Recipe:
    """All hyperparameters. The deepsort recipe is the plain one of the well-known scripts, for comparison."""

    # -- how long, on what
    epochs: int = setting(
        AUTO, 40, type=positive, help="passes over the training images; auto: 40, more for very small datasets"
    )
    batch_size: int = setting(
        AUTO, 32, type=positive, help="images per step, all processes together; auto: up to 64, fewer in short runs"
    )
    accumulate: int = setting(
        1,
        type=positive,
        help="split each batch into this many parts to save memory; triplets are mined within a part",
    )
    height: int = setting(
        AUTO, type=positive, help="input height in pixels; auto: in proportion to --width, else as --weights, else 128"
    )
    width: int = setting(
        AUTO, type=positive, help="input width in pixels; auto: in proportion to --height, else as --weights, else 64"
    )
    progressive: bool = setting(
        AUTO, False, type=bool, help="begin with images of a quarter, a half and 3/4 of the size; auto: in long runs"
    )
    amp: str = setting(
        AUTO,
        "fp32",
        type=str,
        choices=("fp32", "bf16", "fp16"),
        help="number format of the network; auto: bf16 if faster on this machine, else fp32 (TF32 on GPUs)",
    )
    sampler: str = setting(
        "balanced",
        "shuffle",
        type=str,
        choices=("shuffle", "balanced"),
        help="balanced: P identities x K images a batch",
        source="Hermans et al. 2017",
    )
    images_per_identity: int = setting(4, type=positive, help="the K of --sampler balanced")
    # -- optimizer and learning rate
    optimizer: str = setting(
        "muon",
        "sgd",
        type=str,
        choices=("muon", "adamw", "sgd"),
        help="Muon with AdamW, AdamW, or SGD with momentum 0.9",
        source="Jordan et al. 2024",
    )
    lr: float = setting(
        AUTO,
        0.01,
        type=from_zero,
        help="highest learning rate, for the whole batch; auto: 0.002, when fine-tuning a re-ID network 0.0005, "
        "for osnet_x0_25 with a --teacher 0.008",
    )
    lrf: float = setting(
        0.01, 0.1, type=share, help="last learning rate as a share of --lr; the schedule between is a cosine"
    )
    warmup: float = setting(
        0.1, 0.0, type=share, help="share of all steps in which the learning rate rises linearly to --lr"
    )
    weight_decay: float = setting(0.05, 5e-4, type=from_zero, help="weight decay, of weight matrices and kernels only")
    clip: float = setting(5.0, 0.0, type=from_zero, help="clip the gradient norm to this; 0: no clipping")
    # -- losses
    classifier_weight: float = setting(0.5, 1.0, type=from_zero, help="weight of the classifier's cross-entropy")
    label_smoothing: float = setting(
        0.1, 0.0, type=share, help="label smoothing of the classifier's cross-entropy", source="Szegedy et al. 2016"
    )
    metric_loss: str = setting(
        "cosine+triplet",
        "none",
        type=loss_names,
        metavar="NAMES",
        help=f"losses on the vectors, joined by +: {', '.join(METRIC_LOSSES)}; or none",
    )
    margin: float = setting(
        0.0, type=from_zero, help="margin of cosine and triplet loss; 0: none for cosine, soft margin for triplet"
    )
    teacher_weight: float = setting(1.0, type=from_zero, help="weight of the distillation losses with --teacher")
    # -- augmentation
    flip: float = setting(0.5, type=share, help="probability of mirroring an image")
    pad: float = setting(0.08, 4 / 128, type=share, help="pad by this share of the image size, then crop at random")
    jitter: float = setting(0.2, 0.0, type=share, help="strength of brightness, contrast and saturation changes")
    erase: float = setting(0.3, 0.0, type=share, help="probability of erasing a rectangle", source="Zhong et al. 2020")
    # -- the weights
    precise_bn: bool = setting(
        AUTO,
        False,
        type=bool,
        help="measure batch norm statistics on mixed batches in the last fifth of the epochs; auto: with small batches",
        source="Wu and Johnson 2021",
    )
    keep_start: float = setting(
        AUTO,
        0.0,
        type=share,
        help="share of --weights in the saved weights; auto: up to 0.6 with few identities, 0 with many",
        source="Wortsman et al. 2022",
    )
    freeze_layers: bool = setting(False, type=bool, help="train the classifier only")
    seed: int = setting(0, type=count, help="seed of split, weights, order and augmentation")


SETTINGS = {one.name: one.metadata for one in fields(Recipe)}


def flag(name: str) -> str:
    """The flag of a setting as it is written in --help."""
    return "--batch_size" if name == "batch_size" else "--" + name.replace("_", "-")


def saved_recipe(values) -> Recipe:
    """The recipe from a dict of settings in a file.

    Raises:
        ValueError: a setting is missing, unknown or invalid.
    """
    if not isinstance(values, dict) or values.keys() != SETTINGS.keys():
        raise ValueError("settings are missing or unknown")
    for name, value in values.items():
        one = SETTINGS[name]
        try:
            valid = isinstance(value, bool) if one["type"] is bool else one["type"](str(value)) == value
        except argparse.ArgumentTypeError as error:
            raise ValueError(str(error)) from None
        if not valid or (one["choices"] and value not in one["choices"]):
            raise ValueError(f"invalid {name} {value!r}")
    return Recipe(**values)


# ---------------------------------------------------------------------------------------------------------------------
# Constants of the choice, with the evidence; more in results/length.csv, teacher.csv and people.csv.

EPOCHS = 40  # the longest tested; mAP with 250 people: 41.0 after 12 epochs, 44.1 after 20, 45.6 after 40
LR = 2e-3  # for Muon; compared with 4e-3 and 1e-3 in 12 epochs
FEWEST_STEPS = 300  # of 32 images, for very small datasets: 28 faces were nearly solved in 315
ENOUGH_STEPS = 600  # in shorter runs, more small steps gain more than larger batches or progressive resizing
ENOUGH_SMALL_STEPS = 1500  # the same for light networks and low rates: OSNet has mAP 69.3 with batch 16, 56.5 with 32
TOO_FEW_STEPS = 100  # runs of 70 to 100 steps on 760 images stayed near chance
BATCHES = (128, 64, 32, 16)
LARGEST_BATCH = 64  # per process; batch 128 lost 3 points of mAP in 40 epochs, 3.5 at 128x64
SMALLEST_BATCH = 32  # for large networks from scratch; 16 was no better and a fifth slower
FEWEST_IN_PROCESS = 8  # images per process: two identities of four; not measured
FEW_IN_PROCESS = 32  # images per process below which precise batch norm helps: 2 to 3 points of mAP at 16, 0 at 32
FINE_TUNING = 0.25  # times LR; at the full rate the network first loses what it has learned
# times LR, with a teacher: narrow layers need more (Yang et al., "Tuning Large Neural Networks via Zero-Shot
# Hyperparameter Transfer", NeurIPS 2021). Without a teacher, training from scratch collapsed at this rate.
NARROW = {"osnet_x0_25": 4.0}
MOST_KEPT = 0.6  # largest --keep-start; with 0, fine-tuning on 10 people made the network worse on everyone else
ENOUGH_PEOPLE = 150  # --keep-start is 0 from here on: training on 250 people helped more than it hurt
# equal error rates of the starting weights: full --keep-start up to KNOWN, 0 from UNKNOWN on. Measured 0.10 to 0.14 on
# people, and 0.39 on cows, where 0 was best
KNOWN, UNKNOWN = 0.2, 0.3
FEW_PEOPLE = 30  # fine-tuning on 10 people made the network worse on everyone else, on 50 people better


@dataclass(frozen=True)
class Facts:
    """Facts about data, network and processes that the choice depends on.

    Args:
        model: architecture.
        images, identities: number of training images and identities.
        processes: number of processes that share each batch.
        height, width: input size of the starting weights in pixels.
        fine_tuning: the starting weights are of a re-ID network, and all layers are trained.
    """

    model: str
    images: int
    identities: int
    processes: int = 1
    height: int = 128
    width: int = 64
    fine_tuning: bool = False

    @classmethod
    def of(cls, args, model: str, start, images: int, identities: int, processes: int) -> "Facts":
        """The facts of a run; `start`: the checkpoint of the starting weights, or None."""
        size = {"height": start.height, "width": start.width} if start else {}
        fine_tuning = bool(start) and start.knows_people and not args.freeze_layers
        return cls(model, images, identities, processes, fine_tuning=fine_tuning, **size)


def choose_recipe(args, facts: Facts, measure) -> tuple[Recipe, dict[str, str]]:
    """Choose the recipe of a new run: flags, else `args.recipe`, with every "auto" replaced.

    Args:
        args: parsed flags; None for settings that were not given.
        measure: `Measurements`, of which only the necessary ones are made: `precision(height, width)` -> fastest `amp`;
            `equal_error_rate(height, width)` of the starting weights, or None; `seconds(recipe)` of a run, for
            `--minutes`.

    Returns:
        the recipe, and {setting: reason} for automatic choices.

    Raises:
        InputError: the processes cannot share the batch size.
    """
    values = {name: one["values"][args.recipe] for name, one in SETTINGS.items()}
    values |= {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    reasons = {}

    given = (None if values[side] == AUTO else values[side] for side in ("height", "width"))
    size = values["height"], values["width"] = input_size(*given, (facts.height, facts.width))
    if values["amp"] == AUTO:
        values["amp"] = measure.precision(*size)
        reasons["amp"] = "faster than fp32 here" if values["amp"] == "bf16" else "bf16 is no faster here"
    if values["lr"] == AUTO:
        values["lr"], reasons["lr"] = _learning_rate(facts, bool(args.teacher))
    if values["keep_start"] == AUTO:
        values["keep_start"], reasons["keep_start"] = _share_to_keep(facts, lambda: measure.equal_error_rate(*size))

    def of_length(epochs: int) -> Recipe:
        return _of_length(epochs, values, facts, reasons)

    if args.minutes:
        epochs = _most_epochs(lambda epochs: measure.seconds(of_length(epochs)), 60 * args.minutes)
        seconds = measure.seconds(of_length(epochs))
        reasons["epochs"] = f"about {seconds / 60:.1f} of {args.minutes:g} minutes on this machine"
    elif values["epochs"] == AUTO:
        smallest = max(SMALLEST_BATCH, _batch_sizes(facts)[-1])
        epochs = max(EPOCHS, math.ceil(FEWEST_STEPS * smallest / facts.images))
        if epochs > EPOCHS:
            reasons["epochs"] = f"very small dataset: at least {FEWEST_STEPS} steps"
    else:
        epochs = values["epochs"]
    return of_length(epochs), {name: reason for name, reason in reasons.items() if reason}


def _learning_rate(facts: Facts, teacher: bool) -> tuple[float, str]:
    """(learning rate, reason). With a teacher the full rate does no harm: distillation preserves what was learned."""
    if teacher:
        factor = NARROW.get(facts.model, 1.0)
        return LR * factor, f"{factor:g} times the usual: narrow network with a teacher" if factor != 1 else ""
    if facts.fine_tuning:
        return LR * FINE_TUNING, "a quarter of the usual: fine-tuning a re-ID network"
    return LR, ""


def _share_to_keep(facts: Facts, equal_error_rate: Callable[[], float | None]) -> tuple[float, str]:
    """(`keep_start`, reason): larger with fewer identities, smaller if the starting weights do not work on them."""
    kept = round(MOST_KEPT * max(0.0, 1 - facts.identities / ENOUGH_PEOPLE), 2) if facts.fine_tuning else 0.0
    if not kept:
        return 0.0, ""
    error = equal_error_rate()
    if error is None:
        return kept, "few identities"
    kept = round(kept * trust(error), 2)
    if not kept:
        return kept, f"the starting weights do not recognise these identities: equal error rate {error:.0%}"
    return kept, f"few identities, which the starting weights recognise: equal error rate {error:.0%}"


def trust(error: float) -> float:
    """Trust in starting weights with this equal error rate: 1 up to KNOWN, falling to 0 at UNKNOWN."""
    return min(1.0, max(0.0, (UNKNOWN - error) / (UNKNOWN - KNOWN)))


def _of_length(epochs: int, values: dict, facts: Facts, reasons: dict) -> Recipe:
    """The recipe for this many epochs, which decide batch size, progressive resizing and precise batch norm."""
    values = values | {"epochs": epochs}
    images_seen, processes = epochs * facts.images, facts.processes
    if values["batch_size"] == AUTO:
        sizes, steps = _batch_sizes(facts), ENOUGH_SMALL_STEPS if _takes_small_steps(facts) else ENOUGH_STEPS
        values["batch_size"] = next((size for size in sizes if images_seen >= steps * size), sizes[-1])
        short = values["batch_size"] < _largest_batch(processes)
        why = "short runs learn more from many small steps" if short else "larger batches gave no gain"
        reasons["batch_size"] = why
    batch_size = values["batch_size"]
    if batch_size % processes or batch_size < 2 * processes:
        raise InputError(
            f"--batch_size {batch_size}: must be a multiple of the number of processes, {processes}, with at least two "
            "images per process"
        )
    if values["precise_bn"] == AUTO:
        values["precise_bn"] = batch_size < FEW_IN_PROCESS * processes
        reasons["precise_bn"] = "running statistics of small batches are noisy" if values["precise_bn"] else ""
    if values["progressive"] == AUTO:
        values["progressive"] = not facts.fine_tuning and images_seen >= ENOUGH_STEPS * batch_size
        reasons["progressive"] = "the first epochs learn as much from small images" if values["progressive"] else ""
    return Recipe(**values)


def _batch_sizes(facts: Facts) -> list[int]:
    """Batch sizes to choose from, divisible by the number of processes, largest first."""
    largest = _largest_batch(facts.processes)
    smallest = max(FEWEST_IN_PROCESS * facts.processes, 0 if _takes_small_steps(facts) else SMALLEST_BATCH)
    return [size for size in BATCHES if size % facts.processes == 0 and smallest <= size <= largest] or [largest]


def _largest_batch(processes: int) -> int:
    return min(BATCHES[0], LARGEST_BATCH * processes)


def _takes_small_steps(facts: Facts) -> bool:
    """Whether a step changes little (light networks, low rates), so that more, smaller steps are better."""
    return facts.fine_tuning or facts.model.startswith(("osnet", "mobilenet"))


def _most_epochs(seconds: Callable[[int], float], limit: float) -> int:
    """The largest number of epochs that takes at most `limit` seconds; at least 1."""
    low = 1
    while seconds(2 * low) <= limit:
        low *= 2
    high = 2 * low  # takes too long
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if seconds(middle) <= limit else (low, middle)
    return low
