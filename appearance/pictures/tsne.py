"""t-SNE: a flat map in which neighbours stay neighbours, for a few hundred vectors."""

import numpy as np


def tsne(features, perplexity: float = 20.0, steps: int = 400) -> np.ndarray:
    """(N, D) vectors to (N, 2) float64 points, the same each time: it starts from the two principal components.

    van der Maaten and Hinton, "Visualizing Data using t-SNE" (JMLR 2008), with early exaggeration and all N^2 forces:
    meant for up to about a thousand vectors. In numpy, since hundreds of tiny steps gain nothing from more threads.
    """
    x = np.asarray(features, dtype=np.float64)
    x = x - x.mean(0)
    total = len(x)
    if total < 4:
        return np.pad(x, ((0, 0), (0, 2)))[:, :2]
    wanted = _affinities(_squared_distances(x), min(perplexity, (total - 1) / 3))
    _, _, components = np.linalg.svd(x, full_matrices=False)
    y = np.pad(x @ components[:2].T, ((0, 0), (0, 2)))[:, :2]
    y *= 1e-2 / max(y[:, 0].std(), 1e-12)
    velocity, gain = np.zeros_like(y), np.ones_like(y)
    for step in range(steps):
        exaggerated = step < 100
        closeness = 1 / (1 + _squared_distances(y))
        np.fill_diagonal(closeness, 0)
        force = ((12 if exaggerated else 1) * wanted - closeness / closeness.sum()) * closeness
        gradient = 4 * (force.sum(1, keepdims=True) * y - force @ y)
        gain = np.where(np.sign(gradient) == np.sign(velocity), gain * 0.8, gain + 0.2).clip(0.01)
        velocity = (0.5 if exaggerated else 0.8) * velocity - max(total / 12, 50) * gain * gradient
        y += velocity
        y -= y.mean(0)
    return y


def _affinities(squared, perplexity: float) -> np.ndarray:
    """Symmetric joint probabilities (N, N); each row's bandwidth is bisected until its perplexity is as wanted."""
    total = len(squared)
    low, high = np.zeros((total, 1)), np.full((total, 1), np.inf)
    precision = 1 / squared.mean(1, keepdims=True).clip(1e-12)
    squared = squared + np.diag(np.full(total, np.inf))  # no one is its own neighbour
    for _ in range(40):
        p = np.exp(-(squared - squared.min(1, keepdims=True)) * precision)
        p /= p.sum(1, keepdims=True)
        entropy = -(p * np.log(p.clip(1e-300))).sum(1, keepdims=True)
        too_flat = entropy > np.log(perplexity)
        low, high = np.where(too_flat, precision, low), np.where(too_flat, high, precision)
        precision = np.where(np.isinf(high), precision * 2, (low + high) / 2)
    return (p + p.T) / (2 * total)


def _squared_distances(x) -> np.ndarray:
    lengths = np.square(x).sum(1)
    return (lengths[:, None] + lengths - 2 * x @ x.T).clip(0)
