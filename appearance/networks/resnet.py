"""resnet18, resnet34, resnet50, resnet50_ibn and resnext50_32x4d for re-ID, with torchvision's blocks and names.

With `last_stride=2` and `pooling="avg"` the networks are torchvision's: the same keys, the same logits. With
`last_stride=1` the last feature map has twice the height and width, which helps re-ID (Luo et al., "Bag of Tricks and
a Strong Baseline for Deep Person Re-Identification", CVPRW 2019, section 3.4).
"""

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from appearance.networks.heads import BNNeck, GeM
from appearance.networks.inference import unit_rows

# name -> (block, blocks per stage, further arguments of torchvision's ResNet)
TRUNKS = {
    "resnet18": (BasicBlock, (2, 2, 2, 2), {}),
    "resnet34": (BasicBlock, (3, 4, 6, 3), {}),
    "resnet50": (Bottleneck, (3, 4, 6, 3), {}),
    "resnet50_ibn": (Bottleneck, (3, 4, 6, 3), {}),
    "resnext50_32x4d": (Bottleneck, (3, 4, 6, 3), {"groups": 32, "width_per_group": 4}),
}


class InstanceBatchNorm(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the other half.

    Pan et al., "Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net", ECCV 2018, IBN-a, with the
    names of its public files. Instance normalisation removes the light and colours of the camera.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.IN = nn.InstanceNorm2d(channels // 2, affine=True)
        self.BN = nn.BatchNorm2d(channels - channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.split([self.IN.num_features, self.BN.num_features], dim=1)
        return torch.cat([self.IN(first), self.BN(second)], dim=1)  # (N, C, H, W)


class ReIDResNet(ResNet):
    """torchvision's ResNet with the methods of `architectures.py` (`embed`, `classify`, `reid=True`).

    Args:
        name: a key of `TRUNKS`.
        num_classes: outputs of `fc`.
        reid: `forward` returns unit feature rows instead of logits.
        last_stride: stride of `layer4`, 1 (re-ID) or 2 (torchvision).
        pooling: "avg" or "gem".
        neck: "none" or "bn" (BNNeck) after the pooling.
        truncated: without `layer4`, as in files of older DeepSORT scripts (256 or 1024 features).
    """

    classifier_prefix = "fc."

    def __init__(
        self,
        name: str,
        num_classes: int,
        reid: bool = False,
        last_stride: int = 1,
        pooling: str = "avg",
        neck: str = "none",
        truncated: bool = False,
    ):
        block, blocks, arguments = TRUNKS[name]
        super().__init__(block, list(blocks), num_classes=num_classes, **arguments)
        self.reid = reid
        if name == "resnet50_ibn":
            for bottleneck in (*self.layer1, *self.layer2, *self.layer3):
                bottleneck.bn1 = InstanceBatchNorm(bottleneck.bn1.num_features)
        if truncated:
            self.layer4 = nn.Identity()
        elif last_stride == 1:
            first = self.layer4[0]
            strided = first.conv1 if block is BasicBlock else first.conv2
            strided.stride = first.downsample[0].stride = (1, 1)
        self.feature_dim = (256 if truncated else 512) * block.expansion
        if truncated:
            self.fc = nn.Linear(self.feature_dim, num_classes)
        if pooling == "gem":
            self.avgpool = GeM()
        self.neck = BNNeck(self.feature_dim) if neck == "bn" else nn.Identity()

    def embed(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))  # (N, 64, H/4, W/4)
        x = self.layer1(x)  # (N, 64e, H/4, W/4), e = 1 for basic blocks and 4 for bottlenecks
        x = self.layer2(x)  # (N, 128e, H/8, W/8)
        x = self.layer3(x)  # (N, 256e, H/16, W/16)
        x = self.layer4(x)  # (N, 512e, H/16, W/16) with last_stride=1
        return self.neck(self.avgpool(x).flatten(1))  # (N, 512e)

    def classify(self, features: Tensor) -> Tensor:
        return self.fc(features)  # (N, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.embed(images)
        return unit_rows(features) if self.reid else self.classify(features)


def builder(name: str):
    """The constructor of the ResNet `name` of `TRUNKS`, for `num_classes`, `reid` and the options above."""
    return partial(ReIDResNet, name)
