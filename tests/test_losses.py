"""The losses: hand-worked numbers, slow loops over their papers' equations, torch's own."""

import math

import pytest
import torch
import torch.nn.functional as F
from recipes import recipe_of

from appearance.training.losses import (
    CosineSoftmax,
    batch_hard_triplet,
    circle,
    classification,
)
from model import build_model
from train import ReIDLoss


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 6, generator=generator), torch.arange(12) // 3


def test_classification_by_hand():
    logits, labels = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([0])
    assert classification(logits, labels).item() == pytest.approx(-math.log(0.75))
    # smoothing 0.2 over two classes: 0.9 for the right one, 0.1 for the other
    expected = -(0.9 * math.log(0.75) + 0.1 * math.log(0.25))
    assert classification(logits, labels, smoothing=0.2).item() == pytest.approx(expected)


def test_cosine_softmax_by_hand():
    head = CosineSoftmax(2, 2, scale=4.0, margin=0.25)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[5.0, 0.0], [0.0, 0.1]]))
    loss = head(torch.tensor([[3.0, 4.0]]), torch.tensor([1]))  # cosines 0.6, 0.8; lengths do not matter
    assert loss.item() == pytest.approx(-math.log(math.exp(4 * 0.55) / (math.exp(4 * 0.55) + math.exp(4 * 0.6))))


def test_without_margin_it_is_a_softmax_of_cosines(batch):
    features, labels = batch
    module = CosineSoftmax(6, 4, scale=16.0, margin=0.0)
    cosines = F.cosine_similarity(features[:, None], module.weight[None], dim=2)
    expected = F.cross_entropy(16 * cosines, labels, label_smoothing=0.1)
    torch.testing.assert_close(module(features, labels, 0.1), expected, atol=1e-4, rtol=1e-4)


def slow_triplet(features, labels, margin):
    features, terms = F.normalize(features, dim=1), []
    for i, anchor in enumerate(features):
        positive = [(anchor - f).norm() for j, f in enumerate(features) if labels[j] == labels[i] and j != i]
        negative = [(anchor - f).norm() for j, f in enumerate(features) if labels[j] != labels[i]]
        if positive and negative:
            gap = max(positive) - min(negative)
            terms.append(F.softplus(gap) if margin is None else F.relu(gap + margin))
    return sum(terms) / max(1, len(terms))


@pytest.mark.parametrize("margin", [None, 0.3])
def test_triplet_is_the_loop_over_anchors(batch, margin):
    features, labels = batch
    labels = torch.cat([labels[:-1], torch.tensor([9])])  # an identity with one image: no anchor
    torch.testing.assert_close(batch_hard_triplet(features, labels, margin), slow_triplet(features, labels, margin))


def test_triplet_by_hand():
    # on the circle at 0, 60, 180 degrees: distances 1 (positive), 2 and sqrt(3) (negatives)
    features = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)], [-1.0, 0.0]]) * 7
    labels = torch.tensor([0, 0, 1])
    expected = (max(0, 1 - 2 + 0.9) + max(0, 1 - math.sqrt(3) + 0.9)) / 2
    assert batch_hard_triplet(features, labels, 0.9).item() == pytest.approx(expected, abs=1e-6)


def slow_circle(features, labels, margin=0.25, scale=64.0):
    features, terms = F.normalize(features, dim=1), []
    for i, anchor in enumerate(features):
        positive, negative = [], []
        for j, other in enumerate(features):
            cosine = anchor @ other
            if labels[j] == labels[i] and j != i:
                weight = (1 + margin - cosine).clamp_min(0).detach()
                positive.append(torch.exp(-scale * weight * (cosine - (1 - margin))))
            elif labels[j] != labels[i]:
                weight = (cosine + margin).clamp_min(0).detach()
                negative.append(torch.exp(scale * weight * (cosine - margin)))
        if positive and negative:
            terms.append(torch.log(1 + sum(positive) * sum(negative)))
    return sum(terms) / max(1, len(terms))


def test_circle_is_the_loop_over_anchors(batch):
    features, labels = (x.double() if x.is_floating_point() else x for x in batch)
    labels = torch.cat([labels[:-1], torch.tensor([9])])
    torch.testing.assert_close(
        circle(features, labels, scale=8.0).double(), slow_circle(features, labels, scale=8.0), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("loss", [batch_hard_triplet, circle])
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 2]])
def test_gradients_are_finite_without_positives_or_negatives_and_for_copies(loss, labels):
    features = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 1.0], [0.0, 0.0]], requires_grad=True)
    value = loss(features, torch.tensor(labels))
    value.backward()
    assert value.isfinite()
    assert features.grad.isfinite().all()
    if len(set(labels)) in (1, 4):
        assert value.item() == 0


@pytest.mark.parametrize("name", ["none", "cosine", "triplet", "circle", "cosine+triplet"])
def test_the_loss_is_the_weighted_sum_and_every_parameter_learns(name):
    torch.manual_seed(0)
    net = build_model("resnet18", 3)
    recipe = recipe_of("--label-smoothing", 0.1, "--metric-loss", name, "--classifier-weight", 2)
    model = ReIDLoss(net, 3, recipe)
    images, labels = torch.randn(6, 3, 32, 16), torch.tensor([0, 0, 1, 1, 2, 2])
    loss, logits = model(images, labels)
    assert logits.shape == (6, 3)
    features = net.embed(images)  # in training mode BatchNorm gives the same numbers again
    expected = 2.0 * F.cross_entropy(net.classify(features), labels, label_smoothing=0.1)
    if "cosine" in name:
        expected = expected + model.cosine(features, labels, 0.1)
    if "triplet" in name:
        expected = expected + batch_hard_triplet(features, labels)
    if name == "circle":
        expected = expected + circle(features, labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_frozen_layers_get_no_gradient_and_keep_their_statistics():
    model = ReIDLoss(build_model("net", 3), 3, recipe_of("--freeze-layers", "--metric-loss", "none"))
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    loss, _ = model.train()(torch.randn(6, 3, 32, 16), torch.arange(6) // 2)
    loss.backward()
    learning = {name.partition(".")[0] for name, one in model.net.named_parameters() if one.grad is not None}
    after = model.net.state_dict()
    moved = {name.partition(".")[0] for name in before if not torch.equal(after[name], before[name])}
    assert learning == moved == {"classifier"}
    assert not any(module.training for module in model.eval().modules())
