"""Bars where somebody watches, lines in a log, nothing for short work."""

import io
import sys

import pytest

from appearance.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def clock(monkeypatch) -> list[float]:
    """tqdm's clock, in seconds, which only tests move."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return now


def work(monkeypatch, clock, stream, seconds: float, **options) -> str:
    """What is written to such a standard error while eight things take so many seconds each."""
    monkeypatch.setattr(sys, "stderr", stream)
    taken = []
    for thing in progress(iter("abcdefgh"), total=8, desc="drawing", unit="img", **options):
        taken.append(thing)
        clock[0] += seconds
    assert taken == list("abcdefgh")
    return stream.getvalue()


def test_a_log_has_a_line_every_five_minutes(monkeypatch, clock):
    assert work(monkeypatch, clock, io.StringIO(), 100).splitlines() == [
        "drawing: 38% after 05:00, 08:20 left,  0.01img/s",
        "drawing: 75% after 10:00, 03:20 left,  0.01img/s",
    ]


def test_work_of_under_five_minutes_leaves_no_line_in_a_log(monkeypatch, clock):
    assert work(monkeypatch, clock, io.StringIO(), 37) == ""


def test_where_somebody_watches_a_bar_is_drawn_and_wiped_away(monkeypatch, clock):
    shown = work(monkeypatch, clock, Terminal(), 1)
    assert "drawing:  50%|" in shown
    assert shown.endswith("\r")
    assert "\n" not in shown


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_other_processes_print_nothing(monkeypatch, clock, stream):
    assert work(monkeypatch, clock, stream(), 1000, hidden=True) == ""


def test_a_bar_that_is_moved_by_hand(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with progress(total=1000, initial=400, desc="epoch 1/2 64x32", unit="img") as bar:
        clock[0] += 350
        bar.set_postfix_str("loss 4.200", refresh=False)
        bar.update(350)
    assert sys.stderr.getvalue() == "epoch 1/2 64x32: 75% after 05:50, 04:10 left,  1.00img/s, loss 4.200\n"


def test_a_program_without_standard_error_goes_on(monkeypatch, clock, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    for _ in progress(range(3), desc="drawing", unit="img"):
        clock[0] += 1000
    assert capsys.readouterr().out == ""
