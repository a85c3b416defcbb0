"""The teacher of distillation: a trained network whose vectors, and classes if the same, a student learns."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from appearance.cli import InputError
from appearance.networks import checkpoints
from appearance.networks.inference import fuse_for_inference, unit_rows


class Teacher:
    """A frozen network in eval mode; it gets the same augmented images as the student.

    Args:
        path: checkpoint of any supported kind.
        build: `model.from_checkpoint`.
        class_names: the student's identities, in label order.
        device: device to run on.

    Raises:
        InputError: the file does not exist or cannot be loaded.
    """

    def __init__(
        self,
        path: Path,
        build: Callable[[checkpoints.Checkpoint], nn.Module],
        class_names: list[str],
        device: torch.device,
    ):
        if not path.is_file():
            raise InputError(f"--teacher {path}: no such file; give the checkpoint of a trained network")
        checkpoint = checkpoints.load(path)
        self.net = fuse_for_inference(build(checkpoint)).to(device)
        self.size = (checkpoint.height, checkpoint.width)
        self.same_classes = bool(checkpoint.num_classes) and checkpoint.extra.get("class_names") == class_names
        what = "vectors and classes" if self.same_classes else "vectors (it was trained on other identities)"
        self.description = f"Teacher {path}: {checkpoint.arch}, {self.size[0]}x{self.size[1]}, {what}"
        if not {"height", "width"} <= checkpoint.told:
            self.description += f"; note: {path} does not say its input size, so this is assumed"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, 3, H, W) normalised images -> (N, D) unit rows, and (N, C) logits or None."""
        if images.shape[-2:] != self.size:
            images = F.interpolate(images, self.size, mode="bilinear", antialias=True)
        features = self.net.embed(images)
        return unit_rows(features), self.net.classify(features) if self.same_classes else None
