"""Progress of long work: a bar in a terminal, a line every five minutes in a log."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 300
LINE = "{desc}: {percentage:.0f}% after {elapsed}, {remaining} left, {rate_noinv_fmt}{postfix}"


def progress(things: Iterable | None = None, *, desc: str, unit: str, hidden: bool = False, **options) -> tqdm:
    """A tqdm bar over `things`, or without them one to `update` by hand; cleared at the end.

    If standard error is not a terminal (a file, a batch system, a notebook), a bar would print thousands of lines, and
    silence would look like a hang. So work prints one line every five minutes there, and nothing if it is shorter.

    Args:
        desc: name of the work.
        unit: name of one item.
        hidden: print nothing (ranks other than 0).
        options: further options of tqdm, such as `total`.
    """
    hidden = hidden or sys.stderr is None
    if not hidden and not sys.stderr.isatty():
        every = SECONDS_BETWEEN_LINES
        options |= {"file": _Lines(), "bar_format": LINE, "position": 0}
        options |= {"delay": every, "mininterval": every, "maxinterval": every, "miniters": 1}
    return tqdm(things, desc=desc, unit=unit, leave=False, disable=hidden, **options)


class _Lines:
    """A file for tqdm that prints each state on its own line and ignores the clearing of the bar."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass
