"""Ctrl-C while a script still loads its modules ends it at once, instead of with torch's traceback.

Scripts import this before all else; `cli.run` gives the signal back. A program that imports a script is left alone.
"""

import signal
import sys
from pathlib import Path

started = Path(getattr(sys.modules["__main__"], "__file__", None) or ".").resolve().parent
if started == Path(__file__).resolve().parents[1] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
