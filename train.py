"""Train the appearance network: `python train.py [--data-dir ROOT]`, or on several GPUs through `train_multiGPU.py`.

Each batch holds P identities with K images each. The network turns an image into a vector; the losses pull vectors of
one identity together and push those of others away (`ReIDLoss`). Only the vectors are used afterwards: a tracker
compares them by their cosine.

Leaves in the output folder: `best.pth` (for testing and trackers), `last.pth` (for `--resume`), `history.csv` and
`curves.png`.
"""

import copy
from contextlib import nullcontext
from functools import partial

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
from appearance.networks.convolve import take_products
from appearance.networks.precision import autocast
from appearance.training import losses, messages, resume, schedule, starting
from appearance.training.batch_norm import measure_batch_norm
from appearance.training.flags import get_args_parser
from appearance.training.measurements import Measurements
from appearance.training.optimizer import build_optimizer
from appearance.training.recipe import Facts, Recipe, choose_recipe
from appearance.training.run import Run, about
from appearance.training.teacher import Teacher
from appearance.training.totals import Totals
from datasets import PersonImages, split_validation
from model import HAVE_OPTIONS, build_model, from_checkpoint
from utils import seed_everything


class ReIDLoss(nn.Module):
    """The network and the losses that train it, in one module so that DistributedDataParallel synchronises both.

    The sum of:

    * `classification`: cross-entropy of the network's own classifier, which is of no use after training;
    * `cosine`: softmax over the cosines between the vector and one learned unit vector per identity;
    * `triplet`: for each image, the farthest one of its identity against the nearest one of another, in the batch;
    * `circle`: the same idea over all pairs, instead of or beside the triplet (an option);
    * distillation, with a teacher: its cosines between the images of a batch, and its classes.

    Args:
        net: a network of `model.build_model`.
        num_classes: training identities.
        recipe: weights, margin and label smoothing; `metric_loss` names the losses on the vectors.
        teacher: another, trained network.
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
        features = self.net.embed(images)  # (B, 3, H, W) -> (B, D)
        logits = self.net.classify(features)  # (B, D) -> (B, C)
        loss = recipe.classifier_weight * losses.classification(logits, labels, recipe.label_smoothing)
        # cosines and distances in float32, whatever the network runs in: bfloat16 has errors of 1 % in their gradients
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            if "cosine" in self.names:
                loss = loss + self.cosine(features, labels, recipe.label_smoothing)
            if "triplet" in self.names:
                loss = loss + losses.batch_hard_triplet(features, labels, recipe.margin or None)
            if "circle" in self.names:
                loss = loss + losses.circle(features, labels)
            if self.teacher:
                loss = loss + recipe.teacher_weight * losses.same_neighbours(features, teacher_vectors, labels)
                if teacher_logits is not None:
                    loss = loss + recipe.teacher_weight * losses.same_classes(logits.float(), teacher_logits)
        return loss, logits

    def train(self, mode: bool = True) -> "ReIDLoss":
        """As ever; but frozen layers stay in eval mode, so that their batch norm statistics stay as well."""
        super().train(mode)
        if self.recipe.freeze_layers:
            for name, child in self.net.named_children():
                child.train(mode and f"{name}.".startswith(self.net.classifier_prefix))
        return self


def train_step(model, images, labels, optimizer, rates, scaler, recipe) -> tuple[Tensor, Tensor]:
    """One update of the weights.

    Args:
        model: a `ReIDLoss`, compiled or wrapped for several processes, or not.
        images, labels: this process's part of the batch, (B, 3, H, W) augmented and (B,).
        rates, scaler: steps the learning rate; scales fp16's gradients.

    Returns:
        mean loss and number of correctly classified images, as scalars on the device: nobody waits for them here.
    """
    loss_sum = correct = 0.0
    parts = min(recipe.accumulate, len(labels) // 2)
    for number, (part, part_labels) in enumerate(
        zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
    ):
        with no_sync(model) if number + 1 < parts else nullcontext():  # the last part's backward sums over processes
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
    rates.step()
    return loss_sum, correct


def train_one_epoch(model, optimizer, rates, scaler, feed: batches.Feed, augment: Augment, recipe: Recipe, run: Run):
    """The steps of an epoch that are still to do. `feed` delivers batches of uint8 images; `run` keeps the books."""
    model.train()
    order = batch_order(recipe, feed.labels, run.epoch)  # (steps, B) numbers of images
    own = feed.columns(order.shape[1])  # this process's part of each batch
    run.begin_epoch(feed.size, order)
    for step, (images, labels) in enumerate(feed(order[run.step :]), start=run.step):
        # all random numbers are functions of seed, epoch, step and rank: resuming needs no state of generators
        torch.manual_seed(batches.seed_for(recipe.seed, run.epoch, step, 1 + run.world.rank))  # dropout
        generator = batches.generator_for(recipe.seed, run.epoch, step)
        numbers = augment.draw(order.shape[1], *images.shape[-2:], generator)
        images = augment.apply(images, numbers[own])  # (B, 3, H, W) uint8 -> float32, normalised
        loss, correct = train_step(model, images, labels, optimizer, rates, scaler, recipe)
        run.end_step(loss, correct, len(labels))


def batch_order(recipe: Recipe, labels: Tensor, epoch: int) -> Tensor:
    """(steps, B) int64: which training images, with labels (N,), each step of an epoch takes."""
    if recipe.sampler == "balanced":
        return batches.balanced_order(labels, recipe.batch_size, recipe.images_per_identity, recipe.seed, epoch)
    return batches.shuffled_order(len(labels), recipe.batch_size, recipe.seed, epoch)


@torch.inference_mode()
def validate(net: nn.Module, feed: batches.Feed, amp: str) -> dict[str, float]:
    """Loss and accuracy of the classifier on the validation images, each scored exactly once; {} without any."""
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
    """Rank-1 and mAP on people that training never saw, as `test.py` measures them; {} on all processes but the first.

    Raises:
        RunFailed: the vectors cannot be compared.
    """
    found = embed.test_features(
        net, query, gallery, world, workers=workers
    )  # qf (Q, D), gf (G, D), identities, cameras
    if found is None:
        return {}
    try:
        metrics = protocols.figures(features_file.check(found))
    except InputError:  # units that have died
        raise RunFailed(
            "the network has died: vectors that it gives are zero or no numbers; start anew with a lower --lr"
        ) from None
    return {"rank1": metrics["rank1"], "mAP": metrics["mAP"]}


@explained_failures("lower --batch_size, or run it in parts with --accumulate 2")
def main(args, world: World | None = None, otherwise: str = "net") -> None:
    """Train as `args` say; `otherwise` is the network where neither `--model` nor `--weights` names one."""
    if world is None:
        args, resumed, recipe = resume.find(args)
        world = single_process(args.device, args.gpu_id)
    else:
        args, resumed, recipe = resume.find_together(args, world)
    if resumed and resumed.extra["epoch"] == recipe.epochs:
        world.say(messages.finished(resumed.path, recipe.epochs))
        return
    seed = recipe.seed if resumed else args.seed or 0
    seed_everything(seed)
    arch, start = (resumed.arch, None) if resumed else starting.starting_weights(args, otherwise)
    with claimed(args.output) if world.is_main else nullcontext():
        # The images. Some of each identity are held out for validation.
        data = prepare.for_training(args, world)
        train_samples, val_samples = split_validation(data.train, args.val_ratio, seed)
        if len(train_samples) < 2 * world.size:
            raise InputError(f"{data.root}: {len(train_samples)} training images are too few")
        pids = data.train_pids()
        class_names = [data.names[pid] for pid in pids]
        number = {pid: number for number, pid in enumerate(pids)}
        labels = torch.tensor([number[sample.pid] for sample in train_samples])  # (N,)
        feeds = batches.Feeds(PersonImages, train_samples, val_samples, pids, args.cache, args.workers, world)

        # The network, with its starting weights, and its teacher.
        options = resumed.model_options if resumed else network_options(args, arch, start)
        net = take_products(build_model(arch, len(pids), **options))
        if start:
            world.say(checkpoints.load_pretrained(net, arch, start))
        teacher = Teacher(args.teacher, from_checkpoint, class_names, world.device) if args.teacher else None
        if teacher:
            world.say(teacher.description)

        # The recipe: every number that trains.
        facts = Facts.of(args, arch, start, len(train_samples), len(pids), world.size)
        world.say(messages.description(facts, len(val_samples), world.device))
        reasons = {}

        def steps_of(recipe: Recipe) -> int:
            return len(batch_order(recipe, labels, epoch=0))

        if not resumed:
            trial = partial(trial_step, net, len(pids), teacher, world)
            tested = len(data.query) + len(data.gallery)
            measure = Measurements(
                net, world, train_samples, feeds.images, trial, steps_of, len(val_samples), tested, args.workers
            )
            recipe, reasons = choose_recipe(args, facts, measure)
        steps = steps_of(recipe)
        world.say(messages.plan(recipe, reasons, steps, facts, world.device))

        # What is trained, and what trains it.
        model = ReIDLoss(net, len(pids), recipe, teacher)
        if getattr(args, "syncBN", False) and world.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        model = model.to(world.device, memory_format=torch.channels_last)
        optimizer, rates, scaler = build_optimizer(model, recipe, steps)
        wrapped = world.wrapped(model, compile=args.compile, in_parts=recipe.accumulate > 1)
        augment = Augment(flip=recipe.flip, pad=recipe.pad, jitter=recipe.jitter, erase=recipe.erase)

        # The run: a new one, or one that goes on.
        known = about(args, arch, options, class_names, data, resumed or start, world)
        run = Run(args.output, recipe, world, model, optimizer, rates, scaler, known, train_samples, args.save_interval)
        if resumed:
            run.restore(resumed, data)
        feeds.at(schedule.image_size(recipe, run.epoch))  # names images that cannot be read
        if world.is_main and not resumed:
            resume.make_room(args.output, args.overwrite)
        with run:
            while run.epoch < recipe.epochs:
                size = schedule.image_size(recipe, run.epoch)
                train_feed, val_feed = feeds.at(size)
                train_one_epoch(wrapped, optimizer, rates, scaler, train_feed, augment, recipe, run)
                if schedule.is_precise(recipe, run.epoch):
                    measure_batch_norm(net, train_feed, augment, recipe, run.epoch)
                world.average_(run.statistics())
                saved = run.saved_net()
                measured = validate(saved, val_feed, recipe.amp)
                if data.can_evaluate and schedule.is_test(recipe, run.epoch, args.eval_interval):
                    query, gallery = (feeds.images(samples, *size) for samples in (data.query, data.gallery))
                    measured |= retrieval(saved, query, gallery, world, args.workers)
                run.end_epoch(measured)
    world.say(f"Done. Weights: {args.output / 'best.pth'}\n{messages.next_step(args, data)}")


def network_options(args, arch: str, start: checkpoints.Checkpoint | None) -> dict:
    """What `build_model` is told beside the architecture."""
    options = {}
    if arch in HAVE_OPTIONS:
        options = {"last_stride": args.last_stride, "pooling": args.pooling, "neck": args.neck}
    if start and start.model_options.get("truncated"):
        options["truncated"] = True
    return options


def trial_step(net: nn.Module, num_classes: int, teacher: Teacher | None, world: World, recipe: Recipe, size):
    """A function that makes one training step, on a copy of the network, of random images of (height, width) `size`."""
    model = ReIDLoss(copy.deepcopy(net), num_classes, recipe, teacher)
    model = model.to(world.device, memory_format=torch.channels_last)
    tools = build_optimizer(model, recipe, 1)
    model = world.wrapped(model).train()
    count = recipe.batch_size // world.size
    images = normalize(torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, device=world.device))
    labels = torch.arange(count, device=world.device) // recipe.images_per_identity % num_classes
    return lambda: train_step(model, images, labels, *tools, recipe)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
