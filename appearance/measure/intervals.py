"""How sure is a figure that some people's images gave? 95 % intervals over identities.

Other people of the same kind would have given other figures. The images of one person are found or missed together, so
what counts is how much a figure moves when a person is left out with all of their queries (the jackknife; Efron and
Tibshirani, "An Introduction to the Bootstrap", 1993). From that follows how many people who are simply found or not
found would leave the figure as uncertain; the interval is Wilson's (1927) of a share of so many, with Student's t. It
stays between 0 and 1 and reaches further towards the middle. Six people who were all found do not make a network that
finds everybody: a person of the lowest value and one of the highest take part in the jackknife, for IMAGINED of a
person each.

Where a figure is no mean (`calibrate`), identities are drawn again instead (a bootstrap), and the interval is widened
by what a t distribution has over a normal one (Hesterberg, "What Teachers Should Know about the Bootstrap", 2015).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

LEVEL = 0.95
# measured with 5 to 50 people: with less, too few intervals of skewed figures hold
# the true value; with more, those of few people who are alike are needlessly wide
IMAGINED = 0.05
STUDENT = (12.7062, 4.3027, 3.1824, 2.7764)  # t of LEVEL for 1, 2, 3, 4 degrees of freedom
RESAMPLES = 2000
DRAWN_AT_ONCE = 4 << 20  # identities drawn in one step, which bounds the memory


def of_means(labels: Tensor, values: Tensor, lowest=0.0, highest=1.0) -> Tensor:
    """Interval of the mean of each column, whose rows belong together by identity: (M, 2) float64.

    Args:
        labels: (N,) identities.
        values: (N, M).
        lowest, highest: what values can be, a number or (M,).
    """
    lowest, highest = (torch.as_tensor(end, dtype=torch.float64) for end in (lowest, highest))
    span = (highest - lowest).clamp(min=1e-300)  # 0 where all values are equal
    identity = labels.unique(return_inverse=True)[1]
    people = int(identity.max()) + 1
    rows = torch.zeros(people, dtype=torch.float64).index_add_(0, identity, torch.ones(len(values)).double())  # (P,)
    sums = torch.zeros(people, values.shape[1], dtype=torch.float64)
    sums.index_add_(0, identity, (values.double() - lowest) / span)  # (P, M), each value from 0 to 1
    mean = sums.sum(0) / rows.sum()  # (M,)
    low, high = _wilson(mean, _equivalent(rows, sums), student(people - 1))
    return torch.stack([lowest + span * low, lowest + span * high], 1)


def _equivalent(rows: Tensor, sums: Tensor) -> Tensor:
    """How many people, each found or not found, would leave the mean as uncertain as these do: (M,).

    Args:
        rows: (P,) rows of each identity.
        sums: (P, M) sums of their values, each from 0 to 1.
    """
    usual = rows.mean()
    counts = torch.cat([torch.ones(len(rows)), torch.full((2,), IMAGINED)]).double()[:, None]  # (P + 2, 1)
    rows = torch.cat([rows, usual.expand(2)])[:, None]
    ends = torch.stack([torch.zeros_like(sums[0]), usual.expand_as(sums[0])])
    sums = torch.cat([sums, ends])
    total, people = (counts * rows).sum(), counts.sum()
    mean = (counts * sums).sum(0) / total
    moved = (sums - mean * rows) / (total - rows)  # by how much the mean moves when a person is left out
    variance = (people - 1) / people * (counts * moved.square()).sum(0)
    return mean * (1 - mean) / variance


def _wilson(share: Tensor, people: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Wilson's interval of a share (M,) of so many people (M,), `t` standard errors to either side."""
    middle = (share + t**2 / (2 * people)) / (1 + t**2 / people)
    half = t / (1 + t**2 / people) * (share * (1 - share) / people + t**2 / (4 * people**2)).sqrt()
    return (middle - half).clamp(min=0).minimum(share), (middle + half).clamp(max=1).maximum(share)


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
    free = max(people - 1, 1)
    return 0.5 * math.erfc(student(free) * math.sqrt(people / free) / math.sqrt(2))


def student(free: int) -> float:
    """Student's t for LEVEL and so many degrees of freedom, of which there is at least one."""
    if free <= len(STUDENT):
        return STUDENT[max(free, 1) - 1]
    z = 1.959964
    # from the normal z (Abramowitz and Stegun 26.7.5)
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
