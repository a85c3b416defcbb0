"""Bars where somebody watches, lines in a log, nothing for short work."""

import io
import re
import sys
import time

import pytest

from appearance import progress as room
from appearance.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(monkeypatch, stream, seconds: float, **options) -> str:
    """What is written to such a standard error while four things take so many seconds each."""
    monkeypatch.setattr(sys, "stderr", stream)
    taken = []
    for thing in progress(iter("abcd"), total=4, desc="drawing", unit="img", **options):
        taken.append(thing)
        time.sleep(seconds)
    assert taken == list("abcd")
    return stream.getvalue()


def test_a_log_has_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(room, "SECONDS_BETWEEN_LINES", 0.15)
    lines = work(monkeypatch, io.StringIO(), 0.1).splitlines()
    assert len(lines) in (1, 2)  # after the second thing or the third, and after the fourth
    for line in lines:
        assert re.fullmatch(r"drawing: (50|75|100)% after 00:00, 00:00 left, +\d+\.\d\dimg/s", line)


def test_short_work_leaves_no_line_in_a_log(monkeypatch):
    assert work(monkeypatch, io.StringIO(), 0) == ""


def test_where_somebody_watches_a_bar_is_drawn_and_wiped_away(monkeypatch):
    shown = work(monkeypatch, Terminal(), 0.15)
    assert "drawing:  50%|" in shown
    assert shown.endswith("\r")
    assert "\n" not in shown


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_other_processes_print_nothing(monkeypatch, stream):
    monkeypatch.setattr(room, "SECONDS_BETWEEN_LINES", 0)
    assert work(monkeypatch, stream(), 0.15, hidden=True) == ""


def test_a_bar_that_is_moved_by_hand(monkeypatch):
    monkeypatch.setattr(room, "SECONDS_BETWEEN_LINES", 0.05)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress(total=1000, initial=400, desc="epoch 1/2 64x32", unit="img") as bar:
        time.sleep(0.1)
        bar.set_postfix_str("loss 4.200", refresh=False)
        bar.update(350)
    (line,) = sys.stderr.getvalue().splitlines()
    assert line.startswith("epoch 1/2 64x32: 75% after 00:00, 00:00 left, ")
    assert line.endswith("img/s, loss 4.200")


def test_a_program_without_standard_error_goes_on(monkeypatch):
    monkeypatch.setattr(room, "SECONDS_BETWEEN_LINES", 0.01)
    monkeypatch.setattr(sys, "stderr", None)
    assert list(progress(range(3), desc="drawing", unit="img")) == [0, 1, 2]
