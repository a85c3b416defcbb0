"""The ResNets, under the well-known name; `model.build_model` builds them by theirs."""

from appearance.networks.resnet import TRUNKS, ReIDResNet

__all__ = ["TRUNKS", "ReIDResNet"]
