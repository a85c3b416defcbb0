"""Re-exports the networks, because users of older scripts import them from `model`.

`Net`, the CNN of DeepSORT, is in `appearance/networks/net.py`; `build_model` builds all architectures by name
(`appearance/networks/architectures.py`). They are in a package so that a tracker that imports `feature_extractor` can
have a `model.py` of its own.
"""

from appearance.networks.architectures import ARCHITECTURES, HAVE_OPTIONS, build_model
from appearance.networks.checkpoints import from_checkpoint
from appearance.networks.net import Net

__all__ = ["ARCHITECTURES", "HAVE_OPTIONS", "Net", "build_model", "from_checkpoint"]
