"""What changes from epoch to epoch and from step to step: image size, learning rate, batch norm statistics."""

import math
from itertools import accumulate

# Progressive resizing: share of height and width -> share of the growing epochs that remain when its stage ends.
STAGES = {0.75: 0.2, 0.5: 0.4, 0.25: 0.85}
GROWING_EPOCHS = 12  # at most: longer training on small images overfits them
SMALLEST_SIDE = 16  # pixels; smaller images are too small to recognise anyone
PRECISE_EPOCHS = 0.2  # share of the epochs, the last ones, that end with precise batch norm statistics


def image_size(recipe, epoch: int) -> tuple[int, int]:
    """Height and width of the training images in epoch `epoch` (from 0).

    With `progressive`, a few of the first `GROWING_EPOCHS` train at a quarter of height and width, nearly half of them
    at half, the rest at three quarters and at full size; longer runs stay at full size. A stage whose images would be
    too small trains at the next size. The last epochs always train at the size of testing (Touvron et al., "Fixing the
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
    """What `recipe.lr` is multiplied by at each step: a linear warm-up, then a cosine down to `recipe.lrf`.

    The warm-up is a share of the steps. The cosine follows the number of pixels seen: if it followed steps, the
    rate would be nearly at its end before the first images of full size.
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
    """Whether query and gallery are tested after epoch `epoch` (from 0): the last one, and every `interval` before it.

    Args:
        interval: epochs; 0: about a fifth of the run.
    """
    return (recipe.epochs - epoch - 1) % (interval or max(1, round(recipe.epochs / 5))) == 0
