"""Checkpoints: written atomically, read weights-only, recognised from their keys, loaded tensor by tensor.

Four kinds of file load:

* ours: `net_dict, acc, epoch, arch, model_options, num_classes, height, width, class_names, trained_on, args` and, in
  `last.pth`, what resuming needs;
* the published `ckpt.t7` of DeepSORT and its kin: `net_dict, acc, epoch`;
* bare state dicts, torchvision's ImageNet files and torchreid's OSNets among them;
* dicts with a `state_dict` (BoxMOT and others).
"""

import os
import pickle
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from appearance.cli import InputError
from appearance.files import atomic_write
from appearance.networks import mobilenet, osnet, shipped

# the architectures that can be told apart, as `model.ARCHITECTURES` calls them
NAMES = ("net", "resnet18", "resnet34", "resnet50", "resnet50_ibn", "resnext50_32x4d", *osnet.WIDTHS, "mobilenet_v2")
OPTIONS = {"last_stride": (1, 2), "pooling": ("avg", "gem"), "neck": ("none", "bn"), "truncated": (True, False)}
NUMBERS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64)
HEAD = ("avgpool.p", "neck.")  # trained parts that a file of ImageNet weights has not got
IBN_IMAGENET = "https://github.com/XingangPan/IBN-Net/releases/download/v1.0/resnet50_ibn_a-d9d0bb7b.pth"
LARGEST_SIDE = 4096  # pixels of an input


@dataclass
class Checkpoint:
    """A network's weights and what is needed to build the network they belong to."""

    path: Path
    net_dict: dict[str, Tensor]
    arch: str
    num_classes: int | None  # None: the file has no classifier
    model_options: dict = field(default_factory=dict)
    height: int = 128
    width: int = 64
    extra: dict = field(default_factory=dict)  # everything else in the file: acc, epoch, args, optimizer, ...

    @property
    def knows_people(self) -> bool:
        """Whether it was trained to tell people apart; 1,000 classes without another word are ImageNet's."""
        return "height" in self.extra or self.num_classes != 1000


def save(path: str | os.PathLike, checkpoint: dict) -> None:
    """Write a checkpoint dict of tensors and plain Python values atomically."""
    atomic_write(path, lambda file: torch.save(checkpoint, file))


def read(path: str | os.PathLike) -> dict:
    """The dict in a `.pth`/`.pt`/`.t7` file, on the CPU. Only tensors and plain values are unpickled, never code.

    Raises:
        InputError: no such file, not a checkpoint, or a pickle that wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train one with `python train.py` or name it with --weights")
    if _is_compressed(path):
        raise InputError(f"{path}: refused: its contents are compressed, as torch never writes them")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old formats
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InputError(
            f"{path}: refused: it holds Python objects other than tensors and plain values, or is no checkpoint"
        ) from None
    except Exception as error:  # the unpickler raises nearly anything on a broken file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not a readable checkpoint ({reason[:120]})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a checkpoint: a {type(content).__name__} where a dict of tensors was expected")
    return content


def _is_compressed(path: Path) -> bool:
    """Whether a file would unpack to more than itself: a small one could fill the memory."""
    try:
        with zipfile.ZipFile(path) as file:
            return any(entry.file_size > entry.compress_size for entry in file.infolist())
    except Exception:  # no zip file, or a broken one: for torch to say
        return False


def load(path: str | os.PathLike) -> Checkpoint:
    """Read a checkpoint of any of the kinds above and recognise its architecture from its keys.

    Raises:
        InputError: unreadable, or of no known architecture.
    """
    path = Path(path)
    content = read(path)
    weights = content.get("net_dict", content.get("state_dict", content))
    extra = {} if weights is content else {k: v for k, v in content.items() if k not in ("net_dict", "state_dict")}
    if not isinstance(weights, dict):
        raise InputError(f"{path}: not a checkpoint: its weights are a {type(weights).__name__}, not a dict")
    net_dict = {str(key).removeprefix("module."): value for key, value in weights.items() if isinstance(value, Tensor)}
    if "features.18.1.weight" in net_dict and "features.1.conv.0.weight" in net_dict:
        net_dict = mobilenet.torchvision_keys(net_dict)
    _check_tensors(net_dict, path)
    try:
        arch, options, num_classes = recognise(net_dict, path)
    except (KeyError, IndexError):
        raise InputError(f"{path}: not a whole network; is it a checkpoint?") from None
    if isinstance(extra.get("arch"), str) and extra["arch"] in NAMES:
        arch, options = extra["arch"], extra.get("model_options", options)  # strides and pooling: keys cannot tell them
    if not isinstance(options, dict) or not all(map(_is_known, options.items())):
        raise InputError(f"{path}: model_options {options!r:.80} are none of this collection")
    height, width = extra.get("height", 128), extra.get("width", 64)
    if not all(isinstance(side, int) and 1 <= side <= LARGEST_SIDE for side in (height, width)):
        raise InputError(f"{path}: an input size of {height!r:.20} x {width!r:.20} is none; is the file damaged?")
    if not isinstance(extra.get("epoch", 0), int):  # written by others, and nothing depends on it
        del extra["epoch"]
    return Checkpoint(path, net_dict, arch, num_classes, options, height, width, extra)


def _is_known(option: tuple) -> bool:
    name, value = option
    return isinstance(value, int | str) and value in OPTIONS.get(name, ())


def _check_tensors(net_dict: dict[str, Tensor], path: Path) -> None:
    """Refuse tensors that are more than the numbers in the file, such as a shape of billions over one number."""
    for name, tensor in net_dict.items():
        plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and tensor.dtype in NUMBERS
        if not plain or not 0 < tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes():
            raise InputError(f"{path}: {name} is no plain tensor of numbers of shape {tuple(tensor.shape)}")
        if not tensor.isfinite().all():
            raise InputError(f"{path}: {name} holds NaN or infinite values; the file is damaged or its run diverged")


def recognise(net_dict: dict[str, Tensor], path: str | os.PathLike = "weights") -> tuple[str, dict, int | None]:
    """(architecture, options, classes) of a state dict, told from its keys and shapes; classes is None without any.

    Raises:
        InputError: the keys are those of no architecture here.
    """

    def rows(key: str) -> int | None:
        return net_dict[key].shape[0] if key in net_dict else None

    if "conv.0.weight" in net_dict and "layer4.1.conv2.weight" in net_dict:
        return "net", {}, rows("classifier.4.weight")
    # a seventh block in layer3: resnet101 and deeper, which would otherwise pass for half of themselves
    if {"conv1.weight", "layer3.1.conv1.weight"} <= set(net_dict) and "layer3.6.conv1.weight" not in net_dict:
        if "layer1.0.conv3.weight" not in net_dict:
            arch = "resnet34" if "layer3.5.conv1.weight" in net_dict else "resnet18"
        elif "layer1.0.bn1.IN.weight" in net_dict:
            arch = "resnet50_ibn"
        else:
            # 32 groups of 4 channels where resnet50 has one group of 64
            arch = "resnext50_32x4d" if net_dict["layer1.0.conv2.weight"].shape[1] == 4 else "resnet50"
        # a file that does not say its last stride was trained as torchvision builds it
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
    raise InputError(f"{path}: not a network of this collection ({', '.join(NAMES)}); is it a checkpoint?")


def _head(net_dict: dict[str, Tensor]) -> dict:
    """The options of what follows the convolutions."""
    return {
        "pooling": "gem" if "avgpool.p" in net_dict else "avg",
        "neck": "bn" if "neck.weight" in net_dict else "none",
    }


def starting_point(args, otherwise: str) -> Checkpoint | None:
    """The file of `--weights`, if any. Sets `args.model` where it is not given: to the file's, else to `otherwise`.

    The input size becomes that of the file as well, where none is given.

    Raises:
        InputError: the file cannot be read, or holds another architecture than `--model` asks for; or there is none of
            which a share could be kept.
    """
    if args.keep_start and not args.weights:
        raise InputError(f"--keep-start {args.keep_start:g}: of what? give --weights as well, or leave it out")
    if args.weights == "drawn":
        if args.model not in (None, shipped.ARCH):
            raise InputError(
                f"--weights drawn: the network that comes along is {shipped.ARCH}; for {args.model} make one: "
                + shipped.how_to_make(args.model)
            )
        args.model = shipped.ARCH
        return _sized(args, load(shipped.WEIGHTS))
    if not args.weights or args.weights == "imagenet":
        args.model = args.model or otherwise
        return imagenet_checkpoint(args.model) if args.weights else None
    start = load(args.weights)
    args.model = args.model or start.arch
    if start.arch != args.model:
        raise InputError(
            f"--weights {start.path}: holds a {start.arch}; give --model {start.arch} or leave --model out "
            f"(it is {args.model})"
        )
    return _sized(args, start)


def _sized(args, start: Checkpoint) -> Checkpoint:
    for side in ("height", "width"):
        if side not in args.given:
            setattr(args, side, getattr(start, side))
    return start


def load_pretrained(net: nn.Module, arch: str, checkpoint: Checkpoint) -> str:
    """Copy every tensor of `checkpoint` that fits into `net`, in place, and say what was and was not loaded.

    The classifier is left fresh when the identities differ. Any other mismatch is an error: half a trunk is worse
    than none, since nobody notices.

    Returns:
        one line with the counts.

    Raises:
        InputError: another architecture, or trunk tensors that are missing or of another shape.
    """
    if checkpoint.arch != arch:
        raise InputError(f"--weights {checkpoint.path}: holds a {checkpoint.arch}, but --model is {arch}")
    own = net.state_dict()
    fits = {k: v for k, v in checkpoint.net_dict.items() if k in own and v.shape == own[k].shape}
    trunk = [k for k in own if not k.startswith(net.classifier_prefix)]
    missing = [k for k in trunk if k not in fits and not k.endswith("num_batches_tracked") and not k.startswith(HEAD)]
    if missing:
        raise InputError(
            f"--weights {checkpoint.path}: {len(missing)} of {len(trunk)} trunk tensors of {arch} are missing or of "
            f"another shape, first {missing[0]}"
        )
    net.load_state_dict(own | fits)
    fresh = sorted(k for k in own if k not in fits)
    unused = sorted(k for k in checkpoint.net_dict if k not in fits)
    line = f"Loaded {len(fits)} of {len(own)} tensors from {checkpoint.path}"
    if fresh:
        line += f"; {len(fresh)} start fresh ({_shortened(fresh)})"
    if unused:
        line += f"; {len(unused)} of the file unused ({_shortened(unused)})"
    return line


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def imagenet_checkpoint(arch: str) -> Checkpoint:
    """torchvision's ImageNet weights of `arch`, or IBN-Net's, from the download cache or the network.

    Raises:
        InputError: the architecture has none, or they cannot be downloaded: names the file and where to put it.
    """
    import torchvision

    try:
        url = IBN_IMAGENET if arch == "resnet50_ibn" else torchvision.models.get_model_weights(arch).DEFAULT.url
    except ValueError:
        raise InputError(
            f"--weights imagenet: there are no ImageNet weights for --model {arch}; leave it out"
        ) from None
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file = folder / url.rsplit("/", 1)[-1]
    if not file.is_file():
        try:
            torch.hub.load_state_dict_from_url(url, progress=True, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"--weights imagenet: {file.name} could not be downloaded ({error}); "
                f"fetch {url} on another machine and put it at {file}"
            ) from None
    return load(file)
