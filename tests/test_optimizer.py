"""The optimizer: directions against a singular value decomposition, steps by hand, AdamW for the rest, resuming."""

import copy

import pytest
import torch
from torch import nn

from appearance.training.optimizer import Muon, learns_by_muon, orthogonal
from model import build_model


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_orthogonal_has_the_singular_vectors_and_values_near_one(shape):
    matrix = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    (found,) = orthogonal([matrix])
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.25
    inside = u.mT @ found @ vh.mT  # diagonal where the singular vectors are the same
    off_diagonal = inside - torch.diag_embed(inside.diagonal(dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 1e-4


def test_orthogonal_is_the_plain_iteration_of_each_matrix():
    """Together, of different widths, with singular values from 1 down to 1e-6, and with a tiny one among them."""
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(2, *shape, generator=generator) for shape in ((8, 20), (8, 90), (30, 8), (12, 12))]
    u, _, vh = torch.linalg.svd(batches[1], full_matrices=False)
    batches[1] = u @ torch.diag_embed(torch.logspace(0, -6, 8).expand(2, 8)) @ vh
    batches[2] *= 1e-5
    for batch, found in zip(batches, orthogonal(batches), strict=True):
        x = batch.double()
        x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
        for _ in range(5):
            square = x @ x.mT
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        torch.testing.assert_close(found.double(), x, atol=1e-3, rtol=0)


def test_orthogonal_of_zeros_is_zeros():
    assert torch.equal(orthogonal([torch.zeros(1, 4, 9)])[0], torch.zeros(1, 4, 9))


def test_muon_takes_hidden_kernels_and_no_others():
    taken = {name for name, p in build_model("net", 5).named_parameters() if learns_by_muon(p)}
    assert "layer4.1.conv2.weight" in taken
    assert "layer2.0.downsample.0.weight" in taken
    assert not taken & {"conv.0.weight", "conv.0.bias", "classifier.0.weight", "layer1.0.bn1.weight"}
    assert len(taken) == 19
    depthwise = nn.Conv2d(8, 8, 3, groups=8).weight
    assert not learns_by_muon(depthwise)


def groups(kernel, vector, decay=0.1):
    return [
        {"params": [kernel], "weight_decay": decay, "muon": True},
        {"params": [vector], "weight_decay": 0.0, "muon": False},
    ]


def test_first_step_by_hand():
    """The first averages are gradient x 0.05; a direction does not depend on its length."""
    torch.manual_seed(0)
    kernel, vector = nn.Parameter(torch.randn(4, 2, 3, 3)), nn.Parameter(torch.randn(5))
    kernel.grad, vector.grad = torch.randn(4, 2, 3, 3), torch.randn(5)
    before, rest = kernel.detach().clone(), copy.deepcopy(vector)
    rest.grad = vector.grad.clone()
    Muon(groups(kernel, vector), lr=0.01, block=2).step()
    (halves,) = orthogonal([kernel.grad.reshape(2, 2, 18)])
    halves = halves.reshape(4, 2, 3, 3)
    torch.testing.assert_close(kernel.detach(), before * (1 - 0.01 * 0.1) - 0.01 * 0.2 * 18**0.5 * halves)
    torch.optim.AdamW([rest], lr=0.01, weight_decay=0.0).step()
    torch.testing.assert_close(vector, rest)
    # as long as AdamW's steps: 0.2 of the learning rate per weight
    assert ((kernel.detach() - before) / 0.01).square().mean().sqrt() == pytest.approx(0.2, rel=0.2)


def test_a_saved_state_goes_on_bit_for_bit():
    def fresh():
        torch.manual_seed(0)
        kernel, vector = nn.Parameter(torch.randn(4, 6, 3, 3)), nn.Parameter(torch.randn(5))
        return kernel, vector, Muon(groups(kernel, vector), lr=0.01)

    def steps(kernel, vector, optimizer, numbers):
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            kernel.grad, vector.grad = (torch.randn(p.shape, generator=generator) for p in (kernel, vector))
            optimizer.step()

    kernel, vector, optimizer = fresh()
    steps(kernel, vector, optimizer, range(4))
    other_kernel, other_vector, first = fresh()
    steps(other_kernel, other_vector, first, range(2))
    second = Muon(groups(other_kernel, other_vector), lr=0.5)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    steps(other_kernel, other_vector, second, range(2, 4))
    assert torch.equal(kernel, other_kernel)
    assert torch.equal(vector, other_vector)


def test_parameters_without_gradients_stay():
    kernel, vector = nn.Parameter(torch.ones(4, 4, 1, 1)), nn.Parameter(torch.ones(5))
    Muon(groups(kernel, vector), lr=0.1).step()
    assert kernel.eq(1).all()
    assert vector.eq(1).all()
