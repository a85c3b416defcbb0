"""The losses, each a small function or module with its paper named.

Shapes throughout: features (N, D) float, not normalised; logits (N, C) float; labels (N,) int64 in [0, C).
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def classification(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with label smoothing (Szegedy et al., "Rethinking the Inception Architecture", CVPR 2016)."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


class CosineSoftmax(nn.Module):
    """Softmax over scaled cosines between unit features and unit class weights, with an additive margin.

    Wojke and Bewley, "Deep Cosine Metric Learning for Person Re-Identification", WACV 2018, eq. 4; the margin is that
    of Wang et al., "CosFace", CVPR 2018, eq. 4. It trains exactly what a tracker compares, so cosines spread.
    """

    def __init__(self, feature_dim: int, num_classes: int, scale: float = 16.0, margin: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        nn.init.normal_(self.weight)
        self.scale, self.margin = scale, margin

    def forward(self, features: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        cosines = F.linear(F.normalize(features.float(), dim=1), F.normalize(self.weight, dim=1))  # (N, C)
        if self.margin:
            cosines = cosines - self.margin * F.one_hot(labels, cosines.shape[1])
        return F.cross_entropy(self.scale * cosines, labels, label_smoothing=smoothing)


class ArcFace(CosineSoftmax):
    """The same with an angular margin (Deng et al., "ArcFace", CVPR 2019, eq. 3)."""

    def forward(self, features: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        cosines = F.linear(F.normalize(features.float(), dim=1), F.normalize(self.weight, dim=1))
        own = F.one_hot(labels, cosines.shape[1]).bool()
        angles = torch.acos(cosines.clamp(-1 + 1e-6, 1 - 1e-6))
        # past pi - margin the cosine would rise again
        cosines = torch.where(own, torch.cos((angles + self.margin).clamp(max=torch.pi)), cosines)
        return F.cross_entropy(self.scale * cosines, labels, label_smoothing=smoothing)


def batch_hard_triplet(features: Tensor, labels: Tensor, margin: float | None = None) -> Tensor:
    """Each anchor against its farthest positive and nearest negative, on the unit sphere.

    Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017, eq. 5; `margin=None`
    is their soft margin. With several processes the candidates come from all of them.
    """
    anchors = F.normalize(features.float(), dim=1)
    others, other_labels, first = _gathered(anchors, labels)
    distances = torch.cdist(anchors, others)  # (N, M)
    same = labels[:, None] == other_labels[None]
    itself = torch.arange(len(labels), device=labels.device)[:, None] + first == torch.arange(
        len(other_labels), device=labels.device
    )
    farthest = distances.masked_fill(~same | itself, float("-inf")).amax(1)
    nearest = distances.masked_fill(same, float("inf")).amin(1)
    usable = farthest.isfinite() & nearest.isfinite()  # anchors that have both a positive and a negative
    gap = torch.where(usable, farthest - nearest, 0.0)
    loss = F.softplus(gap) if margin is None else F.relu(gap + margin)
    return (loss * usable).sum() / usable.sum().clamp(min=1)


def circle(features: Tensor, labels: Tensor, margin: float = 0.25, scale: float = 64.0) -> Tensor:
    """Circle loss with pair-wise labels (Sun et al., "Circle Loss", CVPR 2020, eq. 6)."""
    anchors = F.normalize(features.float(), dim=1)
    others, other_labels, first = _gathered(anchors, labels)
    cosines = anchors @ others.T  # (N, M)
    same = labels[:, None] == other_labels[None]
    itself = torch.arange(len(labels), device=labels.device)[:, None] + first == torch.arange(
        len(other_labels), device=labels.device
    )
    positive = -scale * (1 + margin - cosines).detach().clamp_min(0) * (cosines - 1 + margin)
    negative = scale * (cosines + margin).detach().clamp_min(0) * (cosines - margin)
    positive = positive.masked_fill(~same | itself, float("-inf")).logsumexp(1)
    negative = negative.masked_fill(same, float("-inf")).logsumexp(1)
    usable = positive.isfinite() & negative.isfinite()
    total = torch.where(usable, positive + negative, 0.0)
    return (F.softplus(total) * usable).sum() / usable.sum().clamp(min=1)


class CenterLoss(nn.Module):
    """Half the squared distance to the class's learned centre (Wen et al., ECCV 2016, eq. 2), on unit features."""

    def __init__(self, feature_dim: int, num_classes: int):
        super().__init__()
        self.centers = nn.Parameter(F.normalize(torch.randn(num_classes, feature_dim), dim=1))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return 0.5 * (F.normalize(features.float(), dim=1) - self.centers[labels]).square().sum(1).mean()


def same_neighbours(features: Tensor, vectors: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """How far each image's cosines to the rest of the batch are from those of a teacher's vectors (N, D').

    Passalis and Tefas, "Learning Deep Representations with Probabilistic Knowledge Transfer", ECCV 2018: the divergence
    of two softmaxes over the others, here with a temperature. Pupil and teacher may have vectors of different lengths.
    """
    anchors = F.normalize(features.float(), dim=1)
    others, _, first = _gathered(anchors, labels)
    other_vectors, _, _ = _gathered(vectors, labels)
    itself = torch.arange(len(labels), device=labels.device)[:, None] + first == torch.arange(
        len(others), device=labels.device
    )
    own, wanted = (
        (rows @ columns.T / temperature).masked_fill(itself, -1e4).log_softmax(1)  # (N, M)
        for rows, columns in ((anchors, others), (vectors, other_vectors))
    )
    return F.kl_div(own, wanted, reduction="batchmean", log_target=True)


def same_classes(logits: Tensor, wanted: Tensor, temperature: float = 2.0) -> Tensor:
    """The divergence from a teacher's softened classes (Hinton et al., "Distilling the Knowledge in a Neural Network",
    2015), times the temperature squared, which keeps its gradients as large as those of the right class."""
    own, wanted = ((x.float() / temperature).log_softmax(1) for x in (logits, wanted))
    return temperature**2 * F.kl_div(own, wanted, reduction="batchmean", log_target=True)


def _gathered(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """Features and labels of all processes, and the row at which this process's own begin.

    Gradients flow back to the process a feature came from, so that mining across N processes trains like one.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return features, labels, 0
    gather = torch.compiler.disable(_Gather.apply)
    return gather(features), gather(labels), dist.get_rank() * len(labels)


class _Gather(torch.autograd.Function):
    """The rows of all processes, in rank order; each gets back the gradients that all have for its own."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradients: Tensor) -> Tensor:
        gradients = gradients.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradients)
        return gradients.chunk(dist.get_world_size())[dist.get_rank()]


METRIC_LOSSES = ("cosine", "arcface", "triplet", "circle", "center")


class Objective(nn.Module):
    """The network and everything it is trained against: images and labels in, loss and logits out.

    One module, so that one DistributedDataParallel wrapper synchronises the heads' weights as well.

    Args:
        net: a network of `model.build_model`.
        num_classes: identities.
        smoothing: of the labels, for the classifier and the softmax over cosines.
        metric_loss: names from `METRIC_LOSSES` joined by "+", or "none".
        metric_weight, classifier_weight: what the sum of the metric losses and the cross-entropy count.
        scale, margin: of the cosine and ArcFace losses; the margin is the triplet's as well (0: soft margin).
        teacher_weight: what a teacher's vectors and classes count.
    """

    def __init__(
        self,
        net: nn.Module,
        num_classes: int,
        smoothing: float = 0.0,
        metric_loss: str = "none",
        metric_weight: float = 1.0,
        classifier_weight: float = 1.0,
        scale: float = 16.0,
        margin: float = 0.0,
        teacher_weight: float = 1.0,
    ):
        super().__init__()
        self.net = net
        self.smoothing = smoothing
        self.metric_weight, self.classifier_weight = metric_weight, classifier_weight
        self.margin, self.teacher_weight = margin, teacher_weight
        self.metric_losses = metric_losses(metric_loss)
        heads = {
            "cosine": lambda: CosineSoftmax(net.feature_dim, num_classes, scale, margin),
            "arcface": lambda: ArcFace(net.feature_dim, num_classes, scale, margin),
            "center": lambda: CenterLoss(net.feature_dim, num_classes),
        }
        self.heads = nn.ModuleDict({name: heads[name]() for name in self.metric_losses if name in heads})

    def forward(
        self, images: Tensor, labels: Tensor, vectors: Tensor | None = None, classes: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) images and (N,) labels -> scalar loss, (N, C) logits.

        `vectors` (N, D') and `classes` (N, C) are what a teacher makes of the images.
        """
        features = self.net.embed(images)
        logits = self.net.classify(features)
        loss = self.classifier_weight * classification(logits, labels, self.smoothing)
        # distances and cosines in float32, whatever the network runs in: bfloat16 has errors of 1 % in their gradients
        with torch.autocast(features.device.type, enabled=False):
            for name in self.metric_losses:
                loss = loss + self.metric_weight * self._metric(name, features.float(), labels)
            if vectors is not None:
                loss = loss + self.teacher_weight * same_neighbours(features.float(), vectors, labels)
            if classes is not None:
                loss = loss + self.teacher_weight * same_classes(logits.float(), classes)
        return loss, logits

    def _metric(self, name: str, features: Tensor, labels: Tensor) -> Tensor:
        if name == "triplet":
            return batch_hard_triplet(features, labels, self.margin or None)
        if name == "circle":
            return circle(features, labels)
        if name == "center":
            return self.heads[name](features, labels)
        return self.heads[name](features, labels, self.smoothing)


def metric_losses(names: str) -> list[str]:
    """The names in "cosine+triplet"; none in "none".

    Raises:
        ValueError: a name is unknown or stands there twice.
    """
    parts = [] if names == "none" else names.split("+")
    if not set(parts) <= set(METRIC_LOSSES) or len(set(parts)) < len(parts):
        raise ValueError(names)
    return parts
