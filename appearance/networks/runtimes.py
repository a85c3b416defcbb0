"""Files written by `export.py`, run as networks: ONNX through onnxruntime, TorchScript through torch.

Every such file carries a description of itself, as JSON: `arch`, `height`, `width`, `feature_dim`, `normalize`, which
says whether the mean and standard deviation of `augment.normalize` are applied inside the file or are to be applied
before, and `flip`, which says whether it looks at the mirror image as well.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from appearance.cli import InputError
from appearance.data.augment import IMAGENET_MEAN, IMAGENET_STD

KEY = "reid"  # under which a file keeps its description
SUFFIXES = (".onnx", ".torchscript")


class ExportedNet(nn.Module):
    """A file's network behind the call of the others: (N, 3, H, W) normalised images -> (N, D) unit rows.

    Args:
        run: (N, 3, H, W) float32 on the CPU -> (N, D) float32, what the file computes.
        description: as above.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], description: dict):
        super().__init__()
        self.run = run
        self.arch = description["arch"]
        self.height, self.width = description["height"], description["width"]
        self.feature_dim = description["feature_dim"]
        self.inside = description["normalize"] == "inside"
        self.flip = description.get("flip", False)

    def embed(self, images: Tensor) -> Tensor:
        images = images.cpu().contiguous()
        if self.inside:  # the file wants plain RGB from 0 to 1
            images = images * _channels(IMAGENET_STD) + _channels(IMAGENET_MEAN)
        return self.run(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(images)

    def __deepcopy__(self, memo) -> "ExportedNet":
        return self  # a session of another library: cannot be copied, and nothing here changes it


class WithNormalization(nn.Module):
    """A network that takes RGB from 0 to 1 and applies the mean and standard deviation itself."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.register_buffer("mean", _channels(IMAGENET_MEAN))
        self.register_buffer("std", _channels(IMAGENET_STD))

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images - self.mean) / self.std)


def _channels(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)


def load(path: Path) -> ExportedNet:
    """The network in a file with one of `SUFFIXES`.

    Raises:
        InputError: it cannot be read, or was not written by `export.py`.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; `python export.py` writes it from a checkpoint")
    run, text = (_onnx if path.suffix == ".onnx" else _torchscript)(path)
    if not text:
        raise InputError(f"{path}: does not describe itself, so its input is unknown; write it with `python export.py`")
    return ExportedNet(run, json.loads(text))


def _onnx(path: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    onnxruntime = needed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # one setting for both libraries
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen classes of its own
        raise InputError(f"{path}: not a readable ONNX file ({str(error)[:120]})") from None
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {name: images.numpy()})[0])

    return run, session.get_modelmeta().custom_metadata_map.get(KEY, "")


def _torchscript(path: Path) -> tuple[Callable[[Tensor], Tensor], str]:
    files = {KEY: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces an end of TorchScript; trackers still load it
            net = torch.jit.load(str(path), map_location="cpu", _extra_files=files)
    except RuntimeError as error:
        raise InputError(f"{path}: not a readable TorchScript file ({str(error).splitlines()[0][:120]})") from None
    return net, files[KEY] if isinstance(files[KEY], str) else files[KEY].decode()


def needed(package: str):
    """Import an optional package.

    Raises:
        InputError: it is not installed; says how to install it.
    """
    try:
        return __import__(package)
    except ImportError:
        raise InputError(f"this needs the package {package}: pip install {package}") from None
