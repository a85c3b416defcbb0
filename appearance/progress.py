"""How far long work has come: a bar where somebody watches, a line every five minutes in a log."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 300
LINE = "{desc}: {percentage:.0f}% after {elapsed}, {remaining} left, {rate_noinv_fmt}{postfix}"


def progress(things: Iterable | None = None, *, desc: str, unit: str, hidden: bool = False, **options) -> tqdm:
    """A bar that counts `things` as they are taken, or one to `update` by hand; gone when it is done.

    Where standard error is no terminal (a file, a batch system, a notebook), a bar would be thousands of lines, and
    nothing at all would look like a run that hangs. So there work of under five minutes prints nothing, longer work a
    line every five minutes.

    Args:
        desc: what is done; `unit`: to what.
        hidden: print nothing, as all processes but one do.
        options: tqdm's, `total` for one.
    """
    hidden = hidden or sys.stderr is None
    if not hidden and not sys.stderr.isatty():
        every = SECONDS_BETWEEN_LINES
        options |= {"file": _Lines(), "bar_format": LINE, "position": 0}
        options |= {"delay": every, "mininterval": every, "maxinterval": every, "miniters": 1}
    return tqdm(things, desc=desc, unit=unit, leave=False, disable=hidden, **options)


class _Lines:
    """A file for tqdm's bars where each state is a line of its own, and a bar that is wiped away none."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass
