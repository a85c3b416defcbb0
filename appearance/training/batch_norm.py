"""Precise batch norm statistics: re-estimated on shuffled batches after the training steps of an epoch."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from appearance.data import batches
from appearance.data.augment import Augment
from appearance.networks.precision import autocast

BATCH = 128  # images of random identities; training batches of few identities vary less than people do
BATCHES = 16  # at most, to bound the time on large datasets


@contextmanager
def measured_afresh(net: nn.Module) -> Iterator[nn.Module]:
    """Context that sets a network's batch norm statistics to the mean over the batches that run through it.

    Weights, momentum and train/eval modes are unchanged afterwards (Wu and Johnson, "Rethinking 'Batch' in BatchNorm",
    2021, section 3: precise statistics).
    """
    layers = [layer for layer in net.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    before = [(module, module.training) for module in net.modules()]
    momenta = [layer.momentum for layer in layers]
    net.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # cumulative mean
        layer.train()
    try:
        with torch.no_grad():
            yield net
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in before:
            module.training = training


def measure_batch_norm(net: nn.Module, feed: batches.Feed, augment: Augment, recipe, epoch: int) -> None:
    """Re-estimate batch norm statistics, in place, on shuffled batches of augmented training images.

    Args:
        feed: the training images.
        recipe, epoch: give seed, order and number format.
    """
    order = batches.shuffled_order(len(feed.labels), BATCH, recipe.seed, epoch)[:BATCHES]  # (steps, B)
    own = feed.columns(order.shape[1])
    with measured_afresh(net), autocast(feed.world.device, recipe.amp):
        for step, (images, _) in enumerate(feed(order)):
            numbers = augment.draw(order.shape[1], *images.shape[-2:], batches.generator_for(recipe.seed, epoch, step))
            net.embed(augment.apply(images, numbers[own]))
