"""Checkpoints: write atomically, read weights-only, recognise the architecture, load all tensors.

Supported files:

* ours: `net_dict, acc, epoch, arch, model_options, num_classes, height, width, class_names, trained_on, args`, where it
  was calibrated `max_dist` and `calibration` (`thresholds.py`), and in `last.pth` what resuming needs;
* the published `ckpt.t7` of deep_sort_pytorch: `net_dict, acc, epoch`;
* bare state dicts, such as torchvision's ImageNet files and torchreid's OSNets, also as `.safetensors`;
* files with such a state dict under any key and prefix (found by `foreign.py`): BoxMOT, Lightning, DataParallel,
  torch.compile.

Input size and last stride do not follow from the keys. They are read from the file or given by the caller; otherwise a
default is used, with a line in `Checkpoint.doubts`.
"""

import os
import pickle
import textwrap
import warnings
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from appearance.cli import InputError
from appearance.files import atomic_write
from appearance.networks import foreign, osnet
from appearance.networks.architectures import ARCHITECTURES, build_model
from appearance.networks.foreign import layers, listed
from appearance.networks.inference import check_vectors
from appearance.reading import is_plain, refuse_bomb, size_of

OPTIONS = {"last_stride": (1, 2), "pooling": ("avg", "gem"), "neck": ("none", "bn"), "truncated": (True, False)}
NUMBERS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)
HEAD = ("avgpool.p", "neck.")  # trained parts that ImageNet weights do not have
IBN_IMAGENET = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/resnet50_ibn_a-d9d0bb7b.pth"
LARGEST_SIDE = 4096  # pixels, of an input
LARGEST_TRIED = 128  # pixels, largest side of the images in a test run: a file may claim any size
LARGEST_HEADER = 100_000_000  # bytes, of a safetensors file


class Unread(dict):
    """Replaces harmless objects of other libraries in a file; keeps only the items of a dict."""

    def __init__(self, *_):
        super().__init__()

    def __new__(cls, *_):
        return super().__new__(cls)

    def __setstate__(self, _):
        pass


# Objects that training programs save with their weights. Nothing of these libraries is imported or called.
HARMLESS = (
    *("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "argparse.Namespace"),
    *("pathlib.PosixPath", "pathlib.WindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    *(
        f"{package}.{module}.AttributeDict"
        for package in ("lightning_fabric", "lightning.fabric")
        for module in ("utilities.data", "utilities")
    ),
    "pytorch_lightning.utilities.parsing.AttributeDict",
)


@dataclass
class Checkpoint:
    """A network's weights, and all that is needed to build the network."""

    path: Path
    net_dict: dict[str, Tensor]
    arch: str
    num_classes: int | None  # None: the file has no classifier
    model_options: dict = field(default_factory=dict)
    height: int = 128
    width: int = 64
    extra: dict = field(default_factory=dict)  # everything else in the file: acc, epoch, args, optimizer, ...
    told: frozenset[str] = frozenset(("height", "width", "last_stride"))  # known from file or caller, not a default
    notes: tuple[str, ...] = ()  # sentences about parts of the file that are not used

    @property
    def knows_people(self) -> bool:
        """Whether the network was trained for re-ID; 1,000 classes and no input size mean ImageNet."""
        return "height" in self.extra or self.num_classes != 1000

    def with_input(
        self, height: int | None = None, width: int | None = None, last_stride: int | None = None
    ) -> "Checkpoint":
        """The same weights with another input size (`input_size`) or last stride; None: unchanged.

        A saved threshold belongs to one input size, so it is dropped at another.

        Raises:
            InputError: an impossible size, or a stride that contradicts the file or the architecture.
        """
        given = {"height": height, "width": width, "last_stride": last_stride}
        given = {name: value for name, value in given.items() if value is not None}
        height, width = input_size(height, width, (self.height, self.width))
        options = self.model_options
        if last_stride is not None and options.get("last_stride", 1) != last_stride:
            if "last_stride" not in options:
                raise InputError(
                    f"--last-stride {last_stride}: {self.path} is {self.arch}, whose stride is fixed; leave it out"
                )
            if "last_stride" in self.told:
                raise InputError(
                    f"--last-stride {last_stride}: {self.path} has last stride {options['last_stride']}; "
                    "leave the flag out"
                )
            options = options | {"last_stride": last_stride}
        resized = "height" in self.told and (height, width) != (self.height, self.width)
        return replace(
            self,
            extra={key: value for key, value in self.extra.items() if key != "max_dist" or not resized},
            height=height,
            width=width,
            model_options=options,
            told=self.told | given.keys(),
        )

    def check(self, net: nn.Module) -> None:
        """Raises InputError if `net`, with these weights, gives zero, NaN or infinite vectors."""
        check_vectors(net, min(self.height, LARGEST_TRIED), min(self.width, LARGEST_TRIED), self.path)

    def doubts(self, of: Iterable[str] = ("height", "width", "last_stride")) -> list[str]:
        """Lines about defaults that were used for lack of information, with the flags that change them; and notes."""
        lines = []
        untold = set(of) - self.told
        if untold & {"height", "width"}:
            lines.append(
                f"{self.path} does not say its input size; using {self.height}x{self.width}; "
                "if it was trained at another size, give height and width (--height, --width)"
            )
        if "last_stride" in untold:
            lines.append(
                f"{self.path} does not say the stride of its last stage; using {self.model_options['last_stride']}; "
                "if it was trained with the other (1 or 2), give last_stride (--last-stride)"
            )
        return lines + list(self.notes)


def input_size(height: int | None, width: int | None, own: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in pixels: as given; one missing side in proportion to `own`, both missing: `own`.

    Raises:
        InputError: a side is not from 1 to LARGEST_SIDE.
    """
    for name, side in (("height", height), ("width", width)):
        if side is not None and not 1 <= side <= LARGEST_SIDE:
            raise InputError(f"--{name} {side}: must be from 1 to {LARGEST_SIDE}")
    if height is None:
        height = own[0] if width is None else max(1, round(width * own[0] / own[1]))
    return height, width or max(1, round(height * own[1] / own[0]))


def save(path: str | os.PathLike, checkpoint: dict) -> None:
    """Write a checkpoint dict of tensors and plain Python values atomically."""
    atomic_write(path, lambda file: torch.save(checkpoint, file))


def read(path: str | os.PathLike) -> dict:
    """The dict in a `.pth`/`.pt`/`.t7`/`.safetensors` file, on the CPU. Only tensors and plain values are unpickled.

    Raises:
        InputError: no such file, not a checkpoint, or a pickle with other objects, which could run code.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such checkpoint; train one with `python train.py` or name it with --weights")
    size_of(path)
    if path.suffix == ".safetensors" or _is_safetensors(path):
        return _safetensors(path)
    if kind := _graph(path):
        raise InputError(f"{path}: is {kind} file, not a checkpoint; give the checkpoint from which it was exported")
    refuse_bomb(path, compressed=False)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(Unread, name) for name in HARMLESS]):
            warnings.simplefilter("ignore")  # about old formats
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: not loaded: it contains Python objects other than tensors and plain values{_objects(path)}, or "
            "is not a checkpoint; save only the network's state_dict()"
        ) from None
    except Exception as error:  # the unpickler raises nearly anything on a broken file
        raise InputError(f"{path}: not a readable checkpoint ({reason(error)})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a checkpoint: contains a {type(content).__name__}, not a dict of tensors")
    return {key: dict(value) if isinstance(value, Unread) else value for key, value in content.items()}


def reason(error: Exception) -> str:
    """The first line of an error, shortened to 300 characters."""
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return textwrap.shorten(line, 300, placeholder=" ...")


def _objects(path: Path) -> str:
    """The classes and functions named in a file that was not loaded, as " (...)"; "" if unknown."""
    try:
        names = sorted(set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - set(HARMLESS))
    except Exception:  # files in torch's old format, and broken ones
        return ""
    return f" ({listed(names)})" if names else ""


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins like safetensors (length of a JSON header, then the header), under any name."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= min(LARGEST_HEADER, path.stat().st_size)


def _safetensors(path: Path) -> dict:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise InputError(
            f"{path}: reading safetensors files needs the package safetensors: pip install safetensors"
        ) from None
    try:
        return load_file(path)
    except Exception as error:
        raise InputError(f"{path}: not a readable safetensors file ({reason(error)})") from None


def _graph(path: Path) -> str:
    """ "an ONNX" or "a TorchScript" for such files, else ""."""
    if path.suffix == ".onnx":
        return "an ONNX"
    return "a TorchScript" if is_torchscript(path) else ""


def is_torchscript(path: Path) -> bool:
    """Whether a file is TorchScript, under any name."""
    if not os.path.isfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as file:
            return any(name.split("/")[1:2] == ["code"] for name in file.namelist())
    except Exception:  # no zip file, or a broken one
        return False


def load(path: str | os.PathLike) -> Checkpoint:
    """Read a checkpoint of any kind above and recognise its architecture from its keys.

    Raises:
        InputError: the file cannot be read, is damaged, or has no supported architecture.
    """
    path = Path(path)
    content = read(path)
    for key in ("net_dict", "state_dict"):
        if not isinstance(content.get(key, {}), dict):
            raise InputError(f"{path}: not a checkpoint: its weights are a {type(content[key]).__name__}, not a dict")
    found, others = _the_network(content, path)
    net_dict, extra = found.tensors, dict(found.beside)
    _check_tensors(net_dict, path)
    arch, options, num_classes = found.recognised
    if isinstance(extra.get("arch"), str) and extra["arch"] in ARCHITECTURES:
        # strides and pooling do not follow from the keys
        arch, options = extra["arch"], extra.get("model_options", options)
    assumed = "model_options" not in extra and "last_stride" in options and not options.get("truncated")
    builder_known = num_classes == 1000 or isinstance(extra.get("model_name"), str)  # torchvision, BoxMOT: stride 2
    told = set() if assumed and not builder_known else {"last_stride"}
    if not isinstance(options, dict) or not all(map(_is_known, options.items())):
        raise InputError(f"{path}: unknown model_options {options!r:.80}; is the file damaged?")
    size = _told_size(extra)
    told |= size.keys()
    if arch == "net" and "net_dict" in content:
        told |= {"height", "width"}  # of deep_sort_pytorch, which always uses 128x64
    height, width = size.get("height", 128), size.get("width", 64)
    if not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in (height, width)):  # not True, a bool
        raise InputError(f"{path}: impossible input size {height!r:.20} x {width!r:.20}; is the file damaged?")
    if not isinstance(extra.get("epoch", 0), int):  # of another program, and not needed
        del extra["epoch"]
    notes = []
    if found.left_out:
        notes.append(
            f"{path}: {listed(found.left_out)} looks like the classifier of the training identities, and is not used; "
            "the vector is its input"
        )
    if others and "arch" not in extra:
        notes.append(f"{path}: contains several networks; using the one in {found.where}, not {listed(others)}")
    return Checkpoint(path, net_dict, arch, num_classes, options, height, width, extra, frozenset(told), tuple(notes))


def _the_network(content: dict, path: Path) -> tuple[foreign.Found, list[str]]:
    """The network in a file (of several: the one in `net_dict`, else in `state_dict`), and the places of others.

    Raises:
        InputError: there is none, or the choice is ambiguous.
    """
    try:
        found = foreign.networks(content, _recognised)
    except (KeyError, IndexError):
        raise InputError(f"{path}: tensors of the network are missing; is it a checkpoint?") from None
    everywhere = found
    for key in ("net_dict", "state_dict"):
        found = [one for one in found if one.where.startswith(f"[{key!r}]")] or found
    if not found:
        weights = next((weights for _, weights, _ in foreign.dicts(content)), {})
        raise InputError(f"{path}: {_no_network(weights)}")
    for one in found[1:]:
        _check_tensors(found[0].tensors, path)
        _check_tensors(one.tensors, path)
        if not _same(found[0].tensors, one.tensors):
            places = listed([other.where or "the file itself" for other in found])
            raise InputError(
                f"{path}: contains {len(found)} networks ({places}); save only the state_dict() of the one to use"
            )
    return found[0], [one.where for one in everywhere if one not in found]


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _told_size(extra: dict) -> dict:
    """`height` and `width` if a file has them: our keys, BoxMOT's, or the hyperparameters of a Lightning module."""
    image, settings = extra.get("img_size"), extra.get("hyper_parameters")
    if isinstance(image, list | tuple) and len(image) == 2 and "height" not in extra:
        extra = dict(zip(("height", "width"), image, strict=True)) | extra
    if isinstance(settings, dict) and all(isinstance(settings.get(side), int) for side in ("height", "width")):
        extra = settings | extra
    return {side: extra[side] for side in ("height", "width") if side in extra}


def _is_known(option: tuple) -> bool:
    name, value = option
    return isinstance(value, int | str) and value in OPTIONS.get(name, ())


def _check_tensors(net_dict: dict[str, Tensor], path: Path) -> None:
    """Raises InputError for tensors that are not plain numbers (such as billions of elements over one number)."""
    for name, tensor in net_dict.items():
        if not is_plain(tensor) or tensor.dtype not in NUMBERS or not tensor.numel():
            raise InputError(f"{path}: {name}, of shape {tuple(tensor.shape)}, is not a plain tensor of numbers")
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name} has NaN or infinite values; the file is damaged or its training diverged")


def recognise(net_dict: dict[str, Tensor], path: str | os.PathLike = "weights") -> tuple[str, dict, int | None]:
    """(architecture, options, classes) of a state dict, from its keys and shapes; classes is None without classifier.

    Raises:
        InputError: not a supported architecture.
    """
    recognised = _recognised(net_dict)
    if recognised is None:
        raise InputError(f"{path}: {_no_network(net_dict)}")
    return recognised


def _no_network(weights: dict[str, Tensor]) -> str:
    return f"not a supported network: {foreign.nearest(weights)}"


def _recognised(net_dict: dict[str, Tensor]) -> foreign.Recognised | None:
    def rows(key: str) -> int | None:
        return net_dict[key].shape[0] if key in net_dict else None

    if "conv.0.weight" in net_dict and "layer4.1.conv2.weight" in net_dict:
        return "net", {}, rows("classifier.4.weight")
    # a seventh block in layer3 means resnet101 or deeper, which must not pass for resnet50
    if {"conv1.weight", "layer3.1.conv1.weight"} <= set(net_dict) and "layer3.6.conv1.weight" not in net_dict:
        if "layer1.0.conv3.weight" not in net_dict:
            arch = "resnet34" if "layer3.5.conv1.weight" in net_dict else "resnet18"
        elif "layer1.0.bn1.IN.weight" in net_dict:
            arch = "resnet50_ibn"
        else:
            # 32 groups of 4 channels where resnet50 has one group of 64
            arch = "resnext50_32x4d" if net_dict["layer1.0.conv2.weight"].shape[1] == 4 else "resnet50"
        # without further information, the last stride is torchvision's
        options = {"last_stride": 2} | _head(net_dict)
        if "layer4.0.conv1.weight" not in net_dict:
            options["truncated"] = True
        return arch, options, rows("fc.weight")
    if "conv2.0.conv2a.conv1.weight" in net_dict:
        widths = {channels[0]: name for name, channels in osnet.WIDTHS.items()}
        if rows("conv1.conv.weight") in widths:
            return widths[rows("conv1.conv.weight")], {}, rows("classifier.weight")
    if "features.18.1.weight" in net_dict and "features.1.conv.0.0.weight" in net_dict:
        return "mobilenet_v2", {"last_stride": 2} | _head(net_dict), rows("classifier.1.weight")
    return None


def _head(net_dict: dict[str, Tensor]) -> dict:
    """The options `pooling` and `neck` of a state dict."""
    return {
        "pooling": "gem" if "avgpool.p" in net_dict else "avg",
        "neck": "bn" if "neck.weight" in net_dict else "none",
    }


def from_checkpoint(checkpoint: Checkpoint, reid: bool = True) -> nn.Module:
    """Build the network of a checkpoint and load all its weights; in eval mode.

    Raises:
        InputError: missing, unknown or mismatched tensors; or the network gives zero, NaN or infinite vectors.
    """
    arch, options, weights = checkpoint.arch, checkpoint.model_options, checkpoint.net_dict
    classes = checkpoint.num_classes or 1
    try:
        with torch.device("meta"):  # a file may claim any size: compare shapes before allocating memory
            expected = build_model(arch, classes, **options).state_dict()
        for name, tensor in expected.items():
            if name in weights and weights[name].shape != tensor.shape:
                found, wanted = (tuple(t.shape) for t in (weights[name], tensor))
                raise ValueError(f"{name} has shape {found}, not {wanted}")
            if name in weights and tensor.is_floating_point() and not weights[name].is_floating_point():
                raise ValueError(f"{name} is {weights[name].dtype}, but must be floating-point")
        others = [name for name in weights if name not in expected]
        if others:
            raise ValueError(
                f"it also has {listed(layers(others))}, unknown to {arch} here, so its vectors would be different; "
                "use it as a start for training with train.py --weights"
            )
        net = build_model(arch, classes, reid=reid, **options).float()  # whatever the caller's default dtype
        if checkpoint.num_classes is None:  # no classifier in the file: keep the random one, which is never used
            unused = {name: value for name, value in net.state_dict().items() if name.startswith(net.classifier_prefix)}
            weights = unused | weights
        net.load_state_dict(weights)
    except (ValueError, TypeError) as error:
        raise InputError(f"{checkpoint.path}: does not fit {arch}: {error}") from None
    except RuntimeError as error:
        missing = [name for name in expected if name not in weights]
        problem = f"{len(missing)} of {len(expected)} tensors are missing: {listed(missing)}" if missing else str(error)
        raise InputError(f"{checkpoint.path}: does not fit {arch}: {problem}") from None
    checkpoint.check(net.eval())
    return net


def load_pretrained(net: nn.Module, arch: str, checkpoint: Checkpoint) -> str:
    """Load the weights of `checkpoint` into `net`, in place.

    The classifier keeps its random weights if the number of identities differs. Any other mismatch is an error, because
    nobody would notice a half-loaded trunk.

    Returns:
        a line with the counts, and notes.

    Raises:
        InputError: another architecture, missing or mismatched tensors of the trunk, or a network that gives zero, NaN
            or infinite vectors.
    """
    if checkpoint.arch != arch:
        raise InputError(f"--weights {checkpoint.path}: is {checkpoint.arch}, but --model is {arch}; leave --model out")
    own = net.state_dict()
    fits = {k: v for k, v in checkpoint.net_dict.items() if k in own and _is_alike(v, own[k])}
    trunk = [k for k in own if not k.startswith(net.classifier_prefix)]
    missing = [k for k in trunk if k not in fits and not k.endswith("num_batches_tracked") and not k.startswith(HEAD)]
    if missing:
        raise InputError(
            f"--weights {checkpoint.path}: {len(missing)} of {len(trunk)} trunk tensors of {arch} are missing or have "
            f"another shape or dtype, first {missing[0]}; use another file"
        )
    net.load_state_dict(own | fits)
    checkpoint.check(net)
    fresh = sorted(k for k in own if k not in fits)
    unused = sorted(k for k in checkpoint.net_dict if k not in fits)
    line = f"Loaded {len(fits)} of {len(own)} tensors from {checkpoint.path}"
    if fresh:
        line += f"; {len(fresh)} start at random ({foreign.listed(fresh)})"
    if unused:
        line += f"; {len(unused)} tensors of the file are not used ({foreign.listed(unused)})"
    # no doubt about the stride, a flag of train.py; ImageNet weights are fine-tuned at any size
    doubts = checkpoint.doubts(of=("height", "width")) if checkpoint.knows_people else []
    return "\n".join([line, *(f"note: {doubt}" for doubt in doubts)])


def _is_alike(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape, and are both floating-point or both integer."""
    return one.shape == other.shape and one.is_floating_point() == other.is_floating_point()


def imagenet_checkpoint(arch: str) -> Checkpoint:
    """torchvision's (or IBN-Net's) ImageNet weights of `arch`, from the download cache or the internet.

    Raises:
        InputError: there are none for this architecture, or the download fails; says where to put the file.
    """
    import torchvision

    try:
        url = IBN_IMAGENET if arch == "resnet50_ibn" else torchvision.models.get_model_weights(arch).DEFAULT.url
    except ValueError:
        raise InputError(
            f"--weights imagenet: there are no ImageNet weights for --model {arch}; leave --weights out"
        ) from None
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / url.rsplit("/", 1)[-1]
    if not file.is_file():
        try:
            torch.hub.load_state_dict_from_url(url, progress=True, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"--weights imagenet: {file.name} could not be downloaded ({error}); "
                f"download {url} on another machine and copy it to {file}"
            ) from None
    return load(file)
