"""Pooling and neck of ResNets and MobileNets."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GeM(nn.Module):
    """Generalised-mean pooling with a learned exponent, (N, C, H, W) -> (N, C, 1, 1).

    Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019, eq. 3.
    p = 1 is average pooling; a large p tends to max pooling.
    """

    def __init__(self, p: float = 3.0, eps: float = 1e-6):
        super().__init__()
        self.p = nn.Parameter(torch.tensor(p))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # float32: x ** 3 overflows in float16
        return F.adaptive_avg_pool2d(x.float().clamp_min(self.eps) ** self.p, 1) ** (1 / self.p)


class BNNeck(nn.BatchNorm1d):
    """Batch normalisation between pooling and classifier, without a shift: (N, D) -> (N, D).

    Luo et al., "Bag of Tricks", section 3.5. Trackers compare its output. All losses here use the output too; in the
    paper the triplet loss uses the input.
    """

    def __init__(self, feature_dim: int):
        super().__init__(feature_dim)
        self.bias.requires_grad_(False)
