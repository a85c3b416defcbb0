"""Train the appearance network: `python train.py [--data-dir ROOT]`, or on several GPUs through `train_multiGPU.py`.

The network turns the crop of a person into a vector; a tracker compares vectors by their cosine. Training makes the
vectors of one identity similar and those of different identities dissimilar (`ReIDLoss`). Rank-1 and mAP measure how
well this generalises to people that were not in the training set.

The default recipe (`appearance/training/recipe.py` has all values with flags and sources):

    batch         up to 64 images: P identities x K = 4 images each, so that each image has positives and negatives
    augmentation  horizontal flip, shift by up to 8 %, brightness, contrast and saturation, random erasing
    loss          0.5 CE(classifier(v), identity) + CE(20 cos(v, w), identity) + softplus(|v - p| - |v - n|)
                  v: vector, w: a learned unit vector per identity, p: its farthest positive, n: its nearest negative
    optimizer     Muon for the kernels, AdamW for the rest; gradient norm clipped to 5
    schedule      learning rate: linear warm-up to 0.002 in 10 % of the steps, then a cosine down to 1 % of it
                  image size: with 12 epochs or more 2 at 32x16, 5 at 64x32, 3 at 96x48, the rest at 128x64
    validation    after each epoch: loss and accuracy on held-out images of the training identities; best.pth is chosen
                  by them. About five times per run: rank-1 and mAP on query and gallery, which do not affect training

Writes to the output folder: `best.pth` (for testing and trackers), `last.pth` (for `--resume`), `history.csv` and
`curves.png`.
"""

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from appearance import cli
from appearance.cli import InputError, RunFailed
from appearance.data import batches, prepare
from appearance.data.augment import Augment, normalize
from appearance.distributed import World, no_sync, single_process
from appearance.failures import explained_failures
from appearance.files import claimed
from appearance.measure import embed, features_file, protocols
from appearance.networks import checkpoints, inference
from appearance.networks.im2col import use_im2col
from appearance.networks.precision import autocast
from appearance.training import losses, messages, resume, schedule, starting
from appearance.training.batch_norm import measure_batch_norm
from appearance.training.flags import get_args_parser
from appearance.training.measurements import Measurements
from appearance.training.optimizer import build_optimizer
from appearance.training.recipe import Facts, Recipe, choose_recipe
from appearance.training.run import Run, metadata
from appearance.training.teacher import Teacher
from appearance.training.totals import Totals
from datasets import PersonImages, split_validation
from model import build_model, from_checkpoint
from utils import seed_everything


class ReIDLoss(nn.Module):
    """The network with the losses that train it, in one module so that DistributedDataParallel synchronises both.

    The sum of:

    * classification: cross-entropy of the network's own classifier, which is discarded after training;
    * cosine: cross-entropy over the cosines between the vector and one learned unit vector per identity;
    * triplet: the distance to the hardest positive in the batch against the distance to the hardest negative;
    * circle (optional): a similar loss over all pairs;
    * distillation, with a teacher: match its cosines between the images of the batch and, if it was trained on the
      same identities, its class probabilities.

    Args:
        net: a network of `model.build_model`.
        num_classes: training identities.
        recipe: weights, margin and label smoothing; `metric_loss` names the losses on the vectors.
        teacher: a trained network to distil from.
    """

    def __init__(self, net: nn.Module, num_classes: int, recipe: Recipe, teacher: Teacher | None = None):
        super().__init__()
        self.net, self.recipe, self.teacher = net, recipe, teacher
        self.names = losses.metric_losses(recipe.metric_loss)
        if "cosine" in self.names:
            self.cosine = losses.CosineSoftmax(net.feature_dim, num_classes, margin=recipe.margin)
        if recipe.freeze_layers:
            for name, parameter in net.named_parameters():
                parameter.requires_grad = name.startswith(net.classifier_prefix)

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) normalised images, (B,) labels -> scalar loss, (B, C) logits."""
        recipe = self.recipe
        if self.teacher:
            teacher_vectors, teacher_logits = self.teacher(images)  # (B, D'), (B, C) or None
        features = self.net.embed(images)  # (B, 3, H, W) -> (B, D), not normalised
        logits = self.net.classify(features)  # (B, D) -> (B, C)
        loss = recipe.classifier_weight * losses.classification(logits, labels, recipe.label_smoothing)
        # The losses on vectors run in float32 under any autocast: bfloat16 puts errors of 1 % into their gradients.
        # Each normalises the vectors itself.
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            if "cosine" in self.names:
                loss = loss + self.cosine(features, labels, recipe.label_smoothing)
            if "triplet" in self.names:  # no margin: the soft-margin triplet
                loss = loss + losses.batch_hard_triplet(features, labels, recipe.margin or None)
            if "circle" in self.names:
                loss = loss + losses.circle(features, labels)
            if self.teacher:
                loss = loss + recipe.teacher_weight * losses.same_neighbours(features, teacher_vectors, labels)
                if teacher_logits is not None:
                    loss = loss + recipe.teacher_weight * losses.same_classes(logits.float(), teacher_logits)
        return loss, logits

    def train(self, mode: bool = True) -> "ReIDLoss":
        """As nn.Module.train, but frozen layers stay in eval mode, to keep their batch norm statistics."""
        super().train(mode)
        if self.recipe.freeze_layers:
            for name, child in self.net.named_children():
                child.train(mode and f"{name}.".startswith(self.net.classifier_prefix))
        return self


def train_step(model, images, labels, optimizer, scheduler, scaler, recipe) -> tuple[Tensor, Tensor]:
    """One update of the weights.

    Args:
        model: a `ReIDLoss`, possibly compiled or wrapped for several processes.
        images, labels: this process's part of the batch, (B, 3, H, W) augmented and (B,).
        scheduler: learning rate scheduler, advanced by one step.
        scaler: gradient scaler of fp16.

    Returns:
        mean loss and number of correctly classified images, float64 scalars on the device (no host sync).
    """
    loss_sum = correct = 0.0
    parts = min(recipe.accumulate, len(labels) // 2)  # batch norm needs at least two images
    for number, (part, part_labels) in enumerate(
        zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
    ):
        last = number + 1 == parts  # its backward averages the gradients over the processes
        with nullcontext() if last else no_sync(model):
            with autocast(images.device, recipe.amp):
                loss, logits = model(part, part_labels)  # scalar, (B / parts, C)
            share = len(part_labels) / len(labels)
            scaler.scale(loss * share).backward()
        loss_sum = loss_sum + loss.detach().double() * share
        correct = correct + (logits.detach().argmax(1) == part_labels).sum().double()
    if recipe.clip:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    scheduler.step()
    return loss_sum, correct


def train_one_epoch(model, optimizer, scheduler, scaler, feed: batches.Feed, augment: Augment, recipe, run: Run):
    """Train epoch `run.epoch`, after a resume only its remaining steps.

    `feed` yields uint8 images and labels on the device; `run` counts steps, saves and stops.
    """
    model.train()
    order = batches.order(recipe, feed.labels, run.epoch)  # (steps, B) image indices
    mine = feed.columns(order.shape[1])  # this process's part of each batch
    run.begin_epoch(feed.size, order)
    for step, (images, labels) in enumerate(feed(order[run.step :]), start=run.step):
        # Random numbers depend only on seed, epoch and step, so no random state has to be saved. Those of augmentation
        # are drawn for the whole batch, so that images are the same with any number of processes.
        torch.manual_seed(batches.seed_for(recipe.seed, run.epoch, step, 1 + run.world.rank))  # dropout
        draws = augment.draw(order.shape[1], *images.shape[-2:], batches.generator_for(recipe.seed, run.epoch, step))
        images = augment.apply(images, draws[mine])  # (B, 3, H, W) uint8 -> float32, normalised
        loss, correct = train_step(model, images, labels, optimizer, scheduler, scaler, recipe)
        run.end_step(loss, correct, len(labels))


@torch.inference_mode()
def validate(net: nn.Module, feed: batches.Feed, amp: str) -> dict[str, float]:
    """Accuracy and cross-entropy of the classifier on the held-out images, each scored once, as `val_acc`, `val_loss`.

    {} without held-out images.
    """
    if not len(feed.labels):
        return {}
    net, totals, world = inference.fuse_for_inference(net), Totals(feed.world), feed.world
    for number, rows in enumerate(embed.fixed_batches(len(feed.labels), 256)[world.rank :: world.size]):
        images, labels = feed.rows(rows)  # (B, 3, H, W) uint8, (B,)
        with autocast(world.device, amp):
            logits = net.classify(net.embed(normalize(images)))  # (B, 3, H, W) -> (B, D) -> (B, C)
        correct = (logits.argmax(1) == labels).sum().double()
        totals.add(number, losses.classification(logits, labels).double(), correct, len(labels))
    totals.reduce()
    assert totals.images == len(feed.labels)
    return totals.means("val")


def retrieval(
    net: nn.Module, query: PersonImages, gallery: PersonImages, world: World, workers: int
) -> dict[str, float]:
    """Rank-1 and mAP on query and gallery, as `test.py` and `evaluate.py` measure them; {} on ranks other than 0.

    Raises:
        RunFailed: the vectors are zero, NaN or infinite.
    """
    # qf (Q, D), gf (G, D), identities and cameras
    vectors = embed.test_features(net, query, gallery, world, workers=workers)
    if vectors is None:
        return {}
    try:
        metrics = protocols.metrics(features_file.check(vectors))
    except InputError:  # dead units
        raise RunFailed("the training collapsed: vectors are zero or NaN; start again with a lower --lr") from None
    return {"rank1": metrics["rank1"], "mAP": metrics["mAP"]}


@explained_failures("lower --batch_size, or run it in parts with --accumulate 2")
def main(args, world: World | None = None, default_arch: str = "net") -> None:
    """Train with the flags `args`; `default_arch` is the architecture without `--model` and `--weights`."""
    args, resumed, recipe = resume.find(args, world)
    world = world or single_process(args.device, args.gpu_id)
    if resumed and resumed.extra["epoch"] == recipe.epochs:
        world.say(messages.finished(resumed.path, recipe.epochs))
        return
    seed = recipe.seed if resumed else args.seed or 0
    seed_everything(seed)
    arch, start = (resumed.arch, None) if resumed else starting.starting_weights(args, default_arch)
    with claimed(args.output) if world.is_main else nullcontext():
        # The images; some of each identity are held out for validation.
        data = prepare.for_training(args, world)
        train_samples, held_out = split_validation(data.train, args.val_ratio, seed)
        if len(train_samples) < 2 * world.size:
            raise InputError(
                f"{data.root}: {len(train_samples)} training images are too few; at least {2 * world.size} are needed"
            )
        pids = data.train_pids()
        class_names = [data.names[pid] for pid in pids]
        feeds = batches.Feeds(PersonImages, train_samples, held_out, pids, args.cache, args.workers, world)

        # The network with its starting weights, and the teacher.
        options = resumed.model_options if resumed else starting.network_options(args, arch, start)
        net = use_im2col(build_model(arch, len(pids), **options))
        if start:
            world.say(checkpoints.load_pretrained(net, arch, start))
        teacher = Teacher(args.teacher, from_checkpoint, class_names, world.device) if args.teacher else None
        if teacher:
            world.say(teacher.description)

        # The recipe: all hyperparameters, with "auto" replaced for this data and this machine.
        facts = Facts.of(args, arch, start, len(train_samples), len(pids), world.size)
        world.say(messages.description(facts, len(held_out), world.device))
        reasons = {}
        if not resumed:
            measure = Measurements(
                net,
                feeds,
                lambda net, recipe: ReIDLoss(net, len(pids), recipe, teacher),
                train_step,
                tested=len(data.query) + len(data.gallery),
            )
            recipe, reasons = choose_recipe(args, facts, measure)
        steps = len(batches.order(recipe, feeds.labels, epoch=0))
        world.say(messages.plan(recipe, reasons, steps, facts, world.device))

        # The losses and the optimizer.
        objective = ReIDLoss(net, len(pids), recipe, teacher)
        if args.syncBN and world.device.type == "cuda":
            objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
        objective = objective.to(world.device, memory_format=torch.channels_last)
        optimizer, scheduler, scaler = build_optimizer(objective, recipe, steps)
        model = world.wrapped(objective, compile=args.compile, in_parts=recipe.accumulate > 1)
        augment = Augment(flip=recipe.flip, pad=recipe.pad, jitter=recipe.jitter, erase=recipe.erase)

        # The run, new or resumed.
        known = metadata(args, arch, options, class_names, data, resumed or start, world)
        parts = (objective, optimizer, scheduler, scaler)
        run = Run(args.output, recipe, world, *parts, known, train_samples, args.save_interval)
        if resumed:
            run.restore(resumed, data)
        feeds.at(schedule.image_size(recipe, run.epoch))  # decodes all images, so unreadable ones stop the run here
        if world.is_main and not resumed:
            resume.make_room(args.output, args.overwrite)
        with run:
            for epoch in range(run.epoch, recipe.epochs):
                size = schedule.image_size(recipe, epoch)  # height, width
                train_feed, val_feed = feeds.at(size)
                train_one_epoch(model, optimizer, scheduler, scaler, train_feed, augment, recipe, run)
                precise = schedule.is_precise(recipe, epoch)
                if precise:
                    measure_batch_norm(net, train_feed, augment, recipe, epoch)
                world.average_(run.batch_norm_statistics())
                saved = run.net_to_save()  # with --keep-start interpolated with the starting weights
                measured = validate(saved, val_feed, recipe.amp)
                if data.can_evaluate and schedule.is_test(recipe, epoch, args.eval_interval):
                    query, gallery = (feeds.images(samples, *size) for samples in (data.query, data.gallery))
                    measured |= retrieval(saved, query, gallery, world, args.workers)
                # The highest score becomes best.pth; it does not depend on query and gallery.
                score = (size[0] * size[1], precise, measured.get("val_acc", 0.0))
                run.end_epoch(measured, score)
    world.say(f"Done. Weights: {args.output / 'best.pth'}\n{messages.next_step(args, data)}")


if __name__ == "__main__":
    cli.run(main, get_args_parser())
