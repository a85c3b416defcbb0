"""What can go wrong while a script still loads its modules: a package that is not installed, and Ctrl-C.

Scripts import this before all else. A program that imports one of them is left alone.
"""

import signal
import sys
from importlib.util import find_spec
from pathlib import Path

started = Path(getattr(sys.modules["__main__"], "__file__", None) or ".").resolve().parent
if started == Path(__file__).resolve().parents[1]:
    missing = [name for name in ("torch", "torchvision", "numpy", "tqdm", "matplotlib") if find_spec(name) is None]
    if missing:
        script = Path(sys.argv[0]).name
        print(f"{script}: error: not installed: {', '.join(missing)}; pip install -r requirements.txt", file=sys.stderr)
        sys.exit(2)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once, not with torch's traceback; `cli.run` gives it back
