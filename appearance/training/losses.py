"""The losses, each a small function or module with a reference to its paper.

Shapes throughout: features (N, D) float, not normalised; logits (N, C) float; labels (N,) int64 in [0, C).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from appearance.distributed import gathered


def classification(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with label smoothing (Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016)."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


class CosineSoftmax(nn.Module):
    """Softmax over scaled cosines between unit features and unit class weights, with an additive margin.

    Wojke and Bewley, "Deep Cosine Metric Learning for Person Re-Identification", WACV 2018, eq. 4; the margin is that
    of Wang et al., "CosFace", CVPR 2018, eq. 4. It trains the cosine directly, which is what trackers compare.
    """

    def __init__(self, feature_dim: int, num_classes: int, scale: float = 20.0, margin: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        nn.init.normal_(self.weight)
        self.scale, self.margin = scale, margin

    def forward(self, features: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        cosines = F.linear(F.normalize(features.float(), dim=1), F.normalize(self.weight, dim=1))  # (N, C)
        if self.margin:
            cosines = cosines - self.margin * F.one_hot(labels, cosines.shape[1])
        return F.cross_entropy(self.scale * cosines, labels, label_smoothing=smoothing)


def batch_hard_triplet(features: Tensor, labels: Tensor, margin: float | None = None) -> Tensor:
    """Triplet loss of each anchor with its farthest positive and nearest negative in the batch, on unit vectors.

    Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, eq. 5; `margin=None`
    is their soft margin. Positives and negatives come from the batch of all processes.
    """
    anchors = F.normalize(features.float(), dim=1)
    others, other_labels, first = gathered(anchors, labels)
    distances = torch.cdist(anchors, others)  # (N, M)
    same = labels[:, None] == other_labels[None]
    itself = _itself(len(anchors), len(others), first, labels.device)  # (N, M)
    farthest = distances.masked_fill(~same | itself, float("-inf")).amax(1)
    nearest = distances.masked_fill(same, float("inf")).amin(1)
    usable = farthest.isfinite() & nearest.isfinite()  # anchors with a positive and a negative
    gap = torch.where(usable, farthest - nearest, 0.0)
    loss = F.softplus(gap) if margin is None else F.relu(gap + margin)
    return (loss * usable).sum() / usable.sum().clamp(min=1)


def circle(features: Tensor, labels: Tensor, margin: float = 0.25, scale: float = 64.0) -> Tensor:
    """Circle loss with pair-wise labels (Sun et al., "Circle Loss", CVPR 2020, eq. 6)."""
    anchors = F.normalize(features.float(), dim=1)
    others, other_labels, first = gathered(anchors, labels)
    cosines = anchors @ others.T  # (N, M)
    same = labels[:, None] == other_labels[None]
    itself = _itself(len(anchors), len(others), first, labels.device)  # (N, M)
    positive = -scale * (1 + margin - cosines).detach().clamp_min(0) * (cosines - 1 + margin)
    negative = scale * (cosines + margin).detach().clamp_min(0) * (cosines - margin)
    positive = positive.masked_fill(~same | itself, float("-inf")).logsumexp(1)
    negative = negative.masked_fill(same, float("-inf")).logsumexp(1)
    usable = positive.isfinite() & negative.isfinite()
    total = torch.where(usable, positive + negative, 0.0)
    return (F.softplus(total) * usable).sum() / usable.sum().clamp(min=1)


def same_neighbours(features: Tensor, vectors: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """Distillation of similarities: match the student's cosines between the images of the batch to the teacher's.

    KL divergence between the softmaxes over the other images (Passalis and Tefas, "Learning Deep Representations with
    Probabilistic Knowledge Transfer", ECCV 2018), with a temperature. `vectors`: (N, D') unit rows of the teacher; D'
    may differ from the student's D.
    """
    anchors = F.normalize(features.float(), dim=1)
    others, _, first = gathered(anchors, labels)
    other_vectors, _, _ = gathered(vectors, labels)
    itself = _itself(len(anchors), len(others), first, labels.device)  # (N, M)
    own, wanted = (
        (rows @ columns.T / temperature).masked_fill(itself, -1e4).log_softmax(1)  # (N, M)
        for rows, columns in ((anchors, others), (vectors, other_vectors))
    )
    return F.kl_div(own, wanted, reduction="batchmean", log_target=True)


def same_classes(logits: Tensor, wanted: Tensor, temperature: float = 2.0) -> Tensor:
    """Distillation of classes: KL divergence from the teacher's softened class probabilities.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015. The factor temperature**2 makes gradients
    comparable to those of the cross-entropy. `wanted`: (N, C) logits of the teacher.
    """
    own, wanted = ((x.float() / temperature).log_softmax(1) for x in (logits, wanted))
    return temperature**2 * F.kl_div(own, wanted, reduction="batchmean", log_target=True)


def _itself(rows: int, columns: int, first: int, device: torch.device) -> Tensor:
    """(N, M) bool: True where an anchor meets itself; column `first` is this process's first anchor."""
    return torch.arange(rows, device=device)[:, None] + first == torch.arange(columns, device=device)


METRIC_LOSSES = ("cosine", "triplet", "circle")


def metric_losses(names: str) -> list[str]:
    """The list of names in a text like "cosine+triplet"; [] for "none".

    Raises:
        ValueError: a name is unknown or repeated.
    """
    parts = [] if names == "none" else names.split("+")
    if not set(parts) <= set(METRIC_LOSSES) or len(set(parts)) < len(parts):
        raise ValueError(names)
    return parts
