"""Who is a person, a distractor or junk: the one rule for folders, features files and metrics.

- -1 is junk: a bad box, neither a right nor a wrong answer. It is left out everywhere.
- 0 in a gallery is a distractor, a wrong answer for every query (people and background that nobody asks for), unless a
  query has identity 0. Then 0 is a person like any other: whoever counts people from 0 has one.
- Among training images, 0 is a person.
"""

from collections.abc import Iterable

from torch import Tensor

JUNK = -1
DISTRACTOR = 0


def nobody(queries: Iterable[int]) -> frozenset[int]:
    """Identities that are no person in the query and gallery of a test set, whose `queries` have these identities."""
    return frozenset({JUNK, DISTRACTOR} - (set(queries) - {JUNK}))


def are_people(labels: Tensor, queries: Tensor) -> Tensor:
    """(N,) bool: which of `labels` (N,) are people, in a test set whose queries have the identities `queries` (Nq,)."""
    people = labels != JUNK
    return people if bool((queries == DISTRACTOR).any()) else people & (labels != DISTRACTOR)
