"""Run ONNX files (with onnxruntime) and TorchScript files (with torch).

Files of `export.py` contain a JSON description: `arch`, `height`, `width`, `feature_dim`, `normalize` ("inside": the
file applies ImageNet's mean and standard deviation; "outside": the caller does), `flip` (whether vectors are averaged
with those of the mirror image), and the threshold of the weights, if any (`thresholds.py`).

Files from elsewhere run too, if they map RGB images (N, 3, H, W) to one vector each. Their input size is read from the
file if it is fixed there; otherwise it is a parameter, like the normalisation.
"""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from appearance.cli import InputError
from appearance.data.augment import IMAGENET_MEAN, IMAGENET_STD
from appearance.networks import thresholds
from appearance.networks.checkpoints import LARGEST_SIDE, is_torchscript, reason
from appearance.networks.inference import check_vectors, unit_rows
from appearance.reading import refuse_bomb, size_of

KEY = "reid"  # metadata key of the description
SUFFIXES = (".onnx", ".torchscript")
NORMALIZE = ("outside", "inside")
NORMALIZE_HELP = (
    "for an ONNX or TorchScript file from elsewhere: outside if it takes images normalised by ImageNet's mean and "
    "standard deviation (most re-ID networks), inside if it takes them from 0 to 1"
)
ONNX_NUMBERS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}

Run = Callable[[Tensor], Tensor]


def is_graph(path: Path) -> bool:
    """Whether a file is ONNX or TorchScript, to be read by `load` here and not by `checkpoints.load`."""
    return path.suffix in SUFFIXES or is_torchscript(path)


class ExportedNet(nn.Module):
    """A file's network with the interface of the others: (N, 3, H, W) normalised images -> (N, D) unit rows.

    Args:
        run: runs the file: (N, 3, H, W) float32 on the CPU -> (N, D) float32.
        description: see the module docstring.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], description: dict):
        super().__init__()
        self.run = run
        self.arch = description["arch"]
        self.height, self.width = description["height"], description["width"]
        self.feature_dim = description["feature_dim"]
        self.inside = description["normalize"] == "inside"
        self.flip = description.get("flip", False)
        self.threshold = thresholds.carried(description)
        self.eval()

    def embed(self, images: Tensor) -> Tensor:
        images = images.cpu().contiguous()
        if self.inside:  # the file takes RGB from 0 to 1
            images = images * _channels(IMAGENET_STD) + _channels(IMAGENET_MEAN)
        rows = self.run(images)
        if tuple(rows.shape) != (len(images), self.feature_dim):
            raise RuntimeError(f"output {tuple(rows.shape)} for {len(images)} images, not {self.feature_dim} per image")
        return rows

    def forward(self, images: Tensor) -> Tensor:
        return unit_rows(self.embed(images))

    def __deepcopy__(self, memo) -> "ExportedNet":
        return self  # a session of another library cannot be copied, and is never changed here


class WithNormalization(nn.Module):
    """A network for RGB images from 0 to 1 that applies ImageNet's mean and standard deviation itself."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.register_buffer("mean", _channels(IMAGENET_MEAN))
        self.register_buffer("std", _channels(IMAGENET_STD))

    def forward(self, images: Tensor) -> Tensor:
        return self.net((images - self.mean) / self.std)


class OfItsSize(nn.Module):
    """A traced network with a check of its input. To be scripted, because a trace cannot contain errors.

    Args:
        net: of `torch.jit.trace`, for images (N, 3, height, width).
        inside: `net` normalises its images, which must be from 0 to 1.
    """

    def __init__(self, net: nn.Module, height: int, width: int, inside: bool):
        super().__init__()
        self.net, self.height, self.width, self.inside = net, height, width, inside

    def forward(self, images: Tensor) -> Tensor:
        height, width = self.height, self.width
        if images.dim() != 4 or images.size(1) != 3 or images.size(2) != height or images.size(3) != width:
            raise ValueError(f"images must have shape (N, 3, {height}, {width}), not {images.shape}")
        if self.inside and images.numel() > 0 and (images.min() < 0 or images.max() > 1):
            raise ValueError("images must be from 0 to 1; do not normalise them, this file does it")
        return self.net(images)


def _channels(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)


def load(path: Path, height: int | None = None, width: int | None = None, normalize: str | None = None) -> ExportedNet:
    """Load an ONNX or TorchScript file.

    Args:
        height, width: input size in pixels, for files without it.
        normalize: for files without it: "outside" if images must be normalised with ImageNet's mean and standard
            deviation, "inside" if the file takes RGB from 0 to 1.

    Raises:
        InputError: the file cannot be read, or is not such a network; size or normalisation are neither in the file nor
            given, or contradict each other; or vectors are zero, NaN or infinite.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file; make one from a checkpoint with `python export.py`")
    size_of(path)
    refuse_bomb(path)
    if normalize not in (None, *NORMALIZE):
        raise InputError(f"--normalize {normalize}: must be outside or inside")
    run, text, told = (_onnx if path.suffix == ".onnx" else _torchscript)(path)
    if text:
        told = _description(path, text)
    given = {"height": height, "width": width, "normalize": normalize}
    for name, value in given.items():
        if value is not None and told.get(name, value) != value:
            raise InputError(f"--{name} {value}: {path} has {name} {told[name]}; leave --{name} out")
    told = told | {name: value for name, value in given.items() if value is not None}
    if text:
        net = ExportedNet(run, told)
    else:
        _refuse_untold(path, [name for name in given if name not in told])
        for name in ("height", "width"):
            if not 1 <= told[name] <= LARGEST_SIDE:
                raise InputError(f"--{name} {told[name]}: must be from 1 to {LARGEST_SIDE}")
        net = _tried(path, run, told)
    check_vectors(net, net.height, net.width, path)
    return net


def _description(path: Path, text: str) -> dict:
    """The description in a file of `export.py`, from JSON.

    Raises:
        InputError: the description is not valid.
    """
    try:
        told = json.loads(text)
        sides = [told[name] for name in ("height", "width", "feature_dim")]
        valid = all(type(side) is int and side > 0 for side in sides) and max(sides[:2]) <= LARGEST_SIDE
        valid &= isinstance(told["arch"], str) and told["arch"].isprintable() and told["normalize"] in NORMALIZE
    except (ValueError, TypeError, KeyError, RecursionError):
        valid = False
    if not valid:
        raise InputError(f"{path}: its description is not valid; write the file again with export.py")
    return told


def _refuse_untold(path: Path, names: list[str]) -> None:
    if not names:
        return
    what = {"height": "input size", "width": "input size", "normalize": "normalisation"}
    line = f"{path}: the file does not contain its {' and '.join(dict.fromkeys(what[name] for name in names))}; "
    line += f"give {', '.join(f'{name} (--{name})' for name in names)}"
    if "normalize" in names:
        line += (
            ": outside if the file takes images normalised with ImageNet's mean and standard deviation (most re-ID "
            "networks), inside if it takes them from 0 to 1"
        )
    raise InputError(line)


def _tried(path: Path, run: Run, told: dict) -> ExportedNet:
    """The network in a file from elsewhere, after a test with two images.

    Raises:
        InputError: it does not run, or does not give one vector per image.
    """
    images = torch.zeros(2, 3, told["height"], told["width"], dtype=torch.float32)
    try:
        with torch.inference_mode():
            rows = run(images)
    except Exception as error:  # each library has its own types
        raise InputError(f"{path}: does not run on {tuple(images.shape)} images ({reason(error)})") from None
    if not isinstance(rows, Tensor) or rows.dim() < 2 or rows.shape[0] != 2 or rows[0].numel() != max(rows[0].shape):
        found = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise InputError(f"{path}: gives {found} for 2 images, not one vector per image; is it a re-ID network?")
    return ExportedNet(
        lambda images: unit_rows(run(images).flatten(1)),
        told | {"arch": path.stem, "feature_dim": rows[0].numel(), "flip": False},
    )


def _onnx(path: Path) -> tuple[Run, str, dict]:
    """A function that runs the file, its description ("" if none), and its fixed height and width, if any."""
    onnxruntime = needed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # one setting for both libraries
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen types of its own
        raise InputError(f"{path}: not a readable ONNX file ({reason(error)})") from None
    text = session.get_modelmeta().custom_metadata_map.get(KEY, "")
    image, *others = session.get_inputs()
    batch, channels, *sides = image.shape if len(image.shape) == 4 else (None, None)
    dtype = ONNX_NUMBERS.get(image.type)
    foreign_input = others or not sides or dtype is None or (isinstance(channels, int) and channels != 3)
    if foreign_input or len(session.get_outputs()) != 1:
        takes = ", ".join(f"{one.name} {one.shape} {one.type}" for one in session.get_inputs())
        gives = ", ".join(f"{one.name} {one.shape}" for one in session.get_outputs())
        raise InputError(
            f"{path}: has inputs {takes} and outputs {gives}, but needs one input (N, 3, H, W), one output"
        )

    def run(images: Tensor) -> Tensor:
        # the batch size may be fixed in the file
        parts = images.to(dtype).split(batch) if isinstance(batch, int) else [images.to(dtype)]
        rows = []
        for part in parts:
            missing = batch - len(part) if isinstance(batch, int) else 0
            whole = torch.cat([part, part[:1].expand(missing, -1, -1, -1)]) if missing else part
            found = torch.from_numpy(session.run(None, {image.name: whole.contiguous().numpy()})[0])
            rows.append(found[: len(part)].float())
        return torch.cat(rows)

    told = {name: side for name, side in zip(("height", "width"), sides, strict=True) if isinstance(side, int)}
    return run, text, told


def _torchscript(path: Path) -> tuple[Run, str, dict]:
    files = {KEY: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchScript is deprecated, but trackers still load it
            net = torch.jit.load(str(path), map_location="cpu", _extra_files=files)
    except RuntimeError as error:
        raise InputError(f"{path}: not a readable TorchScript file ({reason(error)})") from None
    net.eval()  # the file may have been saved in training mode
    return net, files[KEY] if isinstance(files[KEY], str) else files[KEY].decode(), {}


def needed(package: str):
    """Import an optional package.

    Raises:
        InputError: the package is not installed.
    """
    try:
        return __import__(package)
    except ImportError:
        raise InputError(f"the package {package} is not installed: pip install {package}") from None
