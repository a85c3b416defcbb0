"""Re-ranking: against the reference's distances, against a dense implementation, and its edge cases."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
from appearance.measure import metrics, rerank

DATA = Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "expected.json").read_text())


def unit_rows(seed, rows, size=8, people=6, noise=0.7):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(people, size))[random.integers(0, people, rows)] + noise * random.normal(
        size=(rows, size)
    )
    return torch.nn.functional.normalize(torch.from_numpy(rows).float())


def dense_re_ranking(qf, gf, k1, k2, lambda_value):
    """The paper's equations on whole matrices and Python sets, in float64."""
    features = torch.cat([qf, gf]).double().numpy()
    total, queries = len(features), len(qf)
    squared = np.square(features[:, None] - features[None]).sum(2)
    scaled = squared / squared.max(1, keepdims=True)
    order = np.argsort(squared, axis=1, kind="stable")

    def reciprocal(i, k):
        return {j for j in order[i, : k + 1] if i in order[j, : k + 1]}

    encoding = np.zeros((total, total))
    for i in range(total):
        expanded = own = reciprocal(i, k1)
        for j in own:
            theirs = reciprocal(j, round(k1 / 2))
            if len(theirs & own) > 2 / 3 * len(theirs):
                expanded = expanded | theirs
        columns = sorted(expanded)
        weight = np.exp(-scaled[i, columns])
        encoding[i, columns] = weight / weight.sum()
    encoding = np.stack([encoding[order[i, :k2]].mean(0) for i in range(total)])
    shared = np.minimum(encoding[:queries, None], encoding[None, queries:]).sum(2)
    return (1 - lambda_value) * (1 - shared / (2 - shared)) + lambda_value * scaled[:queries, queries:]


@pytest.mark.parametrize("name", ["market_small", "sparse"])
def test_equal_to_the_reference(name):
    with np.load(DATA / f"{name}.npz") as case:
        kept = case["gl"] != -1
        found = evaluate.re_ranking(case["qf"], case["gf"][kept])
        assert tuple(found.shape) == case["reranked"].shape
        assert np.abs(found.numpy() - case["reranked"]).max() < 1e-4
        labels = (case["ql"], case["qc"], case["gl"][kept], case["gc"][kept])
    found = metrics.summary(metrics.rank_distances(found, *labels))
    assert {key: found[key] for key in EXPECTED[name]["rerank"]} == pytest.approx(EXPECTED[name]["rerank"], abs=1e-6)


@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"),
    [
        *[(20, 6, 0.3), (5, 1, 0.0), (7, 3, 1.0), (4, 2, 0.5), (1, 1, 0.3)],
        *[(5, 6, 0.3), (5, 7, 0.3), (5, 8, 0.3), (1, 40, 0.0), (3, 60, 0.5)],  # k2 beyond k1 + 1
        *[(59, 6, 0.3), (60, 60, 0.3), (500, 6, 0.3), (5, 500, 0.3), (500, 500, 0.0)],  # there are 60 images
    ],
)
@pytest.mark.parametrize("seed", range(2))
def test_equal_to_the_dense_form(seed, k1, k2, lambda_value):
    qf, gf = unit_rows(seed, 15), unit_rows(seed + 100, 45)
    expected = dense_re_ranking(qf, gf, k1, k2, lambda_value)
    found = rerank.re_ranking(qf, gf, k1, k2, lambda_value)
    assert found.dtype == torch.float32
    assert np.abs(found.numpy() - expected).max() < 1e-5


def test_steps_and_memory_limit_change_nothing(monkeypatch):
    qf, gf = unit_rows(0, 40), unit_rows(1, 160)
    whole = rerank.re_ranking(qf, gf)
    monkeypatch.setattr(rerank, "PAIRS_AT_ONCE", 5000)
    assert torch.allclose(rerank.re_ranking(qf, gf, memory=10000), whole, atol=1e-6)


def test_k2_beyond_k1_in_figures():
    """12 people of 8 vectors: what the dense form gives, and more than k2 = k1 + 1 would."""
    random = np.random.default_rng(0)
    labels = np.arange(96) % 12
    rows = random.normal(size=(12, 8))[labels] + 0.8 * random.normal(size=(96, 8))
    rows = torch.nn.functional.normalize(torch.from_numpy(rows).float())
    columns = torch.from_numpy(labels[:36]), torch.zeros(36), torch.from_numpy(labels[36:]), torch.ones(60)

    def figures(distances):
        found = metrics.summary(metrics.rank_distances(torch.as_tensor(distances).float(), *columns))
        return [found[key] for key in ("rank1", "mAP", "mINP")]

    wanted = figures(dense_re_ranking(rows[:36], rows[36:], 5, 8, 0.3))
    assert figures(rerank.re_ranking(rows[:36], rows[36:], 5, 8)) == pytest.approx(wanted, abs=1e-9)
    assert figures(rerank.re_ranking(rows[:36], rows[36:], 5, 6)) != pytest.approx(wanted, abs=1e-3)


def test_copies_of_an_image_tie():
    """Every image twice: the order of two copies is open, their distances are not."""
    qf, gf = unit_rows(0, 6), unit_rows(1, 20)
    qf, gf = qf.repeat(2, 1), gf.repeat(2, 1)
    for k1, k2 in ((1, 2), (3, 2), (3, 8), (51, 52), (100, 100)):  # even: no set ends between two copies
        found = rerank.re_ranking(qf, gf, k1, k2)
        assert torch.allclose(found[:6], found[6:], atol=1e-5)
        assert torch.allclose(found[:, :20], found[:, 20:], atol=1e-5)


def test_fewer_images_than_neighbours():
    qf, gf = unit_rows(0, 2), unit_rows(1, 3)
    found = rerank.re_ranking(qf, gf)
    assert found.shape == (2, 3)
    assert torch.isfinite(found).all()
    assert ((found >= 0) & (found <= 1)).all()


def test_identical_vectors_are_finite():
    for row in (unit_rows(0, 1), torch.eye(1, 8)):  # of the second the farthest image is 0 away
        for k1, k2 in ((20, 6), (3, 30)):
            found = rerank.re_ranking(row.expand(5, -1), row.expand(30, -1), k1, k2)
            assert torch.isfinite(found).all()
            assert ((found >= 0) & (found <= 1)).all()


def test_lambda_one_is_the_original_order():
    qf, gf = unit_rows(0, 10), unit_rows(1, 50)
    assert torch.equal(rerank.re_ranking(qf, gf, lambda_value=1.0).argsort(1), (-(qf @ gf.T)).argsort(1))
