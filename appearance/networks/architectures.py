"""The table of architectures, and `build_model`.

Every network has the same three methods:

* `embed(images)`: (N, 3, H, W) normalised images -> (N, D) features, not normalised;
* `classify(features)`: (N, D) features -> (N, num_classes) logits, for training only;
* `forward(images)`: (N, 3, H, W) -> (N, num_classes) logits, or with `reid=True` (N, D) unit rows for a tracker.

`feature_dim` is D; the names of the classifier's parameters begin with `classifier_prefix`.
"""

from torch import nn

from appearance.networks import osnet, resnet
from appearance.networks.mobilenet import ReIDMobileNetV2
from appearance.networks.net import Net

# name -> builder(num_classes, reid, **options)
ARCHITECTURES = {
    "net": Net,
    **{name: resnet.builder(name) for name in resnet.TRUNKS},
    **{name: osnet.builder(name) for name in osnet.WIDTHS},
    "mobilenet_v2": ReIDMobileNetV2,
}
HAVE_OPTIONS = {"mobilenet_v2", *resnet.TRUNKS}  # architectures with `last_stride`, `pooling` and `neck`


def build_model(name: str, num_classes: int = 751, reid: bool = False, **options) -> nn.Module:
    """Build an architecture by name.

    Args:
        name: a key of `ARCHITECTURES`.
        num_classes: outputs of the classifier.
        reid: `forward` returns unit feature rows instead of logits.
        options: `last_stride` (1 or 2), `pooling` ("avg" or "gem") and `neck` ("none" or "bn") for architectures in
            `HAVE_OPTIONS`; `truncated` (without `layer4`) for ResNets.

    Raises:
        KeyError: unknown architecture.
        TypeError: the architecture does not have the option.
    """
    return ARCHITECTURES[name](num_classes=num_classes, reid=reid, **options)
