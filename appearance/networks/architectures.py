"""The one table of networks, and `build_model`.

Every network here answers the same three calls:

* `embed(images)`: (N, 3, H, W) normalised images -> (N, D) pooled features, not normalised;
* `classify(features)`: (N, D) features -> (N, num_classes) logits, used for training only;
* `forward(images)`: logits, or with `reid=True` the features as unit rows, which is what a tracker compares.

`feature_dim` is the D above, and the parameters whose names begin with `classifier_prefix` belong to the training
identities.
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
