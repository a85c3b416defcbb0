"""The networks: `Net`, the CNN of DeepSORT, and `build_model`, the one table of architectures.

Every network here answers the same three calls:

* `embed(images)`: (N, 3, H, W) normalised images -> (N, D) pooled features, not normalised;
* `classify(features)`: (N, D) features -> (N, num_classes) logits, used for training only;
* `forward(images)`: logits, or with `reid=True` the features as unit rows, which is what a tracker compares.

`feature_dim` is the D above, and the parameters whose names begin with `classifier_prefix` belong to the training
identities.
"""

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

import resnet
from appearance.cli import InputError
from appearance.networks import osnet
from appearance.networks.checkpoints import Checkpoint
from appearance.networks.foreign import layers, listed
from appearance.networks.inference import unit_rows
from appearance.networks.mobilenet import ReIDMobileNetV2


class Net(nn.Module):
    """The appearance network of DeepSORT, in the parameter names and shapes of the published `ckpt.t7`.

    A ResNet-like CNN of 11.2 M parameters for 128x64 crops (any size works, the pooling is adaptive). After Wojke et
    al., "Simple Online and Realtime Tracking with a Deep Association Metric", ICIP 2017, as re-implemented for PyTorch.

    Args:
        num_classes: number of training identities, the outputs of the classifier.
        reid: return unit feature rows instead of logits.
    """

    feature_dim = 512
    classifier_prefix = "classifier."

    def __init__(self, num_classes: int = 751, reid: bool = False):
        super().__init__()
        self.reid = reid
        self.conv = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=1, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.layer1 = _stage(64, 64, stride=1)
        self.layer2 = _stage(64, 128, stride=2)
        self.layer3 = _stage(128, 256, stride=2)
        self.layer4 = _stage(256, 512, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(512, 256),
            nn.BatchNorm1d(256),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(256, num_classes),
        )

    def embed(self, images: Tensor) -> Tensor:
        x = self.conv(images)  # (N, 64, H/2, W/2)
        x = self.layer1(x)  # (N, 64, H/2, W/2)
        x = self.layer2(x)  # (N, 128, H/4, W/4)
        x = self.layer3(x)  # (N, 256, H/8, W/8)
        x = self.layer4(x)  # (N, 512, H/16, W/16)
        return self.avgpool(x).flatten(1)  # (N, 512)

    def classify(self, features: Tensor) -> Tensor:
        return self.classifier(features)  # (N, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.embed(images)
        return unit_rows(features) if self.reid else self.classify(features)


def _stage(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """Two basic blocks; the first one changes the shape where asked, with a 1x1 convolution on its shortcut."""
    shortcut = None
    if stride != 1 or channels_in != channels_out:
        shortcut = nn.Sequential(conv1x1(channels_in, channels_out, stride), nn.BatchNorm2d(channels_out))
    return nn.Sequential(
        BasicBlock(channels_in, channels_out, stride, shortcut), BasicBlock(channels_out, channels_out)
    )


# name -> builder(num_classes, reid, **options)
ARCHITECTURES = {
    "net": Net,
    "mobilenet_v2": ReIDMobileNetV2,
    **{name: osnet.builder(name) for name in osnet.WIDTHS},
    **{name: resnet.builder(name) for name in resnet.TRUNKS},
}
HAVE_OPTIONS = {"mobilenet_v2", *resnet.TRUNKS}  # `last_stride`, `pooling` and `neck`; the others are fixed


def build_model(name: str, num_classes: int = 751, reid: bool = False, **options) -> nn.Module:
    """Build an architecture by name.

    Args:
        name: a key of `ARCHITECTURES`.
        num_classes: outputs of the classifier.
        reid: return unit feature rows instead of logits.
        options: for those in `HAVE_OPTIONS` `last_stride` (1 or 2), `pooling` ("avg" or "gem") and `neck` ("none" or
            "bn"), for the ResNets `truncated` (no `layer4`).

    Raises:
        KeyError: no architecture of that name.
        TypeError: an option that the architecture does not have.
    """
    return ARCHITECTURES[name](num_classes=num_classes, reid=reid, **options)


def from_checkpoint(checkpoint: Checkpoint, reid: bool = True) -> nn.Module:
    """The network of a checkpoint with its weights, every tensor in its place, in eval mode.

    Raises:
        InputError: a tensor is missing, too many, or of another shape or kind; or the network gives no vectors.
    """
    arch, options, weights = checkpoint.arch, checkpoint.model_options, checkpoint.net_dict
    classes = checkpoint.num_classes or 1
    try:
        with torch.device("meta"):  # a file may claim any size: compare before taking memory for it
            expected = build_model(arch, classes, **options).state_dict()
        for name, tensor in expected.items():
            if name in weights and weights[name].shape != tensor.shape:
                found, wanted = (tuple(t.shape) for t in (weights[name], tensor))
                raise ValueError(f"{name} has shape {found}, not {wanted}")
            if name in weights and tensor.is_floating_point() and not weights[name].is_floating_point():
                raise ValueError(f"{name} holds whole numbers ({weights[name].dtype})")
        others = [name for name in weights if name not in expected]
        if others:
            raise ValueError(
                f"it also has {listed(layers(others))}, which {arch} has not got here, so its vectors would be others; "
                "train.py --weights can start from it"
            )
        net = build_model(arch, classes, reid=reid, **options)
        if checkpoint.num_classes is None:  # features only: the untrained classifier is never used
            unused = {name: value for name, value in net.state_dict().items() if name.startswith(net.classifier_prefix)}
            weights = unused | weights
        net.load_state_dict(weights)
    except (ValueError, TypeError) as error:
        raise InputError(f"{checkpoint.path}: not a whole {arch}: {error}") from None
    except RuntimeError as error:
        missing = [name for name in expected if name not in weights]
        problem = f"it lacks {listed(missing)} ({len(missing)} of {len(expected)} tensors)" if missing else str(error)
        raise InputError(f"{checkpoint.path}: not a whole {arch}: {problem}") from None
    checkpoint.check(net.eval())
    return net
