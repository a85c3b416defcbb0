"""t-SNE: a flat map in which neighbours stay neighbours, for a few hundred vectors."""

import torch


@torch.no_grad()
def tsne(features, perplexity: float = 20.0, steps: int = 400):
    """(N, D) vectors to (N, 2) float32 points, the same each time: it starts from the two principal components.

    van der Maaten and Hinton, "Visualizing Data using t-SNE" (JMLR 2008), with early exaggeration and all N^2 forces:
    meant for up to about a thousand vectors.
    """
    x = features.double().cpu()
    x = x - x.mean(0)
    total = len(x)
    if total < 3:
        return torch.nn.functional.pad(x, (0, 2))[:, :2].float()
    wanted = _affinities(torch.cdist(x, x).square(), min(perplexity, (total - 1) / 3))
    y = torch.nn.functional.pad(x @ torch.linalg.svd(x, full_matrices=False).Vh[:2].T, (0, 2))[:, :2]
    y = y / y[:, 0].std().clamp(min=1e-12) * 1e-2
    velocity, gain = torch.zeros_like(y), torch.ones_like(y)
    for step in range(steps):
        closeness = 1 / (1 + torch.cdist(y, y).square())
        closeness.fill_diagonal_(0)
        exaggeration = 12 if step < 100 else 1
        force = (exaggeration * wanted - closeness / closeness.sum()) * closeness
        gradient = 4 * (force.sum(1, keepdim=True) * y - force @ y)
        same_way = gradient.sign() == velocity.sign()
        gain = torch.where(same_way, gain * 0.8, gain + 0.2).clamp(min=0.01)
        velocity = (0.5 if step < 100 else 0.8) * velocity - max(total / 12, 50) * gain * gradient
        y = y + velocity
        y = y - y.mean(0)
    return y.float()


def _affinities(squared, perplexity: float):
    """Symmetric joint probabilities (N, N); each row's bandwidth is bisected until its perplexity is as wanted."""
    total = len(squared)
    low, high = torch.zeros(total, 1).double(), torch.full((total, 1), torch.inf).double()
    precision = 1 / squared.mean(1, keepdim=True).clamp(min=1e-12)
    target = torch.tensor(perplexity).double().log()
    own = torch.eye(total, dtype=torch.bool)
    for _ in range(50):
        p = torch.softmax((-squared * precision).masked_fill(own, -torch.inf), dim=1)
        entropy = -(p * p.clamp(min=1e-300).log()).sum(1, keepdim=True)
        too_flat = entropy > target
        low, high = torch.where(too_flat, precision, low), torch.where(too_flat, high, precision)
        precision = torch.where(high.isinf(), precision * 2, (low + high) / 2)
    return (p + p.T) / (2 * total)
