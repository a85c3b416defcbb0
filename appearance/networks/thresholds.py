"""The tracker's threshold, saved with a network's weights.

A checkpoint, or the description in an exported file, may contain:

    max_dist      float from 0 to 2: largest cosine distance at which a tracker matches a detection to a track
    calibration   dict of `evaluate.py --calibrate --save-threshold`: `measured`, the threshold measured on the dataset;
                  `start`, the threshold in the weights before, or None; `identities`, `based_on`, `false_match_rate`,
                  `interval`, `kept`, `warnings` as in the metrics file; `data`, the name of the dataset; `flip` and
                  `precision` of the vectors. After fine-tuning without a new calibration: `start` only
"""

import hashlib
import io
import math
import os
import pickle
from pathlib import Path

import torch
from torch import Tensor

from appearance.cli import InputError
from appearance.files import atomic_write
from appearance.networks import checkpoints

DEFAULT = 0.2  # DeepSORT's default
KEYS = ("max_dist", "calibration")


def carried(content: dict) -> dict:
    """`max_dist` and `calibration` in a checkpoint's `extra` or a description; {} without a valid threshold."""
    value, found = content.get("max_dist"), content.get("calibration")
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and 0 <= value <= 2):
        return {}
    return {"max_dist": float(value), "calibration": found if isinstance(found, dict) else {}}


def start(content: dict) -> float | None:
    """The threshold from which a new calibration starts, or None.

    It is the one before the last calibration, so that calibrating twice on the same people equals calibrating once.
    """
    found = carried(content)
    before = {"max_dist": found.get("calibration", {}).get("start")}
    return carried(before).get("max_dist", found.get("max_dist"))


def inherited(content: dict) -> dict:
    """The threshold for a network that is fine-tuned from a checkpoint with this `extra`: a start, not yet calibrated.

    {} if the checkpoint has no threshold.
    """
    found = carried(content).get("max_dist")
    return {} if found is None else {"max_dist": found, "calibration": {"start": found}}


def fingerprint(weights: dict[str, Tensor]) -> str:
    """A hash of the tensors' names and values, independent of other content of the file."""
    found = hashlib.blake2b(digest_size=8)
    for name in sorted(weights):
        value = weights[name].contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def save(path: str | os.PathLike, max_dist: float, calibration: dict, meta: dict) -> None:
    """Write a threshold into a checkpoint; the rest of its content is unchanged.

    Args:
        meta: of the calibrated features file, to check that it was made with this checkpoint.

    Raises:
        InputError: not a torch checkpoint, another network, or a file that cannot be written back without loss; it
            is then unchanged.
    """
    path = Path(path)
    checkpoint = checkpoints.load(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        content = None  # safetensors, or a file with objects of other programs, which would be lost
    if content is None or not any(isinstance(value, dict) for value in content.values()):
        raise InputError(
            f"--save-threshold {path}: a threshold cannot be added to this file, because it is not a torch file or its "
            "weights are not in a dict of their own; make one with `python export.py --format boxmot` (or ckpt)"
        )
    made_by = meta.get("fingerprint", "")
    sizes = [(meta.get(side, getattr(checkpoint, side)), getattr(checkpoint, side)) for side in ("height", "width")]
    if made_by and made_by != fingerprint(checkpoint.net_dict):
        raise InputError(
            f"--save-threshold {path}: the features were made with another network ({meta.get('weights')}); "
            f"run test.py with --weights {path}"
        )
    if any(used != own for used, own in sizes):
        used, own = ("x".join(map(str, side)) for side in zip(*sizes, strict=True))
        raise InputError(
            f"--save-threshold {path}: the network's input size is {own}, but the features were made at {used}; run "
            "test.py without --height and --width"
        )
    file = io.BytesIO()
    torch.save(content | {"max_dist": max_dist, "calibration": calibration}, file)
    atomic_write(path.resolve(), lambda out: out.write(file.getbuffer()))
