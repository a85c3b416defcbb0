"""How sure is a figure that some people's images gave? 95 % intervals, by a bootstrap over identities.

Other people of the same kind would have given other figures. How far off they would be is seen from drawing as many
identities again from those at hand, with all queries of each, since the images of one person are found or missed
together (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993). With few people the interval is widened by
what a t distribution has over a normal one (Hesterberg, "What Teachers Should Know about the Bootstrap", 2015).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

LEVEL = 0.95
RESAMPLES = 2000
DRAWN_AT_ONCE = 4 << 20  # identities drawn in one step, which bounds the memory


def of_means(labels: Tensor, values: Tensor, seed: int = 0, lowest=0.0, highest=1.0) -> Tensor:
    """Interval of the mean of each column, whose rows belong together by identity: (M, 2) float64.

    Args:
        labels: (N,) identities.
        values: (N, M).
        lowest, highest: what values can be, a number or (M,). An imagined row of each takes part, as an identity of its
            own: six people who were all found do not make a network that finds everybody.
    """
    identity = labels.unique(return_inverse=True)[1]
    people = int(identity.max()) + 1
    rows = torch.cat([torch.ones(len(values), 1, dtype=torch.float64), values.double()], 1)  # (N, 1 + M)
    sums = rows.new_zeros(people + 2, rows.shape[1]).index_add_(0, identity, rows)
    sums[people:, 0] = 1
    sums[people, 1:], sums[people + 1, 1:] = torch.as_tensor(lowest), torch.as_tensor(highest)
    drawn = torch.cat([times @ sums for times in draws(len(sums), seed)])  # (R, 1 + M)
    return of_estimates(drawn[:, 1:] / drawn[:, :1], people)


def draws(people: int, seed: int = 0) -> Iterator[Tensor]:
    """How often each identity is drawn when as many are drawn as there are: parts of a (RESAMPLES, people) float64."""
    generator = torch.Generator().manual_seed(seed)
    height = max(1, DRAWN_AT_ONCE // people)
    for start in range(0, RESAMPLES, height):
        rows = min(height, RESAMPLES - start)
        drawn = torch.randint(people, (rows, people), generator=generator)
        drawn += torch.arange(rows)[:, None] * people
        yield torch.bincount(drawn.flatten(), minlength=rows * people).view(rows, people).double()


def of_estimates(estimates: Tensor, people: int) -> Tensor:
    """Interval (..., 2) from a figure's values (R, ...) over the draws of so many identities."""
    tail = _tail(people)
    return torch.quantile(estimates, torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0).movedim(0, -1)


def _tail(people: int) -> float:
    """Share of the draws outside each end: 2.5 % of very many people's, less of few."""
    z, free = 1.959964, max(people - 1, 1)
    # Student's t from the normal z (Abramowitz and Stegun 26.7.5)
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return 0.5 * math.erfc(t * math.sqrt(people / free) / math.sqrt(2))
