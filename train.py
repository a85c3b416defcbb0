"""Train the appearance network: `python train.py [--data-dir ROOT]`, or on several GPUs through `train_multiGPU.py`.

Leaves in the output folder: `best.pth` (for testing and trackers), `last.pth` (for `--resume`), `history.csv` and
`curves.png`.
"""

import appearance.loading  # noqa: F401

import math
import time
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from appearance import cli
from appearance.cli import InputError
from appearance.data import batches, layouts, origin, pixels, ready
from appearance.data.augment import normalize
from appearance.data.images import Decoded
from appearance.faults import GracefulStop, explained_failures
from appearance.files import claimed
from appearance.measure import features_file, protocols
from appearance.measure.embed import features_of, fixed_batches, test_features
from appearance.networks import checkpoints
from appearance.networks.convolve import take_products
from appearance.networks.inference import fuse_for_inference
from appearance.networks.precision import autocast, fastest_precision
from appearance.training import graph, log, recipe, resume, starting, statistics
from appearance.training.flags import get_args_parser
from appearance.training.kept import KeptStart
from appearance.training.later import Later, snapshot
from appearance.training.losses import Objective, classification
from appearance.training.tally import Tally
from appearance.training.teacher import Teacher
from appearance.world import World
from datasets import PersonImages, split_validation
from model import HAVE_OPTIONS, build_model, from_checkpoint
from utils import seed_everything, single_process

SECONDS_BETWEEN_CURVES = 30


@explained_failures("lower --batch_size, or run it in parts with --accumulate 2")
def main(args, world: World | None = None, otherwise: str = "net") -> None:
    """Train as `args` say; `otherwise` is the network where neither `--model` nor `--weights` names one."""
    if world is None:
        resumed = resume.find(args)
        world = single_process(args.device, args.gpu_id)
    else:
        resumed = resume.agree(args, world)
    say = partial(print, flush=True) if world.is_main else (lambda *_: None)
    if resumed and resumed.extra["epoch"] >= args.epochs:
        say(resume.finished(args, resumed))
        return
    recipe.fill_in(args)
    graph.check(args, world)
    seed_everything(args.seed)
    start = None if resumed else checkpoints.starting_point(args, otherwise)
    with claimed(args.output) if world.is_main else nullcontext():
        data = ready.for_training(args, world, say)
        training = Training(args, world, data, say, start, resumed)
        say(log.description(training))
        training.load_pixels(recipe.resolution(args, training.epoch))  # names images that cannot be read
        if world.is_main and not resumed:
            resume.make_room(args)
        with GracefulStop() as stop, training.later:
            for epoch in range(training.epoch, args.epochs):
                training.train_epoch(epoch, stop)
                training.validate(epoch)
                training.finish_epoch()
    say(f"Done. Weights: {args.output / 'best.pth'}\n{log.next_step(training)}")


def build_network(args, num_classes: int, start: checkpoints.Checkpoint | None) -> tuple[nn.Module, dict]:
    """The network that `--model` and its flags name, and the options it was built with."""
    options = {}
    if args.model in HAVE_OPTIONS:
        options = {"last_stride": args.last_stride, "pooling": args.pooling, "neck": args.neck}
    if start and start.model_options.get("truncated"):
        options["truncated"] = True
    return take_products(build_model(args.model, num_classes, **options)), options


class Learner:
    """The network with its losses and its optimizer: one step at a time.

    Args:
        net: the network, with the weights it starts from.
        num_classes: training identities.
        lr_factors: what `--lr` is multiplied by at each step.
        teacher: another network whose vectors and classes it learns as well.
    """

    def __init__(
        self,
        args,
        world: World,
        net: nn.Module,
        num_classes: int,
        lr_factors: list[float],
        teacher: Teacher | None = None,
    ):
        self.args, self.world, self.lr_factors, self.teacher = args, world, lr_factors, teacher
        self.augment = recipe.augmentation(args)
        if args.freeze_layers:
            for name, parameter in net.named_parameters():
                parameter.requires_grad = name.startswith(net.classifier_prefix)
        objective = recipe.objective(args, net, num_classes)
        if getattr(args, "syncBN", False):
            objective = nn.SyncBatchNorm.convert_sync_batchnorm(objective)
        self.objective: Objective = objective.to(world.device, memory_format=torch.channels_last)
        self.net = self.objective.net
        self.average = recipe.weight_average(self.net, args.ema)
        self.kept = KeptStart(self.net, args.keep_start) if args.keep_start else None
        self.optimizer = recipe.optimizer(args, self.objective)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: self.lr_factor(step),  # a function: of other callables the scheduler saves the attributes
        )
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=args.amp == "fp16")
        # one graph for each image size, not one for all of them
        self.forward = torch.compile(self.objective, dynamic=False) if args.compile else self.objective
        self.forward = world.wrapped(self.forward)
        self.update = graph.StepGraph(self.on_device, self.optimizer) if args.cuda_graph else self.on_device

    def lr_factor(self, step: int) -> float:
        """Of a step counted from the start; the scheduler also asks for the one after the last."""
        return self.lr_factors[min(step, len(self.lr_factors) - 1)]

    def train_mode(self) -> None:
        self.objective.train()
        if self.args.freeze_layers:
            for name, child in self.net.named_children():
                if not f"{name}.".startswith(self.net.classifier_prefix):
                    child.eval()  # frozen means BatchNorm's statistics as well

    def step(self, images: Tensor, labels: Tensor, numbers) -> tuple[Tensor, Tensor]:
        """One update from (B, 3, H, W) uint8 images; the mean loss and the number of correct ones, on the device.

        They hold until the next step.
        """
        results = self.update(images, labels, numbers)
        self.scheduler.step()
        if self.average:
            self.average.n_averaged += 1
        return results

    def on_device(self, images: Tensor, labels: Tensor, numbers) -> tuple[Tensor, Tensor]:
        """All of a step that the device does."""
        args, world = self.args, self.world
        images = self.augment.apply(images, numbers)  # (B, 3, H, W) float32
        loss_sum = correct = 0.0
        parts = min(args.accumulate, len(labels) // 2)
        for number, (part, part_labels) in enumerate(
            zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
        ):
            waits = world.size > 1 and number + 1 < parts
            with self.forward.no_sync() if waits else nullcontext():
                with autocast(world.device, args.amp):
                    taught = self.teacher(part) if self.teacher else ()
                    loss, logits = self.forward(part, part_labels, *taught)
                share = len(part_labels) / len(labels)
                self.scaler.scale(loss * share).backward()
            loss_sum = loss_sum + loss.detach().double() * share
            correct = correct + (logits.detach().argmax(1) == part_labels).sum().double()
        if args.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.objective.parameters(), args.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update()
        return loss_sum, correct

    def trained_net(self) -> nn.Module:
        """The network as the training leaves it."""
        return self.average.module if self.average else self.net

    def usable_net(self) -> nn.Module:
        """The network that is tested and saved."""
        return self.kept.between(self.trained_net()) if self.kept else self.trained_net()

    def buffers(self) -> list[Tensor]:
        """BatchNorm's running statistics, each process's own until the end of an epoch."""
        modules = [self.objective, self.average] if self.average else [self.objective]
        return [buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point()]

    def synchronise_statistics(self) -> None:
        """Average them over the processes, so that all end with the same network."""
        if self.world.size > 1:
            for buffer in self.buffers():
                buffer.copy_(self.world.total(buffer) / self.world.size)


class Training:
    """A run: its images, the learner, and how far it has come."""

    def __init__(self, args, world: World, data: layouts.ReIDData, say, start=None, resumed=None):
        self.args, self.world, self.data, self.say = args, world, data, say
        self.train_samples, self.val_samples = split_validation(data.train, args.val_ratio, args.seed)
        self.pids = data.train_pids()
        self.class_names = [data.names[pid] for pid in self.pids]
        if len(self.train_samples) < 2 * world.size:
            raise InputError(f"{data.root}: {len(self.train_samples)} training images are too few")
        self.resumed = bool(resumed)
        self.refining = bool(start) and start.knows_people and not args.freeze_layers
        recipe.fit(args, len(self.train_samples), len(self.pids), world.size, self.refining)
        if args.batch_size % world.size or args.batch_size < 2 * world.size:
            raise InputError(
                f"--batch_size {args.batch_size}: must be a multiple of the {world.size} processes, "
                "with two images or more for each"
            )
        label = {pid: number for number, pid in enumerate(self.pids)}
        self.labels = torch.tensor([label[sample.pid] for sample in self.train_samples], dtype=torch.int64)
        self.trained_on = None
        if world.is_main:
            before = resumed or start
            earlier = origin.of_checkpoint(before.extra) if before else None
            self.trained_on = origin.describe(data, earlier, args.workers, args.data_dir or ())
        net, self.model_options = build_network(args, len(self.pids), start)
        if args.amp == "auto":
            fastest = fastest_precision(net, args.height, args.width, world.device)
            args.amp = world.broadcast(fastest)  # kept: a resumed run goes on with it
        if start:
            say(checkpoints.load_pretrained(net, args.model, start))
        self.decoded = Decoded(pixels.memory_for_images(args.cache, world))
        if args.keep_start and "keep_start" not in args.given:
            self.keep_what_holds(net)
        teacher = Teacher(args.teacher, from_checkpoint, self.class_names, world.device) if args.teacher else None
        if teacher:
            say(teacher.description)
        self.epoch, self.step = 0, 0  # done: whole epochs, and steps of the one under way
        self.history: list[dict] = []
        self.best: tuple[int, bool, float] = (0, False, -1.0)  # pixels, whether settled, accuracy
        self.size: tuple[int, int] | None = None  # height and width of the pixels at hand
        self.steps_per_epoch = len(recipe.order(args, self.labels, 0))
        factors = recipe.lr_factors(args, self.steps_per_epoch)
        self.learner = Learner(args, world, net, len(self.pids), factors, teacher)
        self.tally = Tally(world)
        self.later = Later()
        self.curves_drawn = -math.inf  # when
        if resumed:
            resume.restore(self, resumed)

    def keep_what_holds(self, net: nn.Module) -> None:
        """Lower the share of the starting weights that is kept, where these do not tell the new identities apart."""
        args = self.args
        some = starting.some_of_each(self.train_samples)
        images = PersonImages(some, args.height, args.width, loader=self.decoded)
        rows = features_of(net, images, self.world, workers=args.workers, desc="starting weights")
        error = self.world.broadcast(None if rows is None else starting.equal_error_rate(rows, some))
        if error is not None:
            args.keep_start = round(args.keep_start * recipe.trust(error), 2)
            known = "do not tell" if not args.keep_start else "tell"
            self.say(
                f"The starting weights {known} these identities apart: equal error rate {error:.0%} on "
                f"{len(some):,} training images"
            )

    def load_pixels(self, size: tuple[int, int]) -> None:
        """Have training and validation images at the size of the coming epoch, decoded once."""
        if self.size == size:
            return
        self.size, args = size, self.args

        def feed(samples) -> batches.Feed:
            people = PersonImages(samples, *size, self.pids, self.decoded)
            found = pixels.load_shared(people, args.cache, args.cache_dir, args.workers, self.world)
            return batches.Feed(people, found, self.world, args.workers)

        self.feed, self.validation = feed(self.train_samples), feed(self.val_samples)

    def train_epoch(self, epoch: int, stop: GracefulStop) -> None:
        """Steps `self.step` to the last one of an epoch."""
        args, world, learner = self.args, self.world, self.learner
        self.load_pixels(recipe.resolution(args, epoch))
        self.started, self.images_before = time.perf_counter(), self.tally.images
        learner.train_mode()
        order = recipe.order(args, self.labels, epoch)  # (steps, B)
        batch_size = order.shape[1]
        read_every = 1 if world.device.type == "cpu" else args.log_interval  # reading makes the host wait for a GPU
        with log.epoch_bar(self, epoch, order) as bar:
            for step, (images, labels) in enumerate(self.feed(order[self.step :]), start=self.step):
                torch.manual_seed(batches.seed_for(args.seed, epoch, step, 1 + world.rank))  # dropout: nothing to save
                generator = batches.generator_for(args.seed, epoch, step)
                numbers = learner.augment.draw(batch_size, *images.shape[-2:], generator)
                loss, correct = learner.step(images, labels, numbers[self.feed.columns(batch_size)])
                self.tally.add(step, loss, correct, len(labels))
                self.step = step + 1
                last = self.step == len(order)
                save = args.save_interval and self.step % args.save_interval == 0 and not last
                if last or save or self.step % read_every == 0:
                    if self.tally.read(stop, lambda bad: log.not_finite(self, epoch, bad)):
                        resume.save(self, epoch)
                        self.later.wait()
                        log.stopped(self, epoch, stop)
                    bar.set_postfix_str(self.tally.text(), refresh=False)  # `update` draws
                    if save:
                        resume.save(self, epoch)
                bar.update(batch_size)
        statistics.settle(self, epoch)
        learner.synchronise_statistics()

    @torch.inference_mode()
    def validate(self, epoch: int) -> None:
        """Closed-set accuracy on the held-out images; every so often rank-1 and mAP on query and gallery."""
        resume.check_weights(self)
        seconds = time.perf_counter() - self.started
        row = {"epoch": epoch + 1, "height": self.size[0], "width": self.size[1]}
        row |= {"lr": self.learner.scheduler.get_last_lr()[0]} | self.tally.means("train")
        row["images_per_second"] = (self.tally.images - self.images_before) / seconds
        if self.val_samples:
            row |= self.closed_set()
        interval = self.args.eval_interval or max(1, round(self.args.epochs / 5))
        if self.data.can_evaluate and (self.args.epochs - epoch - 1) % interval == 0:
            row |= self.retrieval()
        row["seconds"] = time.perf_counter() - self.started
        self.history.append(row)

    def closed_set(self) -> dict:
        """Loss and accuracy of the classifier on the validation images, each scored exactly once."""
        net = fuse_for_inference(self.learner.usable_net())
        tally = Tally(self.world)
        fixed = fixed_batches(len(self.val_samples), 256)
        for number, rows in enumerate(fixed[self.world.rank :: self.world.size]):
            images, labels = self.validation.rows(rows)  # (B, 3, H, W) uint8, (B,)
            with autocast(self.world.device, self.args.amp):
                logits = net.classify(net.embed(normalize(images)))  # (B, identities)
            correct = (logits.argmax(1) == labels).sum().double()
            tally.add(number, classification(logits, labels).double(), correct, len(labels))
        tally.read()
        assert tally.images == len(self.val_samples)
        return tally.means("val")

    def retrieval(self) -> dict:
        """Rank-1 and mAP, in float32, so that `test.py` gives the same figures; {} on all processes but the first."""
        sides = (self.data.query, self.data.gallery)
        query, gallery = (PersonImages(people, *self.size, loader=self.decoded) for people in sides)
        found = test_features(self.learner.usable_net(), query, gallery, self.world, workers=self.args.workers)
        if found is None:
            return {}
        with log.blamed_on_the_rate():
            features = features_file.check(found)
        metrics = protocols.figures(features)
        return {"rank1": metrics["rank1"], "mAP": metrics["mAP"]}

    def finish_epoch(self) -> None:
        """Have checkpoints, history and curves written while training goes on, and print the epoch's line."""
        self.later.wait()  # for the last epoch's: what is to be written lies in memory
        row = self.history[-1]
        self.epoch, self.step, self.tally = row["epoch"], 0, Tally(self.world)
        # the query and gallery never choose the weights: they are the test
        score = (math.prod(self.size), recipe.settles(self.args, self.epoch - 1), row.get("val_acc", 0.0))
        is_best, self.best = score >= self.best, max(score, self.best)
        if self.world.is_main:
            if is_best:
                self.later(checkpoints.save, self.args.output / "best.pth", snapshot(resume.weights(self)))
            curves = self.epoch == self.args.epochs or time.monotonic() - self.curves_drawn > SECONDS_BETWEEN_CURVES
            self.curves_drawn = time.monotonic() if curves else self.curves_drawn
            self.later(log.write_history, list(self.history), self.args.output, curves)
        resume.save(self, self.epoch)  # at the end: what is in it is done, and a kill before it repeats the epoch
        self.say(log.epoch_line(self, row) + ("  -> best.pth" if is_best else ""))
        self.world.barrier()


if __name__ == "__main__":
    cli.run(main, get_args_parser())
