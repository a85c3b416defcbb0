import os
import signal

import pytest

from appearance.cli import InputError, RunFailed
from appearance.machine import side_by_side


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    if number == 7:
        raise InputError("seven: not this one")
    return number


def die(number: int) -> int:
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order(workers):
    assert list(side_by_side(square, range(50), workers, chunk=4)) == [n * n for n in range(50)]


def test_others_do_the_work():
    assert os.getpid() not in set(side_by_side(_process, range(8), 2))


def _process(_: int) -> int:
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_input_is_the_same_from_another_process(workers):
    with pytest.raises(InputError, match="seven: not this one"):
        list(side_by_side(refuse, range(50), workers, chunk=4))


def test_a_killed_process_ends_the_work():
    with pytest.raises(RunFailed, match="was killed"):
        list(side_by_side(die, range(50), 2, chunk=4))
