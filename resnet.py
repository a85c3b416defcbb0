"""The ResNets, under the well-known name; they stand in `appearance/networks/resnet.py`."""

from appearance.networks.resnet import TRUNKS, ReIDResNet

__all__ = ["TRUNKS", "ReIDResNet"]
