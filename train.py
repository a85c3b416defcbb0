"""Train the appearance network: `python train.py [--data-dir ROOT]`, or on several GPUs through `train_multiGPU.py`.

Leaves in the output folder: `best.pth` (for testing and trackers), `last.pth` (for `--resume`), `history.csv` and
`curves.png`.
"""

import csv
import inspect
import io
import signal
import sys
import time
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

import batches
import checkpoints
import cli
import datasets
import layouts
import pixels
import plots
import recipe
import sample
from augment import normalize
from cli import InputError, RunFailed
from evaluate import rank_metrics
from extract import fixed_batches, test_features
from files import atomic_write, claimed
from flags import get_args_parser
from losses import Objective, classification
from model import HAVE_OPTIONS, build_model, fuse_for_inference
from resume import agree_on_resumed, find_resumed
from utils import World, autocast, explained_failures, fastest_precision, seed_everything, single_process


@explained_failures()
def main(args, world: World | None = None) -> None:
    if world is None:
        resumed = find_resumed(args)
        world = single_process(args.device, args.gpu_id)
    else:
        resumed = agree_on_resumed(args, world)
    say = partial(print, flush=True) if world.is_main else _silent
    if resumed and resumed.extra["epoch"] >= args.epochs:
        say(f"{resumed.path} has finished its {args.epochs} epochs; train longer with --epochs")
        return
    recipe.fill_in(args)
    seed_everything(args.seed)
    with claimed(args.output) if world.is_main else nullcontext():
        data = load_data(args, world, say)
        training = Training(args, world, data, say)
        if resumed:
            training.restore(resumed)
        elif args.weights:
            say(training.start_from(args.weights))
        training.prepare()
        say(training.description())
        with GracefulStop() as stop:
            for epoch in range(training.epoch, args.epochs):
                training.train_epoch(epoch, stop)
                training.validate(epoch)
                training.finish_epoch(epoch)
    say(f"Done. Weights: {args.output / 'best.pth'}   next: python test.py{_test_flags(args)}")


def _silent(*args, **kwargs) -> None:
    pass


def _test_flags(args) -> str:
    flags = f" --data-dir {args.data_dir}" if args.data_dir else ""
    return flags + (f" --weights {args.output / 'best.pth'}" if args.output != Path("checkpoint") else "")


def load_data(args, world: World, say) -> layouts.ReIDData:
    """The dataset, checked as far as names tell; the sample is drawn first where no other is named.

    Raises:
        InputError: training cannot work with it.
    """
    if args.data_dir is None:
        if world.is_main:
            sample.ensure()
        world.barrier()
    data = layouts.find(args.data_dir or Path("data/sample"))
    leave_out_unreadable(data, args, world, say)
    problems = datasets.find_problems(data)
    say(datasets.summary(data))
    for problem in problems:
        if problem.fatal and problem.text.startswith("train"):
            raise InputError(f"{data.root}: {problem.text}")
        say(f"  note: {problem.text}")
    if not data.train:
        raise InputError(f"{data.root}: no training images")
    if any(problem.fatal for problem in problems):  # of the evaluation
        say("  note: so rank-1 and mAP are not measured during training")
        data.query, data.gallery = [], []
    return data


def leave_out_unreadable(data: layouts.ReIDData, args, world: World, say) -> None:
    """With `--skip-bad-images`, take images that cannot be read out of `data`.

    Raises:
        InputError: there are some, and they are not to be skipped. Training images that are decoded into memory or a
            cache are looked at there.
    """
    looked_at = data.query + data.gallery
    if args.skip_bad_images or args.cache == "none":
        looked_at = looked_at + data.train
    bad = None
    if world.is_main:
        problems = datasets.image_problems(looked_at, max(1, args.workers))
        bad = {problem.path: problem.text for problem in problems if problem.fatal}
    bad = world.broadcast(bad)
    if bad and not args.skip_bad_images:
        raise InputError(datasets.unreadable(list(bad.values()), len(looked_at)))
    for samples in data.splits().values():
        samples[:] = [sample for sample in samples if sample.path not in bad]
    if bad:
        say(f"Left out {len(bad)} of {len(looked_at):,} images that cannot be read; `datasets.py check` lists them")


class GracefulStop:
    """Turns Ctrl-C and SIGTERM into a wish to stop after the current step; a second Ctrl-C stops at once."""

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> "GracefulStop":
        self._before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):  # not in the main thread: whoever runs us handles signals
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Training:
    """A run: the network with its losses, the optimizer, and how far it has come."""

    def __init__(self, args, world: World, data: layouts.ReIDData, say):
        self.args, self.world, self.data, self.say = args, world, data, say
        self.train_samples, self.val_samples = datasets.split_validation(data.train, args.val_ratio, args.seed)
        self.pids = data.train_pids()
        if len(self.train_samples) < 2 * world.size:
            raise InputError(f"{data.root}: {len(self.train_samples)} training images are too few")
        if args.batch_size % world.size or args.batch_size < 2 * world.size:
            raise InputError(
                f"--batch_size {args.batch_size}: must be a multiple of the {world.size} processes, "
                "with two images or more for each"
            )
        options = {}
        if args.model in HAVE_OPTIONS:
            options = {"last_stride": args.last_stride, "pooling": args.pooling, "neck": args.neck}
        self.model_options = options
        self.net = build_model(args.model, len(self.pids), **options)
        if args.amp == "auto":
            fastest = fastest_precision(self.net, args.height, args.width, world.device)
            args.amp = world.broadcast(fastest)  # kept: a resumed run goes on with it
        self.precision = args.amp
        self.augment = recipe.augmentation(args)
        self.epoch, self.step = 0, 0  # done: whole epochs, and steps of the one under way
        self.totals = torch.zeros(3, dtype=torch.float64)  # of the epoch under way: loss, correct, images
        self.history: list[dict] = []
        self.best: tuple[int, float] = (0, -1.0)  # pixels, accuracy
        self._stage: tuple[int, int] | None = None

    def start_from(self, weights: str) -> str:
        """Load `--weights`; returns the line that says what was loaded."""
        if weights == "imagenet":
            checkpoint = checkpoints.imagenet_checkpoint(self.args.model)
        else:
            checkpoint = checkpoints.load(weights)
            if checkpoint.model_options.get("truncated"):
                self.model_options = self.model_options | {"truncated": True}
                self.net = build_model(self.args.model, len(self.pids), **self.model_options)
        return checkpoints.load_pretrained(self.net, self.args.model, checkpoint)

    def restore(self, checkpoint: checkpoints.Checkpoint) -> None:
        """Take up the state of `last.pth`; what needs the optimizer waits for `prepare`."""
        extra = checkpoint.extra
        if extra["class_names"] != self.class_names() or extra["images"] != len(self.train_samples):
            raise InputError(
                f"--resume {checkpoint.path}: was trained on other data ({len(extra['class_names'])} identities, "
                f"{extra['images']} images); resume with the same --data-dir, or start anew with --weights"
            )
        if extra["processes"] != self.world.size:
            raise InputError(
                f"--resume {checkpoint.path}: ran on {extra['processes']} processes, now {self.world.size}; "
                "use as many, or start anew with --weights"
            )
        self._resumed = extra
        self.epoch, self.step, self.totals = extra["epoch"], extra["step"], extra["totals"]
        self.history, self.best = extra["history"], tuple(extra["best"])
        self.say(f"Resuming {checkpoint.path} after {self.epoch} epochs and {self.step} steps")
        if extra["args"]["epochs"] != self.args.epochs:
            self.say(
                f"  note: {extra['args']['epochs']} epochs became {self.args.epochs}; "
                "learning rate and image sizes follow the longer schedule from here on"
            )

    def prepare(self) -> None:
        """Put everything on its device and build what refers to the parameters."""
        args, device = self.args, self.world.device
        if args.freeze_layers:
            for name, parameter in self.net.named_parameters():
                parameter.requires_grad = name.startswith(self.net.classifier_prefix)
        self.objective = Objective(
            self.net,
            len(self.pids),
            smoothing=args.label_smoothing,
            metric_loss=args.metric_loss,
            metric_weight=args.metric_weight,
            classifier_weight=args.classifier_weight,
            scale=args.scale,
            margin=args.margin,
        ).to(device, memory_format=torch.channels_last)
        if getattr(args, "syncBN", False):
            self.objective = nn.SyncBatchNorm.convert_sync_batchnorm(self.objective)
            self.net = self.objective.net
        self.average = recipe.weight_average(self.net, args.ema)
        self.optimizer = recipe.optimizer(args, self.objective)
        self.steps_per_epoch = len(self.order(0))
        self.lr_factors = recipe.lr_factors(args, self.steps_per_epoch)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: self.lr_factor(step),  # a function: of other callables the scheduler saves the attributes
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.forward = torch.compile(self.objective) if args.compile else self.objective
        if self.world.size > 1:
            self.forward = nn.parallel.DistributedDataParallel(
                self.forward,
                device_ids=[device] if device.type == "cuda" else None,
                **{keep_buffers_apart(): False},  # BatchNorm statistics are averaged each epoch instead
            )
        if hasattr(self, "_resumed"):  # last: the wrapper gives all processes the buffers of rank 0
            self._restore_state(self._resumed)

    def lr_factor(self, step: int) -> float:
        """Of a step counted from the start; epochs of balanced batches can be a step longer than the first."""
        return self.lr_factors[min(step, len(self.lr_factors) - 1)]

    def _restore_state(self, extra: dict) -> None:
        try:
            self.objective.load_state_dict(extra["objective"])
            if self.average:
                self.average.load_state_dict(extra["average"])
            self.optimizer.load_state_dict(extra["optimizer"])
            self.scheduler.load_state_dict(extra["scheduler"])
            self.scaler.load_state_dict(extra["scaler"])
            for buffer, saved in zip(self.buffers(), extra["buffers"][self.world.rank], strict=True):
                buffer.copy_(saved)
        except (KeyError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise InputError(f"--resume: the state in it does not fit ({str(error).splitlines()[0]})") from None

    def description(self) -> str:
        args, world = self.args, self.world
        device = torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else world.device.type
        processes = f" x {world.size} processes" if world.size > 1 else ""
        return (
            f"{args.model} for {len(self.pids):,} identities: {len(self.train_samples):,} training and "
            f"{len(self.val_samples):,} validation images, {args.epochs} epochs of {self.steps_per_epoch} steps, "
            f"{self.precision} on {device}{processes}"
        )

    def class_names(self) -> list[str]:
        return [self.data.names[pid] for pid in self.pids]

    # -- one epoch -----------------------------------------------------------------------------------------------------

    def order(self, epoch: int) -> Tensor:
        """(steps, B) int64: which training images each step of an epoch takes."""
        args = self.args
        if args.sampler == "balanced":
            return batches.balanced_order(
                self._labels(self.train_samples), args.batch_size, args.images_per_identity, args.seed, epoch
            )
        return batches.shuffled_order(len(self.train_samples), args.batch_size, args.seed, epoch)

    def _labels(self, samples) -> Tensor:
        label = {pid: number for number, pid in enumerate(self.pids)}
        return torch.tensor([label[sample.pid] for sample in samples], dtype=torch.int64)

    def enter_stage(self, size: tuple[int, int]) -> None:
        """Load the pixels at the size of the coming epoch, unless they are there."""
        if self._stage == size:
            return
        self._stage, args = size, self.args
        images = datasets.PersonImages(self.train_samples, *size, self.pids)
        validation = datasets.PersonImages(self.val_samples, *size, self.pids)
        shared = self.world.size > 1

        def load(images):
            if args.cache == "none":
                return None
            if shared and not self.world.is_main:
                self.world.barrier()  # the first process writes the cache file, the others find it
            loaded = pixels.load(images, args.cache, args.cache_dir, args.workers, shared)
            if shared and self.world.is_main:
                self.world.barrier()
            return loaded

        self.feed = batches.Feed(images, self._labels(self.train_samples), load(images), self.world, args.workers)
        self.validation = batches.Feed(
            validation, self._labels(self.val_samples), load(validation), self.world, args.workers
        )

    def train_epoch(self, epoch: int, stop: GracefulStop) -> None:
        """Steps `self.step` to the last one of an epoch."""
        args, world = self.args, self.world
        self.size = recipe.resolution(args, epoch)
        self.enter_stage(self.size)
        self.started, self.images_before = time.perf_counter(), float(self.totals[2])
        self.set_train_mode()
        order = self.order(epoch)
        counted = torch.zeros(3, dtype=torch.float64, device=world.device)
        read_every = 1 if world.device.type == "cpu" else args.log_interval  # reading makes the host wait for a GPU
        self.first_bad = torch.full((), -1, dtype=torch.int64, device=world.device)
        bar = tqdm(
            desc=f"epoch {epoch + 1}/{args.epochs} {self.size[0]}x{self.size[1]}",
            total=order.numel(),
            initial=self.step * order.shape[1],
            unit="img",
            disable=None if world.is_main else True,
            leave=False,
        )
        with bar:
            for step, (images, labels) in enumerate(self.feed(order[self.step :]), start=self.step):
                loss, correct = self.train_step(epoch, step, order.shape[1], images, labels)
                counted += torch.stack([loss * len(labels), correct, torch.full_like(correct, len(labels))])
                self.first_bad = torch.where((self.first_bad < 0) & ~loss.isfinite(), step, self.first_bad)
                self.step = step + 1
                last = self.step == len(order)
                save = args.save_interval and self.step % args.save_interval == 0 and not last
                if last or save or self.step % read_every == 0:
                    stopping = self.read_totals(counted, epoch, bar, stop)
                    counted.zero_()
                    if stopping:
                        self.stop_here(epoch, stop.signal or signal.SIGTERM)
                    if save:
                        self.save_last(epoch)
                bar.update(order.shape[1])
        self.synchronise_statistics()

    def set_train_mode(self) -> None:
        self.objective.train()
        if self.args.freeze_layers:
            for name, child in self.net.named_children():
                if not f"{name}.".startswith(self.net.classifier_prefix):
                    child.eval()  # frozen means BatchNorm's statistics as well

    def train_step(self, epoch: int, step: int, batch_size: int, images: Tensor, labels: Tensor):
        """One update; returns the mean loss and the number of correct images, both on the device."""
        args, world = self.args, self.world
        torch.manual_seed(batches.seed_for(args.seed, epoch, step, 1 + world.rank))  # dropout: no state to save
        generator = batches.generator_for(args.seed, epoch, step)
        numbers = self.augment.draw(batch_size, *images.shape[-2:], generator)[self.feed.columns(batch_size)]
        images = self.augment.apply(images, numbers)
        loss_sum = correct = 0.0
        parts = min(args.accumulate, len(labels) // 2)
        for number, (part, part_labels) in enumerate(
            zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)
        ):
            waits = world.size > 1 and number + 1 < parts
            with self.forward.no_sync() if waits else nullcontext():
                with autocast(world.device, self.precision):
                    loss, logits = self.forward(part, part_labels)
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
        self.scheduler.step()
        if self.average:
            self.average.update_parameters(self.net)
        return loss_sum, correct

    def read_totals(self, counted: Tensor, epoch: int, bar: tqdm, stop: GracefulStop) -> bool:
        """Add the device's sums to the epoch's totals, show them, and say whether any process was asked to stop.

        Raises:
            RunFailed: a loss was not finite.
        """
        wish = counted.new_tensor([stop.signal is not None])
        *counted, wishes = self.world.total(torch.cat([counted, wish])).cpu()
        counted = torch.stack(counted)
        if not counted[0].isfinite():
            step = self.world.lowest(self.first_bad)
            args, row = self.args, self.order(epoch)[step]
            lr = args.lr * self.lr_factor(epoch * self.steps_per_epoch + step)
            names = ", ".join(Path(self.train_samples[index].path).name for index in row[:3].tolist())
            raise RunFailed(
                f"the loss is not finite at step {step + 1} of epoch {epoch + 1} "
                f"(learning rate {lr:.2g}, batch of {len(row)}: {names}, ...); "
                f"{args.output / 'last.pth'} is left as it was last saved: try a lower --lr"
            )
        self.totals = self.totals + counted
        loss, correct, images = self.totals.tolist()
        bar.set_postfix_str(f"loss {loss / images:.3f}, acc {correct / images:.1%}")
        return bool(wishes)

    def stop_here(self, epoch: int, number: int) -> None:
        """Save, say how to go on, and leave as the signal asked."""
        self.save_last(epoch)
        if self.world.is_main:
            name = signal.Signals(number).name
            print(
                f"\nStopped by {name} after {epoch} epochs and {self.step} steps, saved. Go on with: "
                f"python {Path(sys.argv[0]).name} --resume {self.args.output / 'last.pth'}",
                file=sys.stderr,
            )
        sys.exit(128 + number)

    def synchronise_statistics(self) -> None:
        """Average BatchNorm's running statistics over the processes, so that all end with the same network."""
        if self.world.size == 1:
            return
        for buffer in self.buffers():
            buffer.copy_(self.world.total(buffer) / self.world.size)

    def buffers(self) -> list[Tensor]:
        """The running statistics, each process's own until the end of an epoch."""
        modules = [self.objective, self.average] if self.average else [self.objective]
        return [buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point()]

    # -- after an epoch ------------------------------------------------------------------------------------------------

    def usable_net(self) -> nn.Module:
        """The network that is tested and saved."""
        return self.average.module if self.average else self.net

    def check_weights(self) -> None:
        """Raises RunFailed where a loss that was finite has left weights that are not."""
        if not all(value.isfinite().all() for value in self.usable_net().state_dict().values()):
            raise RunFailed(
                f"the weights are no longer finite after step {self.step} of epoch {self.epoch + 1}, and were not "
                "saved: try a lower --lr"
            )

    @torch.inference_mode()
    def validate(self, epoch: int) -> None:
        """Closed-set accuracy on the held-out images; every so often rank-1 and mAP on query and gallery."""
        self.check_weights()
        loss, correct, images = self.totals.tolist()
        row = {"epoch": epoch + 1, "height": self.size[0], "width": self.size[1]}
        row |= {"lr": self.scheduler.get_last_lr()[0], "train_loss": loss / images, "train_acc": correct / images}
        seconds = time.perf_counter() - self.started
        row["images_per_second"] = (images - self.images_before) / seconds
        if self.val_samples:
            row |= self.closed_set()
        if self.data.can_evaluate and self.is_due(epoch):
            row |= self.retrieval()
        row["seconds"] = time.perf_counter() - self.started
        self.history.append(row)

    def closed_set(self) -> dict:
        """Loss and accuracy of the classifier on the validation images, each scored exactly once."""
        net = fuse_for_inference(self.usable_net())
        counted = torch.zeros(3, dtype=torch.float64, device=self.world.device)
        fixed = fixed_batches(len(self.val_samples), 256)
        for rows in fixed[self.world.rank :: self.world.size]:
            # a batch of its own for each process: the feed of a world of one
            images, labels = self.validation.rows(rows)
            with autocast(self.world.device, self.precision):
                logits = net.classify(net.embed(normalize(images)))
            loss = classification(logits, labels).double()
            correct = (logits.argmax(1) == labels).sum().double()
            counted += torch.stack([loss * len(labels), correct, torch.full_like(correct, len(labels))])
        loss, correct, images = self.world.total(counted).tolist()
        assert images == len(self.val_samples)
        return {"val_loss": loss / images, "val_acc": correct / images}

    def is_due(self, epoch: int) -> bool:
        """Whether rank-1 and mAP are measured after this epoch: at intervals, and after the last one."""
        interval = self.args.eval_interval or max(1, round(self.args.epochs / 5))
        return (self.args.epochs - epoch - 1) % interval == 0

    def retrieval(self) -> dict:
        features = test_features(
            self.usable_net(), self.data, *self.size, self.world, workers=self.args.workers
        )  # in float32, so that `test.py` gives the same figures
        if features is None:
            return {}
        metrics = rank_metrics(*(features[key] for key in ("qf", "ql", "qc", "gf", "gl", "gc")))
        return {"rank1": metrics["rank1"], "mAP": metrics["mAP"]}

    def finish_epoch(self, epoch: int) -> None:
        """Write checkpoints, history and curves, and print the epoch's line."""
        row = self.history[-1]
        self.epoch, self.step = epoch + 1, 0
        self.totals = torch.zeros(3, dtype=torch.float64)
        # the query and gallery never choose the weights: they are the test
        score = (self.size[0] * self.size[1], row.get("val_acc", 0.0))
        is_best = score >= self.best
        if is_best:
            self.best = score
        if self.world.is_main:
            if is_best:
                checkpoints.save(self.args.output / "best.pth", self.weights())
            self.write_history()
        self.save_last(self.epoch)  # at the end: what is in it is done, and a kill before it repeats the epoch
        self.say(self.epoch_line(row) + ("  *" if is_best else ""))
        self.world.barrier()

    def weights(self) -> dict:
        """The checkpoint's part that testing and trackers need."""
        args = self.args
        row = self.history[-1] if self.history else {}
        self.check_weights()
        return {
            "net_dict": {key: value.cpu() for key, value in self.usable_net().state_dict().items()},
            "acc": 100.0 * row.get("val_acc", 0.0),
            "epoch": self.epoch,
            "arch": args.model,
            "model_options": self.model_options,
            "num_classes": len(self.pids),
            "height": self.size[0],
            "width": self.size[1],
            "class_names": self.class_names(),
            "args": {k: _plain(v) for k, v in vars(args).items() if k != "given"},
        }

    def save_last(self, epoch: int) -> None:
        """Write `last.pth`: the weights and all that resuming needs. Every process tells, rank 0 writes."""
        buffers = self.world.gather([buffer.cpu() for buffer in self.buffers()])
        if not self.world.is_main:
            return
        state = {
            "buffers": buffers,
            "objective": self.objective.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
            "best": list(self.best),
            "epoch": epoch,
            "step": self.step,
            "totals": self.totals,
            "images": len(self.train_samples),
            "processes": self.world.size,
        }
        checkpoints.save(self.args.output / "last.pth", self.weights() | state)

    def write_history(self) -> None:
        columns = [
            *("epoch", "height", "width", "lr", "train_loss", "train_acc", "val_loss", "val_acc", "rank1", "mAP"),
            *("images_per_second", "seconds"),
        ]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.history)
        atomic_write(self.args.output / "history.csv", lambda file: file.write(text.getvalue().encode()))
        plots.training_curves(self.history, self.args.output / "curves.png")

    def epoch_line(self, row: dict) -> str:
        parts = [
            f"epoch {row['epoch']:>3}/{self.args.epochs}",
            f"{row['height']}x{row['width']}",
            f"loss {row['train_loss']:.3f}",
            f"acc {row['train_acc']:.1%}",
        ]
        if "val_acc" in row:
            parts.append(f"val acc {row['val_acc']:.1%}")
        if "mAP" in row:
            parts.append(f"rank-1 {row['rank1']:.1%}  mAP {row['mAP']:.1%}")
        parts.append(f"{row['images_per_second']:,.0f} img/s")
        if self.epoch < self.args.epochs:
            parts.append(f"{self.time_left():>7} left")
        return "  ".join(parts)

    def time_left(self) -> str:
        """An estimate from the last epoch, and what the sizes of the others cost beside its own.

        An image takes time for its pixels and, whatever its size, for 600 more: so fitted for `Net` on a CPU core
        between 32x16 and 128x64.
        """
        args, row = self.args, self.history[-1]
        sizes = [recipe.resolution(args, epoch) for epoch in range(self.epoch, args.epochs)]
        epochs = sum(recipe.cost(*size) + 600 for size in sizes) / (recipe.cost(row["height"], row["width"]) + 600)
        seconds = epochs * row["seconds"]
        return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def keep_buffers_apart() -> str:
    """DistributedDataParallel's name for broadcasting buffers at each step; torch 2.15 gave it a new one."""
    names = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    return "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"


def _plain(value):
    return str(value) if isinstance(value, Path) else value


if __name__ == "__main__":
    cli.run(main, get_args_parser())
