"""The tracker's threshold that travels with a network's weights.

A checkpoint, and the description of an exported file, may hold

    max_dist      float from 0 to 2: the cosine distance up to which a tracker takes a detection for a known track
    calibration   dict that says how it was found (`evaluate.py --calibrate --save-threshold`): `measured`, the
                  threshold of the people that were measured; `start`, the one it was moved from, None where the weights
                  brought none; `identities`, `based_on`, `false_match_rate`, `interval`, `kept`, `warnings` as in the
                  metrics file; `data`, the name of the dataset; `flip` and `precision` of the vectors. Of a network
                  that was fine-tuned and not calibrated since it holds `start` alone
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

DEFAULT = 0.2  # of DeepSORT and its kin, where nobody says another
KEYS = ("max_dist", "calibration")


def carried(content: dict) -> dict:
    """`max_dist` and `calibration` of a checkpoint's `extra` or of a description; {} where there are none."""
    value, found = content.get("max_dist"), content.get("calibration")
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and 0 <= value <= 2):
        return {}
    return {"max_dist": float(value), "calibration": found if isinstance(found, dict) else {}}


def start(content: dict) -> float | None:
    """The threshold from which a calibration moves: the one that came with the weights before they were calibrated, so
    that the same people calibrated twice move it once. None where there is none."""
    found = carried(content)
    before = {"max_dist": found.get("calibration", {}).get("start")}
    return carried(before).get("max_dist", found.get("max_dist"))


def inherited(content: dict) -> dict:
    """What a network that is fine-tuned from a checkpoint with this `extra` carries before it is calibrated itself: the
    threshold of its start, to move from, measured on nobody. {} where there is none."""
    found = carried(content).get("max_dist")
    return {} if found is None else {"max_dist": found, "calibration": {"start": found}}


def fingerprint(weights: dict[str, Tensor]) -> str:
    """The same for the same names and numbers, whatever else the file holds."""
    found = hashlib.blake2b(digest_size=8)
    for name in sorted(weights):
        value = weights[name].contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def save(path: str | os.PathLike, max_dist: float, calibration: dict, meta: dict) -> None:
    """Write a threshold into a checkpoint, whose other content stays as it is.

    Args:
        meta: of the features file that was calibrated: the network it tells must be the one in the checkpoint.

    Raises:
        InputError: no checkpoint of torch, another network, or a file to which nothing can be added without harm; the
            file is then unchanged.
    """
    path = Path(path)
    checkpoint = checkpoints.load(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        content = None  # safetensors, or objects of other programs, which would be lost
    if content is None or not any(isinstance(value, dict) for value in content.values()):
        raise InputError(
            f"--save-threshold {path}: is not a torch file with the weights under a name of their own, beside which "
            "there is room; `python export.py --format boxmot` or `ckpt` makes one"
        )
    made_by = meta.get("fingerprint", "")
    sizes = [(meta.get(side, getattr(checkpoint, side)), getattr(checkpoint, side)) for side in ("height", "width")]
    if made_by and made_by != fingerprint(checkpoint.net_dict):
        raise InputError(
            f"--save-threshold {path}: the features were made with another network ({meta.get('weights')}); "
            "run test.py with this one"
        )
    if any(used != own for used, own in sizes):
        used, own = ("x".join(map(str, side)) for side in zip(*sizes, strict=True))
        raise InputError(
            f"--save-threshold {path}: its network takes {own} images, and the features are of {used}; run test.py "
            "without --height and --width"
        )
    file = io.BytesIO()
    torch.save(content | {"max_dist": max_dist, "calibration": calibration}, file)
    atomic_write(path.resolve(), lambda out: out.write(file.getbuffer()))
