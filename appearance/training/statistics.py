"""BatchNorm's statistics, as a network is tested with them, measured apart from the training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from appearance.data import batches
from appearance.networks.precision import autocast
from appearance.training import recipe

BATCH = 128  # images of whoever comes: a batch of four people varies less than people do
BATCHES = 16  # at most, so that a large set costs no more than a small one


@contextmanager
def measured_afresh(net: nn.Module) -> Iterator[nn.Module]:
    """Forward passes within it make up the statistics of the network's BatchNorm layers: the mean over the batches.

    Nothing else about the layers changes: weights, momentum and modes are as before (Wu and Johnson, "Rethinking
    'Batch' in BatchNorm", 2021, section 3: precise statistics).
    """
    layers = [layer for layer in net.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    before = [(module, module.training) for module in net.modules()]
    momenta = [layer.momentum for layer in layers]
    net.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # PyTorch's cumulative mean
        layer.train()
    try:
        with torch.no_grad():
            yield net
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, training in before:
            module.training = training


def settle(training, epoch: int) -> None:
    """In the epochs where that is due, measure those of the trained network, on augmented images of whoever
    comes."""
    if not recipe.settles(training.args, epoch):
        return
    args, world, augment = training.args, training.world, training.learner.augment
    order = batches.shuffled_order(len(training.train_samples), BATCH, args.seed, epoch)[:BATCHES]
    mine = training.feed.columns(order.shape[1])
    with measured_afresh(training.learner.trained_net()) as net, autocast(world.device, args.amp):
        for step, (images, _) in enumerate(training.feed(order)):
            generator = batches.generator_for(args.seed, epoch, step)
            numbers = augment.draw(order.shape[1], *images.shape[-2:], generator)
            net.embed(augment.apply(images, numbers[mine]))
