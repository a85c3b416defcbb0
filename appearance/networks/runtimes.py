"""Networks that come as a graph and run as they are: ONNX through onnxruntime, TorchScript through torch.

A file that `export.py` wrote carries a description of itself, as JSON: `arch`, `height`, `width`, `feature_dim`,
`normalize`, which says whether the mean and standard deviation of `augment.normalize` are applied inside the file or
are to be applied before, `flip`, which says whether it looks at the mirror image as well, and the threshold of the
weights (`thresholds.py`), where they have one.

A file from elsewhere runs too, where it takes RGB images (N, 3, H, W) and answers one vector each. Its size is read
from its input where that is fixed; what the file does not tell, the caller has to.
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

KEY = "reid"  # under which a file keeps its description
SUFFIXES = (".onnx", ".torchscript")
NORMALIZE = ("outside", "inside")
NORMALIZE_HELP = (
    "for an ONNX or TorchScript file from elsewhere: outside if it takes images normalised by ImageNet's mean and "
    "standard deviation (most re-ID networks), inside if it takes them from 0 to 1"
)
ONNX_NUMBERS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}

Run = Callable[[Tensor], Tensor]


def is_graph(path: Path) -> bool:
    """Whether `load` is to read a file rather than `checkpoints.load`."""
    return path.suffix in SUFFIXES or is_torchscript(path)


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
        self.threshold = thresholds.carried(description)
        self.eval()

    def embed(self, images: Tensor) -> Tensor:
        images = images.cpu().contiguous()
        if self.inside:  # the file wants plain RGB from 0 to 1
            images = images * _channels(IMAGENET_STD) + _channels(IMAGENET_MEAN)
        rows = self.run(images)
        if tuple(rows.shape) != (len(images), self.feature_dim):
            raise RuntimeError(f"{tuple(rows.shape)} numbers for {len(images)} images, not {self.feature_dim} each")
        return rows

    def forward(self, images: Tensor) -> Tensor:
        return unit_rows(self.embed(images))

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


class OfItsSize(nn.Module):
    """A traced network behind a check of its images, which is to be scripted: a trace keeps no errors.

    Args:
        net: what `torch.jit.trace` returns for images (N, 3, height, width).
        inside: the images are to be from 0 to 1; the mean and standard deviation are applied in `net`.
    """

    def __init__(self, net: nn.Module, height: int, width: int, inside: bool):
        super().__init__()
        self.net, self.height, self.width, self.inside = net, height, width, inside

    def forward(self, images: Tensor) -> Tensor:
        height, width = self.height, self.width
        if images.dim() != 4 or images.size(1) != 3 or images.size(2) != height or images.size(3) != width:
            raise ValueError(f"this network takes images (N, 3, {height}, {width}), and these are {images.shape}")
        if self.inside and images.numel() > 0 and (images.min() < 0 or images.max() > 1):
            raise ValueError("this network takes images from 0 to 1, and these are not: are they normalised already?")
        return self.net(images)


def _channels(values: tuple[float, float, float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)


def load(path: Path, height: int | None = None, width: int | None = None, normalize: str | None = None) -> ExportedNet:
    """The network in an ONNX or TorchScript file.

    Args:
        height, width: of its input in pixels, for a file that does not tell them.
        normalize: "outside" if the file takes images that were normalised by ImageNet's mean and standard deviation,
            "inside" if it takes plain RGB from 0 to 1; for a file that does not tell.

    Raises:
        InputError: it cannot be read or is no such network; it does not tell its size or normalisation, and the caller
            does not either; the two contradict each other; or its vectors are no vectors.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such file; `python export.py` writes it from a checkpoint")
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
    """What a file says of itself, as `export.py` writes it.

    Raises:
        InputError: it is no such description.
    """
    try:
        told = json.loads(text)
        sides = [told[name] for name in ("height", "width", "feature_dim")]
        valid = all(type(side) is int and side > 0 for side in sides) and max(sides[:2]) <= LARGEST_SIDE
        valid &= isinstance(told["arch"], str) and told["arch"].isprintable() and told["normalize"] in NORMALIZE
    except (ValueError, TypeError, KeyError, RecursionError):
        valid = False
    if not valid:
        raise InputError(f"{path}: what it says of itself is not what `export.py` writes; is the file damaged?")
    return told


def _refuse_untold(path: Path, names: list[str]) -> None:
    if not names:
        return
    what = {"height": "input size", "width": "input size", "normalize": "normalisation"}
    line = f"{path}: does not describe itself: its {' and '.join(dict.fromkeys(what[name] for name in names))} "
    line += f"must be given: {', '.join(f'{name} (--{name})' for name in names)}"
    if "normalize" in names:
        line += (
            "; normalize is outside if the file takes images normalised by ImageNet's mean and standard deviation "
            "(most re-ID networks), inside if it takes them from 0 to 1"
        )
    raise InputError(line)


def _tried(path: Path, run: Run, told: dict) -> ExportedNet:
    """A foreign file's network, once two images have shown that it answers a vector each."""
    images = torch.zeros(2, 3, told["height"], told["width"], dtype=torch.float32)
    try:
        with torch.inference_mode():
            rows = run(images)
    except Exception as error:  # each library has its own
        raise InputError(f"{path}: does not run on {tuple(images.shape)} images ({reason(error)})") from None
    if not isinstance(rows, Tensor) or rows.dim() < 2 or rows.shape[0] != 2 or rows[0].numel() != max(rows[0].shape):
        found = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
        raise InputError(f"{path}: answers {found} for 2 images, not one vector each; is it a re-ID network?")
    return ExportedNet(
        lambda images: unit_rows(run(images).flatten(1)),
        told | {"arch": path.stem, "feature_dim": rows[0].numel(), "flip": False},
    )


def _onnx(path: Path) -> tuple[Run, str, dict]:
    """What runs the file, its description, and what its input tells."""
    onnxruntime = needed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # one setting for both libraries
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen classes of its own
        raise InputError(f"{path}: not a readable ONNX file ({reason(error)})") from None
    text = session.get_modelmeta().custom_metadata_map.get(KEY, "")
    image, *others = session.get_inputs()
    batch, channels, *sides = image.shape if len(image.shape) == 4 else (None, None)
    dtype = ONNX_NUMBERS.get(image.type)
    foreign_input = others or not sides or dtype is None or (isinstance(channels, int) and channels != 3)
    if foreign_input or len(session.get_outputs()) != 1:
        takes = ", ".join(f"{one.name} {one.shape} {one.type}" for one in session.get_inputs())
        gives = ", ".join(f"{one.name} {one.shape}" for one in session.get_outputs())
        raise InputError(f"{path}: takes {takes} and gives {gives}; needed is one input (N, 3, H, W), and one output")

    def run(images: Tensor) -> Tensor:
        # a file may be made for one number of images alone
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
            warnings.simplefilter("ignore")  # torch announces an end of TorchScript; trackers still load it
            net = torch.jit.load(str(path), map_location="cpu", _extra_files=files)
    except RuntimeError as error:
        raise InputError(f"{path}: not a readable TorchScript file ({reason(error)})") from None
    net.eval()  # others may save it as they train it
    return net, files[KEY] if isinstance(files[KEY], str) else files[KEY].decode(), {}


def needed(package: str):
    """Import an optional package.

    Raises:
        InputError: it is not installed; says how to install it.
    """
    try:
        return __import__(package)
    except ImportError:
        raise InputError(f"this needs the package {package}: pip install {package}") from None
