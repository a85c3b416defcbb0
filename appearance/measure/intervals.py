"""95 % intervals of metrics, over identities.

Other people would have given other values. The queries of one person are not independent, so a mean's variance is
estimated by leaving out one identity at a time (the jackknife; Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993). That variance is turned into an equivalent number of yes-or-no trials, whose interval is Wilson's
(1927) with Student's t: it stays between 0 and 1 and is wider on the side of 0.5. If all six people of a test were
found, the jackknife variance would be 0; so two imagined identities, one of the lowest and one of the highest value,
take part with a weight of IMAGINED each.

Estimates that are not means (`calibrate`) are bootstrapped over identities instead, with an interval widened from the
normal to the t distribution (Hesterberg, "What Teachers Should Know about the Bootstrap", 2015).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

LEVEL = 0.95
# tested with 5 to 50 people: with less, intervals of skewed values cover the true value too
# rarely; with more, intervals of few people with similar values are needlessly wide
IMAGINED = 0.05
STUDENT = (12.7062, 4.3027, 3.1824, 2.7764)  # t of LEVEL for 1, 2, 3, 4 degrees of freedom
RESAMPLES = 2000
DRAWN_AT_ONCE = 4 << 20  # identities drawn per step, to bound the memory


def of_means(labels: Tensor, values: Tensor, lowest=0.0, highest=1.0) -> Tensor:
    """(M, 2) float64 intervals of the column means of `values`.

    Args:
        labels: (N,) identities of the rows.
        values: (N, M).
        lowest, highest: range of the values, a number or (M,).
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
    """(M,) numbers of yes-or-no trials whose mean has the same variance.

    Args:
        rows: (P,) number of rows of each identity.
        sums: (P, M) sums of their values, which are from 0 to 1.
    """
    usual = rows.mean()
    counts = torch.cat([torch.ones(len(rows)), torch.full((2,), IMAGINED)]).double()[:, None]  # (P + 2, 1)
    rows = torch.cat([rows, usual.expand(2)])[:, None]
    ends = torch.stack([torch.zeros_like(sums[0]), usual.expand_as(sums[0])])
    sums = torch.cat([sums, ends])
    total, people = (counts * rows).sum(), counts.sum()
    mean = (counts * sums).sum(0) / total
    moved = (sums - mean * rows) / (total - rows)  # change of the mean without each identity
    variance = (people - 1) / people * (counts * moved.square()).sum(0)
    return mean * (1 - mean) / variance


def _wilson(share: Tensor, people: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """(low, high) of Wilson's interval of a fraction (M,) of `people` trials (M,), with `t` standard errors."""
    middle = (share + t**2 / (2 * people)) / (1 + t**2 / people)
    half = t / (1 + t**2 / people) * (share * (1 - share) / people + t**2 / (4 * people**2)).sqrt()
    return (middle - half).clamp(min=0).minimum(share), (middle + half).clamp(max=1).maximum(share)


def draws(people: int, seed: int = 0) -> Iterator[Tensor]:
    """Bootstrap weights: how often each identity is drawn, in blocks of a (RESAMPLES, people) float64."""
    generator = torch.Generator().manual_seed(seed)
    height = max(1, DRAWN_AT_ONCE // people)
    for start in range(0, RESAMPLES, height):
        rows = min(height, RESAMPLES - start)
        drawn = torch.randint(people, (rows, people), generator=generator)
        drawn += torch.arange(rows)[:, None] * people
        yield torch.bincount(drawn.flatten(), minlength=rows * people).view(rows, people).double()


def of_estimates(estimates: Tensor, people: int) -> Tensor:
    """Interval (..., 2) from bootstrap estimates (R, ...) over `people` identities."""
    tail = _tail(people)
    return torch.quantile(estimates, torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0).movedim(0, -1)


def _tail(people: int) -> float:
    """Fraction of the estimates beyond each end: 2.5 % with many people, less with few."""
    free = max(people - 1, 1)
    return 0.5 * math.erfc(student(free) * math.sqrt(people / free) / math.sqrt(2))


def student(free: int) -> float:
    """Student's t for LEVEL and `free` degrees of freedom (at least 1)."""
    if free <= len(STUDENT):
        return STUDENT[max(free, 1) - 1]
    z = 1.959964
    # from the normal z (Abramowitz and Stegun 26.7.5)
    return z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
