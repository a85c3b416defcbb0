"""The networks, under the well-known names: `Net`, the CNN of DeepSORT, and `build_model` for it and the others."""

from appearance.networks.architectures import ARCHITECTURES, HAVE_OPTIONS, build_model
from appearance.networks.checkpoints import from_checkpoint
from appearance.networks.net import Net

__all__ = ["ARCHITECTURES", "HAVE_OPTIONS", "Net", "build_model", "from_checkpoint"]
