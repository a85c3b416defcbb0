"""Training recipes: named sets of flags, and the optimizer, schedules and resolutions that they describe."""

import math
from itertools import accumulate

import torch
from torch import Tensor, nn

from appearance.data import batches
from appearance.data.augment import Augment
from appearance.training.average import MovingAverage
from appearance.training.losses import Objective
from appearance.training.muon import Muon, learns_by_muon

# flag destination -> value; a flag given on the command line wins
RECIPES = {
    "default": {
        "amp": "auto",
        "batch_size": 64,
        "lr": 2e-3,
        "lrf": 0.01,
        "optimizer": "muon",
        "weight_decay": 0.05,
        "warmup": 0.1,
        "sampler": "balanced",
        "label_smoothing": 0.1,
        "metric_loss": "cosine+triplet",
        "metric_weight": 1.0,
        "classifier_weight": 0.5,
        "scale": 20.0,
        "margin": 0.0,
        "flip": 0.5,
        "pad": 0.08,
        "jitter": 0.2,
        "erase": 0.3,
        "ema": 0.0,
        "clip": 5.0,
        "progressive": True,
        "precise_bn": True,
        "keep_start": 0.0,
    },
    # the plain recipe of the well-known scripts, for comparison
    "deepsort": {
        "amp": "fp32",
        "batch_size": 32,
        "lr": 0.01,
        "lrf": 0.1,
        "optimizer": "sgd",
        "weight_decay": 5e-4,
        "warmup": 0.0,
        "sampler": "shuffle",
        "label_smoothing": 0.0,
        "metric_loss": "none",
        "metric_weight": 0.0,
        "classifier_weight": 1.0,
        "scale": 20.0,
        "margin": 0.0,
        "flip": 0.5,
        "pad": 4 / 128,
        "jitter": 0.0,
        "erase": 0.0,
        "ema": 0.0,
        "clip": 0.0,
        "progressive": False,
        "precise_bn": False,
        "keep_start": 0.0,
    },
}


# flags that `fit` and the starting weights decide in the default recipe, where they are not given
CHOSEN = ("batch_size", "progressive", "precise_bn", "keep_start")


def fill_in(args) -> None:
    """Set every flag of `args.recipe` that was not given on the command line."""
    for name, value in RECIPES[args.recipe].items():
        if name not in args.given:
            setattr(args, name, value)


ENOUGH_STEPS = 600  # up to here more steps gain more than larger batches do (docs/recipe.md)
OF_SMALL_STEPS = 1500  # for light networks, which learn less from a step, and for refining, whose rate is low
FEWEST_STEPS = 300  # or as many images in smaller batches; a small set is passed until then
TOO_FEW_STEPS = 100  # below, a network stays near chance
BATCHES = (128, 64, 32, 16)
LARGEST_BATCH = 64  # for one process: twice the steps gained more than 128, in 12 to 40 epochs (docs/recipe.md)
SMALL_BATCH = 32  # the smallest for large networks from nothing: 16 gain no more, in more time (docs/recipe.md)
FEW_IMAGES = 32  # of a batch, for a process; fewer are too alike for BatchNorm's statistics (docs/recipe.md)
LAST_EPOCHS = 0.2  # share of the epochs that end with statistics measured apart; the best one is then among them
FEW_PEOPLE = 30  # to refine a network with and keep nothing of it: by 10 it got worse, by 50 better (docs/drawn.md)
# times the learning rate, beside a teacher: narrow layers want more (Yang et al., "Tuning Large Neural Networks via
# Zero-Shot Hyperparameter Transfer", NeurIPS 2021: Adam's rate goes with one over the width). Without a teacher, from
# nothing, a network can die of it (docs/recipe.md)
NARROW = {"osnet_x0_25": 4.0}
REFINING = 0.25  # of the learning rate, for weights that tell people apart already
MOST_KEPT = 0.6  # of such weights, with a handful of people to refine them on; falling to
ENOUGH_PEOPLE = 150  # with whom nothing of them is kept (docs/drawn.md)
# equal error rates of the starting weights on the training images: up to the first they tell these identities apart
# (people: 0.10 to 0.14), from the second on they do not (cows: 0.39)
KNOWN, UNKNOWN = 0.2, 0.3


def fit(args, images: int, people: int, processes: int = 1, refining: bool = False) -> None:
    """Suit the default recipe to a set of so many training images of so many people; flags that were given, or resumed
    with, stay.

    The batch is the largest of `BATCHES` that leaves enough steps for the network, or the smallest, with 8 to 64 images
    for each process. A very small set is passed more often, and where steps are few, all of them are at the whole
    size. `refining` weights that tell people apart already takes a lower rate and the whole size throughout: at the
    full rate and small sizes they would first forget. The fewer the people, the larger the share of such weights that
    is kept in those that are saved.
    """
    if args.recipe != "default":
        return
    if "lr" not in args.given:
        args.lr *= rate_factor(args, refining)
    if refining and "keep_start" not in args.given:
        args.keep_start = round(MOST_KEPT * max(0.0, 1 - people / ENOUGH_PEOPLE), 2)
    smallest = max(8 * processes, 0 if by_small_steps(args.model, refining) else SMALL_BATCH)
    largest = largest_batch(processes)
    if "batch_size" not in args.given:
        args.batch_size = largest
    sizes = [size for size in BATCHES if size % processes == 0 and smallest <= size <= largest] or [args.batch_size]
    if "epochs" not in args.given:
        args.epochs = max(args.epochs, math.ceil(FEWEST_STEPS * max(SMALL_BATCH, sizes[-1]) / images))
    if "batch_size" not in args.given:
        steps = steps_before_size(args.model, refining)
        args.batch_size = next((size for size in sizes if args.epochs * images >= steps * size), sizes[-1])
    if "precise_bn" not in args.given:
        args.precise_bn = args.batch_size < FEW_IMAGES * processes
    if "progressive" not in args.given:
        args.progressive = not refining and args.epochs * images >= ENOUGH_STEPS * args.batch_size


def trust(error: float) -> float:
    """How far starting weights hold for identities that they tell apart with such an equal error rate, 0 to 1."""
    return min(1.0, max(0.0, (UNKNOWN - error) / (UNKNOWN - KNOWN)))


def rate_factor(args, refining: bool) -> float:
    """What the recipe's rate is multiplied by.

    Weights that know people are refined at a lower one, but not beside a teacher, who reminds of what they know.
    """
    if args.teacher:
        return NARROW.get(args.model, 1.0)
    return REFINING if refining else 1.0


def largest_batch(processes: int) -> int:
    """The largest batch that the default recipe takes, over all processes."""
    return min(BATCHES[0], LARGEST_BATCH * processes)


def steps_before_size(model: str | None, refining: bool = False) -> int:
    """Up to how many steps more of them gain more than larger batches do."""
    return OF_SMALL_STEPS if by_small_steps(model, refining) else ENOUGH_STEPS


def by_small_steps(model: str | None, refining: bool) -> bool:
    """Whether a step teaches little, so that many of few images are wanted: light networks, and low rates."""
    return refining or (model is not None and model.startswith(("osnet", "mobilenet")))


def explanation(
    args, steps: int, people: int, processes: int = 1, refining: bool = False, resumed: bool = False
) -> str:
    """What is chosen for a run of so many steps, and why; or a warning that they, or the people, are too few."""
    kept = ""
    if args.keep_start:
        kept = (
            f"\n  few identities: saved weights are {args.keep_start:.0%} starting + {1 - args.keep_start:.0%} trained "
        )
        kept += "(--keep-start 0 turns this off)"
    if steps < TOO_FEW_STEPS:
        return f"warning: {steps} steps are too few to learn from; give more --epochs or a smaller --batch_size{kept}"
    if resumed:
        why = "as before"
    elif "batch_size" in args.given:
        why = "as given"
    elif args.recipe == "default" and args.batch_size < largest_batch(processes):
        most = steps_before_size(args.model, refining)
        why = f"small, because up to {most:,} more steps count for more than larger batches"
    else:
        why = "all that the recipe takes"
    size = (args.height, args.width)
    whole = sum(resolution(args, epoch) == size for epoch in range(args.epochs))
    which = "all epochs" if whole == args.epochs else "the last epoch" if whole == 1 else f"the last {whole} epochs"
    factor = rate_factor(args, refining) if args.recipe == "default" and "lr" not in args.given else 1.0
    why_rate = "low because the weights know people already" if factor < 1 else "high because the network is narrow"
    rate = f", rate {args.lr:g}, {why_rate}" if factor != 1 else ""
    few = "\n  note: few people to refine on; it may know others less well than before: test it before and after"
    told = f"batches of {args.batch_size}, {why}: {steps:,} steps, {which} at {size[0]}x{size[1]}{rate}"
    if args.precise_bn:
        told += ", BatchNorm's statistics measured apart"
    return told + kept + (few if refining and people < FEW_PEOPLE and not args.keep_start else "")


def order(args, labels: Tensor, epoch: int) -> Tensor:
    """(steps, B) int64: which training images, with such labels (N,), each step of an epoch takes."""
    if args.sampler == "balanced":
        return batches.balanced_order(labels, args.batch_size, args.images_per_identity, args.seed, epoch)
    return batches.shuffled_order(len(labels), args.batch_size, args.seed, epoch)


def augmentation(args) -> Augment:
    return Augment(flip=args.flip, pad=args.pad, jitter=args.jitter, erase=args.erase)


def objective(args, net: nn.Module, num_classes: int) -> Objective:
    """The losses on the network's features and logits."""
    return Objective(
        net,
        num_classes,
        smoothing=args.label_smoothing,
        metric_loss=args.metric_loss,
        metric_weight=args.metric_weight,
        classifier_weight=args.classifier_weight,
        scale=args.scale,
        margin=args.margin,
        teacher_weight=args.teacher_weight,
    )


def optimizer(args, objective: nn.Module) -> torch.optim.Optimizer:
    """Muon, AdamW, or SGD with momentum 0.9; no weight decay on biases and normalisation, which have one dimension."""
    trained = [p for p in objective.parameters() if p.requires_grad]
    by_muon = [p for p in trained if args.optimizer == "muon" and learns_by_muon(p)]
    others = [p for p in trained if args.optimizer != "muon" or not learns_by_muon(p)]
    groups = [
        {"params": by_muon, "weight_decay": args.weight_decay, "muon": True},
        {"params": [p for p in others if p.ndim > 1], "weight_decay": args.weight_decay, "muon": False},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "muon": False},
    ]
    groups = [group for group in groups if group["params"]]
    fused = all(p.device.type in ("cuda", "cpu") for p in trained)
    if args.optimizer == "muon":
        return Muon(groups, args.lr, fused=fused)
    if args.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=args.lr, fused=fused)
    # the fused kernel would leave the momentum as it found the memory, where fp16's first step overflows
    return torch.optim.SGD(groups, lr=args.lr, momentum=0.9, fused=fused and args.amp != "fp16")


def lr_factors(args, steps_per_epoch: int) -> list[float]:
    """What `--lr` is multiplied by at each step: a linear warm-up, then a cosine down to `--lrf`.

    The warm-up is a share of the steps. The cosine runs over their cost: falling by steps, the rate would be near its
    end before the network first sees the size that it is made for.
    """
    sizes = [resolution(args, epoch) for epoch in range(args.epochs)]
    costs = [cost(*size) for size in sizes for _ in range(steps_per_epoch)]
    rising = round(args.warmup * len(costs))
    falling = list(accumulate(costs[rising:]))
    up = [(step + 1) / rising for step in range(rising)]
    return up + [args.lrf + (1 - args.lrf) * (1 + math.cos(math.pi * done / falling[-1])) / 2 for done in falling]


# share of height and width -> share of the growing epochs that are left when its stage ends
STAGES = {0.75: 0.2, 0.5: 0.4, 0.25: 0.85}
GROWING_EPOCHS = 12  # at most: in many more the people are learned by heart before the whole size (docs/recipe.md)
SMALLEST_SIDE = 16  # pixels; less leaves too little of a person


def resolution(args, epoch: int) -> tuple[int, int]:
    """Height and width that epoch `epoch` (from 0) trains at.

    Few of the first `GROWING_EPOCHS` see a quarter of the height and width, nearly half of them half, the rest three
    quarters and the whole size, where a longer run stays; a shorter one shares its epochs out alike (progressive
    resizing; Touvron et al., "Fixing the train-test resolution discrepancy", NeurIPS 2019, is why the last epochs train
    at the size of testing). A stage that would be too small trains at the next size.
    """
    size = (args.height, args.width)
    growing = min(args.epochs, GROWING_EPOCHS)
    for factor, left in STAGES.items():
        smaller = tuple(8 * round(factor * side / 8) for side in (args.height, args.width))
        if args.progressive and min(smaller) >= SMALLEST_SIDE and growing - epoch > max(1, round(left * growing)):
            size = smaller
    return size


def settles(args, epoch: int) -> bool:
    """Whether epoch `epoch` (from 0) ends with BatchNorm's statistics measured apart; frozen ones stay."""
    last = args.epochs - epoch <= max(1, round(LAST_EPOCHS * args.epochs))
    return args.precise_bn and not args.freeze_layers and last


def cost(height: int, width: int) -> float:
    """What a step at this size counts for: its pixels."""
    return height * width


def weight_average(net: nn.Module, decay: float) -> MovingAverage | None:
    """The moving average of the network's weights, or None with decay 0."""
    return MovingAverage(net, decay) if decay else None
