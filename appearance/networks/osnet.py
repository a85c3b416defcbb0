"""OSNet, a light multi-scale network for re-ID, in several widths.

Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019. Written from the paper, with the
parameter names of the authors' published weights, so that these load unchanged.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from appearance.networks.inference import unit_rows

# name -> channels after the stem and after each of the three stages (paper, table 1, times the width)
WIDTHS = {
    "osnet_x0_25": (16, 64, 96, 128),
    "osnet_x0_5": (32, 128, 192, 256),
    "osnet_x0_75": (48, 192, 288, 384),
    "osnet_x1_0": (64, 256, 384, 512),
}
BOTTLENECK = 4  # channel reduction inside a block
GATE_REDUCTION = 16  # channel reduction of the gate's hidden layer
SCALES = "abcd"  # the streams of a block: "a" has a receptive field of 3x3 pixels, "d" of 9x9


class ConvNorm(nn.Module):
    """Convolution, BatchNorm, and a ReLU unless `linear`."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 1, stride: int = 1, linear: bool = False):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(channels_out)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.linear else F.relu(x, inplace=True)


class Lite3x3(nn.Module):
    """A 3x3 convolution factorised into pointwise and depthwise (paper, section 3.1)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv2(self.conv1(x))), inplace=True)


class Gate(nn.Module):
    """Channel-wise, image-dependent weights of a stream (paper, section 3.2)."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // GATE_REDUCTION, 1)
        self.fc2 = nn.Conv2d(channels // GATE_REDUCTION, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(x, 1)  # (N, C, 1, 1)
        return x * self.fc2(F.relu(self.fc1(pooled))).sigmoid()  # (N, C, H, W)


class Block(nn.Module):
    """The omni-scale residual block: four streams of growing receptive field, fused by one shared gate."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        middle = channels_out // BOTTLENECK
        self.conv1 = ConvNorm(channels_in, middle)
        for depth, scale in enumerate(SCALES, start=1):
            stream = [Lite3x3(middle) for _ in range(depth)]
            self.add_module(f"conv2{scale}", nn.Sequential(*stream) if depth > 1 else stream[0])
        self.gate = Gate(middle)
        self.conv3 = ConvNorm(middle, channels_out, linear=True)
        self.downsample = ConvNorm(channels_in, channels_out, linear=True) if channels_in != channels_out else None

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.conv1(x)
        fused = sum(self.gate(getattr(self, f"conv2{scale}")(reduced)) for scale in SCALES)
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.conv3(fused) + shortcut)


class OSNet(nn.Module):
    """OSNet with the methods of `architectures.py` (`embed`, `classify`, `reid=True`).

    Args:
        name: a key of `WIDTHS`.
        num_classes: outputs of `classifier`.
        reid: `forward` returns unit feature rows instead of logits.
    """

    feature_dim = 512
    classifier_prefix = "classifier."

    def __init__(self, name: str, num_classes: int, reid: bool = False):
        super().__init__()
        self.reid = reid
        stem, *stages = WIDTHS[name]
        self.conv1 = ConvNorm(3, stem, kernel=7, stride=2)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2 = _stage(stem, stages[0], halve=True)
        self.conv3 = _stage(stages[0], stages[1], halve=True)
        self.conv4 = _stage(stages[1], stages[2], halve=False)
        self.conv5 = ConvNorm(stages[2], stages[2])
        self.fc = nn.Sequential(
            nn.Linear(stages[2], self.feature_dim), nn.BatchNorm1d(self.feature_dim), nn.ReLU(inplace=True)
        )
        self.classifier = nn.Linear(self.feature_dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.conv1(images))  # (N, C0, H/4, W/4)
        x = self.conv2(x)  # (N, C1, H/8, W/8)
        x = self.conv3(x)  # (N, C2, H/16, W/16)
        x = self.conv5(self.conv4(x))  # (N, C3, H/16, W/16)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))  # (N, 512)

    def classify(self, features: Tensor) -> Tensor:
        return self.classifier(features)  # (N, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.embed(images)
        return unit_rows(features) if self.reid else self.classify(features)


def _stage(channels_in: int, channels_out: int, halve: bool) -> nn.Sequential:
    """Two blocks and, if `halve`, a transition that halves height and width."""
    stage = [Block(channels_in, channels_out), Block(channels_out, channels_out)]
    if halve:
        stage.append(nn.Sequential(ConvNorm(channels_out, channels_out), nn.AvgPool2d(2)))
    return nn.Sequential(*stage)


def builder(name: str):
    """The constructor of the OSNet `name` of `WIDTHS`, for `num_classes` and `reid`."""
    return partial(OSNet, name)
