"""The special identities -1 (junk) and 0 (distractor), as used in folders, features files and metrics.

- -1 is junk: a bad box, ignored everywhere.
- 0 in a gallery is a distractor: people and background that are wrong answers to every query. Exception: if a query has
  identity 0, the dataset counts people from 0, and 0 is an ordinary person.
- In training images, 0 is an ordinary person.
"""

from collections.abc import Iterable

from torch import Tensor

JUNK = -1
DISTRACTOR = 0


def nobody(queries: Iterable[int]) -> frozenset[int]:
    """The identities that are not people in a test set: {-1, 0}, or {-1} if one of the `queries` has identity 0."""
    return frozenset({JUNK, DISTRACTOR} - (set(queries) - {JUNK}))


def are_people(labels: Tensor, queries: Tensor) -> Tensor:
    """(N,) identities `labels` and (Nq,) identities of the `queries` -> (N,) bool: which labels are people."""
    people = labels != JUNK
    return people if bool((queries == DISTRACTOR).any()) else people & (labels != DISTRACTOR)
