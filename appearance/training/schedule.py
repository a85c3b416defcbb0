"""Schedules: image size, learning rate, precise batch norm statistics and tests."""

import math
from itertools import accumulate

# Progressive resizing: fraction of height and width -> fraction of the growing epochs left when this stage ends.
STAGES = {0.75: 0.2, 0.5: 0.4, 0.25: 0.85}
GROWING_EPOCHS = 12  # at most; longer training on small images overfits them
SMALLEST_SIDE = 16  # pixels; smaller images are useless
PRECISE_EPOCHS = 0.2  # fraction of the epochs, at the end, with precise batch norm statistics


def image_size(recipe, epoch: int) -> tuple[int, int]:
    """(height, width) in pixels of the training images in epoch `epoch` (from 0).

    With `progressive`, the first `GROWING_EPOCHS` begin with 15 % of them at a quarter of height and width, then nearly
    half of them at half, then three quarters and full size. All later epochs are at full size. Stages with images
    below SMALLEST_SIDE are skipped. The last epochs always have the size of testing (Touvron et al., "Fixing the
    train-test resolution discrepancy", NeurIPS 2019).
    """
    size = (recipe.height, recipe.width)
    growing = min(recipe.epochs, GROWING_EPOCHS)
    for factor, left in STAGES.items():
        smaller = tuple(8 * round(factor * side / 8) for side in (recipe.height, recipe.width))
        if recipe.progressive and min(smaller) >= SMALLEST_SIDE and growing - epoch > max(1, round(left * growing)):
            size = smaller
    return size


def first_full_size_epoch(recipe) -> int:
    """The first epoch (from 0) that trains at full size."""
    full = (recipe.height, recipe.width)
    return next(epoch for epoch in range(recipe.epochs) if image_size(recipe, epoch) == full)


def lr_factors(recipe, steps_per_epoch: int) -> list[float]:
    """Factors of `recipe.lr`, one per step: linear warm-up, then a cosine down to `recipe.lrf`.

    The warm-up is a fraction of the steps. The cosine is over pixels, not steps: otherwise most of the decay would be
    over before the first full-size images.
    """
    sizes = [image_size(recipe, epoch) for epoch in range(recipe.epochs)]
    pixels = [height * width for height, width in sizes for _ in range(steps_per_epoch)]
    rising = round(recipe.warmup * len(pixels))
    falling = list(accumulate(pixels[rising:]))
    up = [(step + 1) / rising for step in range(rising)]
    return up + [recipe.lrf + (1 - recipe.lrf) * (1 + math.cos(math.pi * done / falling[-1])) / 2 for done in falling]


def is_precise(recipe, epoch: int) -> bool:
    """Whether epoch `epoch` (from 0) ends with precise batch norm statistics (`batch_norm.py`)."""
    last = recipe.epochs - epoch <= max(1, round(PRECISE_EPOCHS * recipe.epochs))
    return recipe.precise_bn and not recipe.freeze_layers and last


def is_test(recipe, epoch: int, interval: int = 0) -> bool:
    """Whether rank-1 and mAP are measured after epoch `epoch` (from 0): after the last, and every `interval` before it.

    Args:
        interval: epochs; 0: a fifth of the run.
    """
    return (recipe.epochs - epoch - 1) % (interval or max(1, round(recipe.epochs / 5))) == 0
