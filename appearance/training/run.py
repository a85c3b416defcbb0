"""A run's life: how far it has come, what it saves and resumes, and how it stops."""

import csv
import io
import math
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from appearance.cli import InputError, RunFailed
from appearance.data import marks, origin
from appearance.data.layouts import ReIDData, Sample
from appearance.distributed import World
from appearance.files import atomic_write
from appearance.networks import checkpoints
from appearance.networks.checkpoints import Checkpoint
from appearance.pictures import plots
from appearance.progress import progress
from appearance.training import messages, resume, schedule
from appearance.training.background import BackgroundWriter, snapshot
from appearance.training.interpolation import WeightInterpolation
from appearance.training.recipe import Recipe
from appearance.training.totals import Totals

SECONDS_BETWEEN_CURVES = 30  # drawing them takes longer than an epoch of small images
READ_EVERY = 10  # steps between readings of a GPU's loss: for each the host waits
COLUMNS = (
    *("epoch", "height", "width", "lr", "train_loss", "train_acc", "val_loss", "val_acc", "rank1", "mAP"),
    *("images_per_second", "seconds"),
)


class StopRequest:
    """Turns Ctrl-C and SIGTERM into a request to stop after the current step; a second Ctrl-C stops at once."""

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> "StopRequest":
        self._before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):  # not in the main thread: the program around it handles signals
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Run:
    """A run: epoch, step and history; `best.pth`, `last.pth`, `history.csv` and `curves.png`; Ctrl-C.

    As a context it answers Ctrl-C and SIGTERM by saving and leaving, and writes its files in the background.

    Args:
        output: folder of its files.
        recipe: what it trains with.
        world: this process; rank 0 writes.
        model: the network, as `model.net`, with its losses, not wrapped.
        optimizer, rates, scaler: what steps it, the learning rates, and fp16's scaler.
        about: what checkpoints say of the network beside its weights and size (`about`).
        samples: the training images, which batches name by number.
        save_interval: steps between saves within an epoch; 0: none.
    """

    def __init__(
        self,
        output: Path,
        recipe: Recipe,
        world: World,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        rates: torch.optim.lr_scheduler.LambdaLR,
        scaler: torch.amp.GradScaler,
        about: dict,
        samples: list[Sample],
        save_interval: int = 0,
    ):
        self.output, self.recipe, self.world, self.model, self.rates = output, recipe, world, model, rates
        self._parts = {"objective": model, "optimizer": optimizer, "scheduler": rates, "scaler": scaler}
        self._about, self._samples, self._save_interval = dict(about), samples, save_interval
        self._marks = self._about.pop("marks", None)  # for last.pth alone
        share = recipe.keep_start
        self._interpolation = WeightInterpolation(model.net, share) if share else None  # the model has not trained yet
        self.epoch, self.step = 0, 0  # whole epochs done, and steps of the present one
        self.history: list[dict] = []
        self.best: tuple[int, bool, float] = (0, False, -1.0)  # pixels, whether statistics are precise, accuracy
        self.totals = Totals(world)
        self._stop, self._writer, self._bar = StopRequest(), BackgroundWriter(), None
        self._curves_drawn = -math.inf

    def __enter__(self) -> "Run":
        self._stop.__enter__()
        self._writer.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        if self._bar is not None:
            self._bar.close()
        try:
            self._writer.__exit__(*exception)
        finally:
            self._stop.__exit__(*exception)

    # -- an epoch

    def begin_epoch(self, size: tuple[int, int], order: Tensor) -> None:
        """An epoch of images of (height, width) pixels begins, or goes on at `self.step`; order: (steps, B) images."""
        self.size, self.order = size, order
        self._began, self._images_before = time.perf_counter(), self.totals.images
        self._bar = progress(
            desc=f"epoch {self.epoch + 1}/{self.recipe.epochs} {size[0]}x{size[1]}",
            total=order.numel(),
            initial=self.step * order.shape[1],
            unit="img",
            hidden=not self.world.is_main,
        )

    def end_step(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """Count a step of this process: its mean loss and its number of correct images, on the device.

        Every few steps, save where that is due and stop where any process was asked to.

        Raises:
            RunFailed: the loss of a step was not finite.
            SystemExit: Ctrl-C or SIGTERM, after saving.
        """
        self.totals.add(self.step, loss, correct, images)
        self.step += 1
        steps, batch = self.order.shape
        last = self.step == steps
        save = bool(self._save_interval) and self.step % self._save_interval == 0 and not last
        if last or save or self.world.device.type == "cpu" or self.step % READ_EVERY == 0:
            stop, bad_step = self.totals.reduce(self._stop.signal is not None)
            if bad_step is not None:
                rate = self.recipe.lr * self.rates.lr_lambdas[0](self.epoch * steps + bad_step)
                paths = [self._samples[image].path for image in self.order[bad_step].tolist()]
                raise RunFailed(messages.not_finite(self.epoch, bad_step, rate, paths, self.output))
            if stop:
                self._leave()
            means = self.totals.means("train")
            self._bar.set_postfix_str(f"loss {means['train_loss']:.3f}, acc {means['train_acc']:.1%}", refresh=False)
            if save:
                self.save()
        self._bar.update(batch)
        if last:
            self._bar.close()
            self._trained = time.perf_counter()

    def end_epoch(self, measured: dict) -> None:
        """Add an epoch to the history, have checkpoints and curves written, and print its line.

        Args:
            measured: columns of the history from validation and retrieval.
        """
        self._writer.wait()  # for the files of the last epoch: what they hold lies in memory
        height, width = self.size
        row = {"epoch": self.epoch + 1, "height": height, "width": width, "lr": self.rates.get_last_lr()[0]}
        row |= self.totals.means("train")
        row["images_per_second"] = (self.totals.images - self._images_before) / (self._trained - self._began)
        row |= measured | {"seconds": time.perf_counter() - self._began}
        self.history.append(row)
        # query and gallery never choose the weights: they are the test
        score = (height * width, schedule.is_precise(self.recipe, self.epoch), row.get("val_acc", 0.0))
        is_best, self.best = score >= self.best, max(score, self.best)
        self.epoch, self.step, self.totals = self.epoch + 1, 0, Totals(self.world)
        if self.world.is_main:
            if is_best:
                self._writer(checkpoints.save, self.output / "best.pth", snapshot(self._weights()))
            now = time.monotonic()
            curves = self.epoch == self.recipe.epochs or now - self._curves_drawn > SECONDS_BETWEEN_CURVES
            self._curves_drawn = now if curves else self._curves_drawn
            self._writer(write_history, list(self.history), self.output, curves)
        self.save()  # written last: if the run dies earlier, --resume repeats this epoch
        self.world.say(messages.epoch_line(self.recipe, self.history) + ("  -> best.pth" if is_best else ""))
        self.world.barrier()

    # -- weights and files

    def saved_net(self) -> nn.Module:
        """The network that is tested and saved.

        Raises:
            RunFailed: a loss that was finite has left weights that are not.
        """
        net = self._interpolation.of(self.model.net) if self._interpolation else self.model.net
        if not torch.stack([value.isfinite().all() for value in net.state_dict().values()]).all():
            raise RunFailed(
                f"the weights are no longer finite after step {self.step} of epoch {self.epoch + 1}, and were not "
                "saved: try a lower --lr"
            )
        return net

    def _weights(self) -> dict:
        """The part of a checkpoint that testing and trackers need."""
        row = self.history[-1] if self.history else {}
        return self._about | {
            "net_dict": self.saved_net().state_dict(),
            "acc": 100.0 * row.get("val_acc", math.nan),  # without validation images nothing is measured
            "epoch": self.epoch,
            "height": self.size[0],
            "width": self.size[1],
            "recipe": asdict(self.recipe),
        }

    def save(self) -> None:
        """Have `last.pth` written: the weights and all that resuming needs. All processes contribute."""
        buffers = self.world.gather([buffer.cpu() for buffer in self.statistics()])
        if not self.world.is_main:
            return
        state = {name: part.state_dict() for name, part in self._parts.items()} | {
            "buffers": buffers,
            "kept": self._interpolation.start if self._interpolation else None,
            "history": self.history,
            "best": list(self.best),
            "step": self.step,
            "totals": self.totals.sums,
            "images": len(self._samples),
            "marks": self._marks,
            "processes": self.world.size,
        }
        self._writer(checkpoints.save, self.output / "last.pth", snapshot(self._weights() | state))

    def statistics(self) -> list[Tensor]:
        """Batch norm statistics, which each process gathers by itself until the end of an epoch."""
        return [buffer for buffer in self.model.buffers() if buffer.is_floating_point()]

    def restore(self, checkpoint: Checkpoint, data: ReIDData) -> None:
        """Go on from a `last.pth`; after the model was wrapped, which gives all processes the first one's statistics.

        Args:
            data: what is trained on now.

        Raises:
            InputError: it is of other data, of another number of processes, or does not fit.
        """
        extra = checkpoint.extra
        told = marks.difference(extra["marks"], self._marks, data) if self._marks and "marks" in extra else ""
        if told or extra["class_names"] != self._about["class_names"] or extra["images"] != len(self._samples):
            raise InputError(
                f"--resume {checkpoint.path}: was trained on other data ({len(extra['class_names'])} identities, "
                f"{extra['images']} images{told and '; ' + told}); resume with the same --data-dir, or start anew with "
                "--weights"
            )
        if extra["processes"] != self.world.size:
            raise InputError(
                f"--resume {checkpoint.path}: ran on {extra['processes']} processes, now {self.world.size}; "
                "use as many, or start anew with --weights"
            )
        self.epoch, self.step, self.history = extra["epoch"], extra["step"], extra["history"]
        self.totals = Totals(self.world, extra["totals"])
        try:
            pixels, precise, accuracy = extra["best"]
            self.best = (pixels, precise, accuracy)
            losses = {
                name.removeprefix("heads."): value for name, value in extra["objective"].items()
            }  # their old name
            for name, part in self._parts.items():
                part.load_state_dict(losses if name == "objective" else extra[name])
            for name in self._interpolation.start if self._interpolation else ():
                self._interpolation.start[name].copy_(extra["kept"][name])
            for buffer, saved in zip(self.statistics(), extra["buffers"][self.world.rank], strict=True):
                buffer.copy_(saved)
        except (KeyError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise InputError(f"--resume: the state in it does not fit ({str(error).splitlines()[0]})") from None
        self.world.say(messages.resumed(checkpoint.path, self.epoch, self.step))
        planned = extra.get("recipe", extra["args"])["epochs"]  # earlier versions had no recipe
        if planned != self.recipe.epochs:
            self.world.say(messages.other_length(planned, self.recipe.epochs))

    def _leave(self) -> None:
        """Save, say how to go on, and exit as the signal asked; a process that saw none follows the one that did."""
        self.save()
        self._writer.wait()
        number = self._stop.signal or signal.SIGTERM
        if self.world.is_main:
            name = signal.Signals(number).name
            print(messages.stopped(name, self.epoch, self.step, self.output), file=sys.stderr)
        sys.exit(128 + number)


def about(
    args, arch: str, options: dict, class_names: list[str], data: ReIDData, before: Checkpoint | None, world: World
):
    """What the checkpoints of a run say of the network: plain values.

    Args:
        options: that it was built with.
        before: the run that is resumed, or the starting weights: what they were trained on.
        world: rank 0, which writes, reads every training image for it.
    """
    known = {"arch": arch, "model_options": options, "num_classes": len(class_names), "class_names": class_names}
    if world.is_main:
        earlier, roots = origin.of_checkpoint(before.extra) if before else None, args.data_dir or ()
        prints = origin.fingerprints((sample.path for sample in data.train), args.workers)
        known |= {"trained_on": origin.describe(data, earlier, roots, prints)}
        known |= {"marks": marks.of_data(data, roots, prints)}
    return known | {"args": resume.plain(args)}


def write_history(history: list[dict], folder: Path, curves: bool) -> None:
    """`history.csv`, and with `curves` also `curves.png`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    atomic_write(folder / "history.csv", lambda file: file.write(text.getvalue().encode()))
    if curves:
        plots.training_curves(history, folder / "curves.png")
