"""Find networks in checkpoints of other training programs.

Other programs wrap a network before saving it, so its tensors have names like `module.conv1.weight` or
`model.backbone._orig_mod.conv1.weight`, one or two dicts deep. There is no list of known prefixes: a network is found
wherever the names after a common prefix are those of a supported architecture.

The file may also contain tensors of the training (classifier, loss), and layers that change the vector (an embedding
layer, a batch norm after the pooling). The former are dropped. The latter are kept, so that building the network fails
with an error, instead of giving other vectors than it was trained for.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile

import torch
from torch import Tensor

from appearance.cli import one_line
from appearance.data.augment import IMAGENET_MEAN, IMAGENET_STD
from appearance.networks import mobilenet
from appearance.networks.architectures import ARCHITECTURES, build_model

Recognised = tuple[str, dict, int | None]  # architecture, options, classes

NUMBER_OF_BATCHES = "num_batches_tracked"  # a counter, irrelevant for inference
DEPTH = 3  # nested dicts to search
FIRST = ("conv.0.weight", "conv1.weight", "conv1.conv.weight", "features.0.0.weight")  # first tensors of the networks
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
LOSS = ("loss", "criterion", "center", "arcface", "cosface", "margin", "prox", "metric", "temperature", "logit_scale")
CLASSIFIER = ("class", "cls", "logit", "softmax")
EMBEDDING = ("embed", "proj", "reduc", "bottleneck", "neck", "feat")


# ---------------------------------------------------------------------------------------------------------------------
# Tensors of the supported architectures


def trunk(arch: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an architecture's tensors without its classifier, in order."""
    return _tensors(arch)[0]


def classifier(arch: str) -> tuple[str, ...]:
    """Names of the tensors of an architecture's classifier."""
    return tuple(_tensors(arch)[1])


@cache
def _tensors(arch: str) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    with torch.device("meta"):  # names and shapes only
        net = build_model(arch, 1)
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    parts = ({}, {})
    for name, shape in shapes.items():
        parts[name.startswith(net.classifier_prefix)][name] = shape
    return parts


def nearest(weights: dict[str, Tensor]) -> str:
    """Text for a message: the architecture with the most tensors in common with `weights`, and the differences."""
    names = _unwrapped(weights)
    if not names:
        return "the file contains no tensors"
    best = (-1.0, "", "", set())
    for arch in ARCHITECTURES:
        wanted = {name: shape for name, shape in trunk(arch).items() if shape}
        under: dict[str, set[str]] = {}
        for name, tensor in names.items():
            parts = name.split(".")
            for count in range(len(parts)):
                if wanted.get(".".join(parts[count:])) == tuple(tensor.shape):
                    under.setdefault("".join(f"{part}." for part in parts[:count]), set()).add(name)
        prefix = max(under, key=lambda prefix: len(under[prefix]), default="")
        fit = under.get(prefix, set())
        best = max(best, (len(fit) / len(wanted), arch, prefix, fit), key=lambda one: one[0])
    _, arch, prefix, fit = best
    if not fit:
        return f"no tensor fits any of {', '.join(ARCHITECTURES)}; the file has {listed(list(names))}"
    wanted = [name for name, shape in trunk(arch).items() if shape]
    missing = [name for name in wanted if prefix + name not in names]
    others = [name for name in names if name not in fit and not name.endswith(NUMBER_OF_BATCHES)]
    line = f"the closest is {arch}: {len(fit)} of its {len(wanted)} tensors fit"
    line += f"; unknown: {listed(others)}" if others else ""
    return line + (f"; missing: {listed(missing)}" if missing else "")


def layers(names: list[str]) -> list[str]:
    """One tensor of each layer, for messages."""
    return list({name.rpartition(".")[0]: name for name in reversed(names)}.values())[::-1]


def listed(names: list[str], most: int = 3) -> str:
    """The first `most` names on one line; long ones are cut at the front. Names come from a file: escape them."""
    shown = [one_line(name if len(name) <= 50 else "..." + name[-47:]) for name in names[:most]]
    return ", ".join(shown) + (", ..." if len(names) > most else "")


# ---------------------------------------------------------------------------------------------------------------------
# Search


@dataclass
class Found:
    """A network found in a file."""

    where: str  # keys of dicts and prefix, as in Python code; "" at the top level
    tensors: dict[str, Tensor]  # under this repository's names, with further tensors that may change the vector
    recognised: Recognised
    beside: dict  # plain values in the same dicts
    left_out: list[str]  # layers dropped as classifier by their shape, not by their name


def networks(content: dict, recognise: Callable[[dict], Recognised | None]) -> list[Found]:
    """All networks in a file's content, in any dict and under any prefix.

    Args:
        content: a dict of tensors, plain values and such dicts.
        recognise: state dict -> architecture, options and classes; None: not a supported network.
    """
    found = []
    for keys, weights, beside in dicts(content):
        names = _unwrapped(weights)
        prefixes: dict[str, Recognised | None] = {}
        for name in list(names):
            prefix = next((name[: -len(first)] for first in FIRST if f".{name}".endswith(f".{first}")), None)
            if prefix is None or prefix in prefixes or _says(LOSS, prefix):
                continue
            names = _as_torchvision(names, prefix)
            prefixes[prefix] = recognise({n[len(prefix) :]: t for n, t in names.items() if n.startswith(prefix)})
        prefixes = {prefix: recognised for prefix, recognised in prefixes.items() if recognised}
        for prefix, recognised in prefixes.items():
            others = tuple(other for other in prefixes if other and other != prefix and not prefix.startswith(other))
            alone = {name: tensor for name, tensor in names.items() if not name.startswith(others)}
            tensors, left_out = _kept(alone, prefix, recognised)
            where = "".join(f"[{key!r}]" for key in keys) + (f" {prefix}" if prefix else "")
            found.append(Found(where.strip(), tensors, recognised, beside, left_out))
    return found


def dicts(content: dict, keys: tuple = (), beside: dict | None = None) -> Iterator[tuple[tuple, dict, dict]]:
    """Each dict with tensors: (its keys from the top, its tensors, the other values of the dicts around it)."""
    weights = {str(name): value for name, value in content.items() if _is_tensor(value)}
    if weights:
        yield keys, weights, beside or {}
    if len(keys) < DEPTH:
        for key, value in content.items():
            if isinstance(key, str) and isinstance(value, dict):
                plain = {name: other for name, other in content.items() if name != key}
                yield from dicts(value, (*keys, key), (beside or {}) | plain)


def _is_tensor(value: object) -> bool:
    """Whether a value is a tensor with a shape (nested tensors have none)."""
    return isinstance(value, Tensor) and not value.is_nested


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the parts of names that DataParallel, torch.compile and other wrappers insert."""
    names = {name: ".".join(part for part in name.split(".") if part not in WRAPPERS) for name in weights}
    if len(set(names.values())) < len(names):  # the file has a wrapped and a bare network: keep their names apart
        return weights
    return {names[name]: tensor for name, tensor in weights.items()}


def _as_torchvision(names: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Rename a MobileNetV2 with flat blocks under `prefix` to torchvision's names; other networks are unchanged."""
    inside = {name[len(prefix) :]: tensor for name, tensor in names.items() if name.startswith(prefix)}
    flat = {prefix + name for name in inside if name.startswith("features.")}
    known = sum(name.startswith("features.") for name in trunk("mobilenet_v2"))
    if not {"features.18.1.weight", "features.1.conv.0.weight"} <= inside.keys() or len(flat) != known:
        return names
    outside = {name: tensor for name, tensor in names.items() if name not in flat}
    return outside | {prefix + name: tensor for name, tensor in mobilenet.torchvision_keys(inside).items()}


# ---------------------------------------------------------------------------------------------------------------------
# Further tensors of a file


def _kept(names: dict[str, Tensor], prefix: str, recognised: Recognised) -> tuple[dict[str, Tensor], list[str]]:
    """The network's tensors with all that may change its vector, and the layers dropped as a classifier."""
    arch, options, classes = recognised
    shapes = trunk(arch)
    own = {*shapes, *classifier(arch), "avgpool.p"}
    kept: dict[str, Tensor] = {}
    groups: dict[str, dict[str, Tensor]] = {}  # other tensors by layer
    for name, tensor in names.items():
        inside = name.removeprefix(prefix) if name.startswith(prefix) else ""
        if inside in own or inside.startswith("neck."):
            kept[inside] = tensor
            continue
        pairs = zip(name.split("."), prefix.split("."), strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        groups.setdefault(".".join(name.split(".")[: shared + 1]), {})[name] = tensor
    sizes = [
        shape for name, shape in shapes.items() if shape and (not options.get("truncated") or "layer4" not in name)
    ]
    feature_dim = sizes[-1][0]
    left_out = []
    for group, tensors in groups.items():
        if _is_of_the_loss(group, tensors):
            continue
        if classes != feature_dim and _is_one_linear(tensors, feature_dim) and not _says(EMBEDDING, *tensors):
            left_out += [] if _says(CLASSIFIER, *tensors) else [group]
            continue
        kept |= {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return kept, left_out


def _is_of_the_loss(group: str, tensors: dict[str, Tensor]) -> bool:
    """Whether tensors belong to a loss, or are ImageNet's mean and standard deviation, which are applied anyway."""
    if _says(LOSS, group) or all(not tensor.is_floating_point() for tensor in tensors.values()):
        return True
    return all(tensor.numel() == 3 and _is_imagenets(tensor) for tensor in tensors.values())


def _is_imagenets(tensor: Tensor) -> bool:
    """Whether a tensor of three numbers is ImageNet's mean or standard deviation (for colours from 0 to 1)."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return False
    values = tensor.detach().flatten().float()
    return any(torch.allclose(values, torch.tensor(one), atol=1e-4) for one in (IMAGENET_MEAN, IMAGENET_STD))


def _is_one_linear(tensors: dict[str, Tensor], feature_dim: int) -> bool:
    """Whether tensors are one linear layer on the network's vector, with or without bias."""
    matrices = [tensor for tensor in tensors.values() if tensor.dim() == 2]
    shifts = [tensor for tensor in tensors.values() if tensor.dim() != 2]
    if len(matrices) != 1 or len(shifts) > 1 or feature_dim not in matrices[0].shape:
        return False
    return all(tuple(shift.shape) == (matrices[0].shape[0],) for shift in shifts)


def _says(words: tuple[str, ...], *names: str) -> bool:
    return any(word in name.lower() for word in words for name in names)
