"""The networks, under the well-known names.

`Net`, the CNN of DeepSORT, stands in `appearance/networks/net.py`; `build_model` builds it and the others by name
(`appearance/networks/architectures.py`). They live there so that a tracker which imports `feature_extractor` may have a
`model.py` of its own.
"""

from appearance.networks.architectures import ARCHITECTURES, HAVE_OPTIONS, build_model
from appearance.networks.checkpoints import from_checkpoint
from appearance.networks.net import Net

__all__ = ["ARCHITECTURES", "HAVE_OPTIONS", "Net", "build_model", "from_checkpoint"]
