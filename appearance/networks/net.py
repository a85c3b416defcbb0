"""`Net`, the appearance network of DeepSORT."""

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, conv1x1

from appearance.networks.inference import unit_rows


class Net(nn.Module):
    """The appearance network of DeepSORT, with the parameter names and shapes of the published `ckpt.t7`.

    A ResNet-like CNN with 11.2 M parameters for 128x64 crops; other sizes work too. PyTorch re-implementation of Wojke
    et al., "Simple Online and Realtime Tracking with a Deep Association Metric", ICIP 2017.

    Args:
        num_classes: number of training identities.
        reid: `forward` returns unit feature rows instead of logits.
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
    """Two basic blocks; if the first changes the shape, it has a 1x1 convolution on its shortcut."""
    shortcut = None
    if stride != 1 or channels_in != channels_out:
        shortcut = nn.Sequential(conv1x1(channels_in, channels_out, stride), nn.BatchNorm2d(channels_out))
    return nn.Sequential(
        BasicBlock(channels_in, channels_out, stride, shortcut), BasicBlock(channels_out, channels_out)
    )
