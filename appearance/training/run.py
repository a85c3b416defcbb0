"""The state of a run: count progress, save, resume, stop on Ctrl-C."""

import csv
import io
import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from appearance.cli import InputError, RunFailed
from appearance.data import marks, provenance
from appearance.data.layouts import ReIDData, Sample
from appearance.distributed import World
from appearance.files import FolderLost, save_elsewhere, write_text
from appearance.networks import checkpoints, thresholds
from appearance.networks.checkpoints import Checkpoint
from appearance.pictures import plots
from appearance.progress import progress
from appearance.training import messages, resume
from appearance.training.background import BackgroundWriter, snapshot
from appearance.training.interpolation import WeightInterpolation
from appearance.training.recipe import Recipe
from appearance.training.totals import Totals

SECONDS_BETWEEN_CURVES = 30  # plotting takes longer than a short epoch
HANG_UP = getattr(signal, "SIGHUP", None)  # not on Windows
STOPS = tuple(number for number in (signal.SIGINT, signal.SIGTERM, HANG_UP) if number is not None)
READ_EVERY = 10  # steps between reads of the loss from a GPU, each of which is a host sync
COLUMNS = (
    *("epoch", "height", "width", "lr", "train_loss", "train_acc", "val_loss", "val_acc", "rank1", "mAP"),
    *("images_per_second", "seconds"),
)


class StopRequest:
    """Context in which Ctrl-C, SIGTERM and SIGHUP request a stop after the current step; a second Ctrl-C is immediate.

    A closing terminal sends SIGHUP, sometimes twice. Under `nohup` SIGHUP is ignored, and stays ignored here.
    """

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> "StopRequest":
        self._before = {}
        for number in STOPS:
            if number == HANG_UP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            with suppress(ValueError):  # not the main thread: the calling program handles signals
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class RunFolder:
    """The output folder of a run, replaced by a new folder if it is deleted or unmounted.

    Attributes:
        path: the folder in use.
        lost: the error about the lost folder, or None.
    """

    def __init__(self, path: Path):
        self.path, self.lost = path, None

    def write(self, name: str, write: Callable[[Path], None]) -> None:
        """Call `write(path)` with the path of the file `name`.

        Raises:
            InputError: the folder was lost, and no other folder can be written.
        """
        try:
            write(self.path / name)
        except FolderLost as lost:
            elsewhere = save_elsewhere(self.path, lambda folder: write(folder / name))
            if elsewhere is None:
                raise InputError(
                    f"--output {lost}, and neither the current nor the temporary folder can be written: the state of "
                    "the run is lost"
                ) from None
            self.path, self.lost = elsewhere, lost

    def refuse_if_lost(self) -> None:
        """Raises InputError if the folder was lost, with the new folder and the command to resume."""
        if self.lost:
            how = messages.resume_command(self.path, "--output", self.path)
            raise InputError(f"--output {self.lost}; saved in {self.path} instead. Go on with: {how}")


class Run:
    """A run: epoch, step and history, and the files `best.pth`, `last.pth`, `history.csv` and `curves.png`.

    As a context manager it writes files in the background, and on Ctrl-C, SIGTERM or SIGHUP saves and exits.

    Args:
        output: output folder.
        recipe: all hyperparameters.
        world: this process; rank 0 writes.
        objective: network and losses; the network is `objective.net`. Not wrapped.
        optimizer, scheduler, scaler: of `build_optimizer`.
        metadata: what checkpoints contain besides weights and input size (see `metadata`).
        samples: the training images, indexed by batches.
        save_interval: steps between saves within an epoch; 0: save only after epochs.
    """

    def __init__(
        self,
        output: Path,
        recipe: Recipe,
        world: World,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LambdaLR,
        scaler: torch.amp.GradScaler,
        metadata: dict,
        samples: list[Sample],
        save_interval: int = 0,
    ):
        self.output, self.recipe, self.world, self.net, self.scheduler = output, recipe, world, objective.net, scheduler
        self._parts = {"objective": objective, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
        self._metadata, self._samples, self._save_interval = dict(metadata), samples, save_interval
        self._marks = self._metadata.pop("marks", None)  # only for last.pth
        share = recipe.keep_start
        self._interpolation = WeightInterpolation(self.net, share) if share else None  # copies the starting weights
        self.epoch, self.step = 0, 0  # completed epochs, and completed steps of the current one
        self.history: list[dict] = []
        self.best: tuple[int, bool, float] = (0, False, -1.0)  # pixels, precise batch norm statistics, accuracy
        self.totals = Totals(world)
        self._stop, self._writer, self._bar = StopRequest(), BackgroundWriter(), None
        self._folder = RunFolder(output)
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
            if exception[0] is None:
                self._folder.refuse_if_lost()
        finally:
            self._stop.__exit__(*exception)

    # -- an epoch

    def begin_epoch(self, size: tuple[int, int], order: Tensor) -> None:
        """Begin an epoch, or continue it at `self.step`. size: (height, width) in pixels; order: (steps, B) images."""
        self.size, self.order = size, order
        self._began = self._trained = time.perf_counter()  # a resumed epoch may have no step left
        self._images_before = self.totals.images
        self._bar = progress(
            desc=f"epoch {self.epoch + 1}/{self.recipe.epochs} {size[0]}x{size[1]}",
            total=order.numel(),
            initial=self.step * order.shape[1],
            unit="img",
            hidden=not self.world.is_main,
        )

    def end_step(self, loss: Tensor, correct: Tensor, images: int) -> None:
        """Count a step. Every few steps, save if due, and stop if any process got a stop signal.

        Args:
            loss, correct: this process's mean loss and number of correct images; scalars on the device.
            images: this process's number of images.

        Raises:
            InputError: the output folder was lost; the files were saved elsewhere.
            RunFailed: the loss of a step was NaN or infinite.
            SystemExit: after Ctrl-C, SIGTERM or SIGHUP, and saving.
        """
        self.totals.add(self.step, loss, correct, images)
        self.step += 1
        if self._folder.lost:
            self._wait()
        steps, batch = self.order.shape
        last = self.step == steps
        save = bool(self._save_interval) and self.step % self._save_interval == 0 and not last
        if last or save or self.world.device.type == "cpu" or self.step % READ_EVERY == 0:
            stop, bad_step = self.totals.reduce(self._stop.signal is not None)
            if bad_step is not None:
                rate = self.recipe.lr * self.scheduler.lr_lambdas[0](self.epoch * steps + bad_step)
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

    def end_epoch(self, measured: dict, score: tuple[int, bool, float]) -> None:
        """Add the epoch to the history, queue its files for writing, and print its line.

        Args:
            measured: columns of the history from validation and retrieval.
            score: the highest becomes `best.pth`: (pixels per image, precise batch norm statistics, validation
                accuracy).
        """
        self._wait()  # to bound the memory: files of the previous epoch are copies until they are written
        height, width = self.size
        row = {"epoch": self.epoch + 1, "height": height, "width": width, "lr": self.scheduler.get_last_lr()[0]}
        row |= self.totals.means("train")
        seconds = self._trained - self._began
        row["images_per_second"] = (self.totals.images - self._images_before) / seconds if seconds else 0.0
        row |= measured | {"seconds": time.perf_counter() - self._began}
        self.history.append(row)
        is_best, self.best = score >= self.best, max(score, self.best)
        self.epoch, self.step, self.totals = self.epoch + 1, 0, Totals(self.world)
        if self.world.is_main:
            if is_best:
                weights = snapshot(self._weights())
                self._write("best.pth", lambda path: checkpoints.save(path, weights))
            now = time.monotonic()
            curves = self.epoch == self.recipe.epochs or now - self._curves_drawn > SECONDS_BETWEEN_CURVES
            self._curves_drawn = now if curves else self._curves_drawn
            history = list(self.history)
            self._write("history.csv", lambda path: write_history(history, path))
            if curves:
                self._write("curves.png", lambda path: plots.training_curves(history, path))
        self.save()  # written last: if the run dies earlier, --resume repeats this epoch
        self.world.say(messages.epoch_line(self.recipe, self.history) + ("  -> best.pth" if is_best else ""))
        self.world.barrier()

    # -- weights and files

    def _write(self, name: str, write: Callable[[Path], None]) -> None:
        """Queue a file for writing in the background; data that `write(path)` uses must not change afterwards."""
        self._writer(self._folder.write, name, write)

    def _wait(self) -> None:
        """Block until all files are written. Raises InputError if the output folder was lost."""
        self._writer.wait()
        self._folder.refuse_if_lost()

    def net_to_save(self) -> nn.Module:
        """The network to test and save: the trained one, or with `keep_start` interpolated with the starting weights.

        Raises:
            RunFailed: weights are NaN or infinite, although the losses were finite.
        """
        net = self._interpolation.of(self.net) if self._interpolation else self.net
        if not torch.stack([value.isfinite().all() for value in net.state_dict().values()]).all():
            raise RunFailed(
                f"the weights are NaN or infinite after step {self.step} of epoch {self.epoch + 1}, and were not "
                "saved: use a lower --lr"
            )
        return net

    def _weights(self) -> dict:
        """The content of `best.pth`: what testing and trackers need."""
        row = self.history[-1] if self.history else {}
        return self._metadata | {
            "net_dict": self.net_to_save().state_dict(),
            "acc": 100.0 * row.get("val_acc", math.nan),  # NaN without validation images
            "epoch": self.epoch,
            "height": self.size[0],
            "width": self.size[1],
            "recipe": asdict(self.recipe),
        }

    def save(self) -> None:
        """Queue `last.pth` for writing: the weights and all that resuming needs. A collective of all processes."""
        buffers = self.world.gather([buffer.cpu() for buffer in self.batch_norm_statistics()])
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
        content = snapshot(self._weights() | state)
        self._write("last.pth", lambda path: checkpoints.save(path, content))

    def batch_norm_statistics(self) -> list[Tensor]:
        """The running means and variances, which processes average only at the end of an epoch."""
        return [buffer for buffer in self._parts["objective"].buffers() if buffer.is_floating_point()]

    def restore(self, checkpoint: Checkpoint, data: ReIDData) -> None:
        """Load the state in a `last.pth`. Call it after wrapping the model, which copies rank 0's weights to all ranks.

        Args:
            data: the current training data.

        Raises:
            InputError: the run had other data or another number of processes, or the state does not fit.
        """
        extra = checkpoint.extra
        told = marks.difference(extra["marks"], self._marks, data) if self._marks and "marks" in extra else ""
        if told or extra["class_names"] != self._metadata["class_names"] or extra["images"] != len(self._samples):
            raise InputError(
                f"--resume {checkpoint.path}: was trained on other data ({len(extra['class_names'])} identities, "
                f"{extra['images']} images{told and '; ' + told}); resume with the same --data-dir, or start a new run "
                f"with --weights {checkpoint.path}"
            )
        if extra["processes"] != self.world.size:
            raise InputError(
                f"--resume {checkpoint.path}: ran on {extra['processes']} processes, but now there are "
                f"{self.world.size}; use the same number, or start a new run with --weights {checkpoint.path}"
            )
        self.epoch, self.step, self.history = extra["epoch"], extra["step"], extra["history"]
        self.totals = Totals(self.world, extra["totals"])
        has_best = (self.output / "best.pth").is_file()
        try:
            pixels, precise, accuracy = extra["best"]
            self.best = (pixels, precise, accuracy) if has_best else self.best
            losses = {
                name.removeprefix("heads."): value for name, value in extra["objective"].items()
            }  # the prefix in earlier versions
            for name, part in self._parts.items():
                part.load_state_dict(losses if name == "objective" else extra[name])
            for name in self._interpolation.start if self._interpolation else ():
                self._interpolation.start[name].copy_(extra["kept"][name])
            for buffer, saved in zip(self.batch_norm_statistics(), extra["buffers"][self.world.rank], strict=True):
                buffer.copy_(saved)
        except (KeyError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise InputError(
                f"--resume {checkpoint.path}: the saved state does not fit ({str(error).splitlines()[0]}); start a new "
                f"run with --weights {checkpoint.path}"
            ) from None
        self.world.say(messages.resumed(checkpoint.path, self.epoch, self.step))
        if self.epoch and not has_best:
            self.world.say(messages.no_best(self.output))
        planned = extra.get("recipe", extra["args"])["epochs"]  # earlier versions had no recipe
        if planned != self.recipe.epochs:
            self.world.say(messages.other_length(planned, self.recipe.epochs))

    def _leave(self) -> None:
        """Save, print the command to resume, and exit with 128 + the signal (SIGTERM if another process got it)."""
        self.save()
        self._wait()
        number = self._stop.signal or signal.SIGTERM
        if self.world.is_main:
            name = signal.Signals(number).name
            print(messages.stopped(name, self.epoch, self.step, self.output), file=sys.stderr)
        sys.exit(128 + number)


def metadata(
    args, arch: str, options: dict, class_names: list[str], data: ReIDData, before: Checkpoint | None, world: World
):
    """The metadata in a run's checkpoints, as plain values: architecture, classes, training data, flags, threshold.

    Args:
        options: of `build_model`.
        before: the resumed run or the starting weights, or None. Their training data is listed too, and their
            threshold is inherited if the network has the same options.
        world: rank 0 reads every training image, to fingerprint the data.
    """
    known = {"arch": arch, "model_options": options, "num_classes": len(class_names), "class_names": class_names}
    if before and before.model_options == options:
        known |= thresholds.inherited(before.extra)
    if world.is_main:
        earlier, roots = provenance.of_checkpoint(before.extra) if before else None, args.data_dir or ()
        prints = provenance.fingerprints((sample.path for sample in data.train), args.workers)
        known |= {"trained_on": provenance.describe(data, earlier, roots, prints)}
        known |= {"marks": marks.of_data(data, roots, prints)}
    return known | {"args": resume.plain(args)}


def write_history(history: list[dict], path: Path) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())
