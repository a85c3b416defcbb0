"""Anonymous memory that evaluate.py takes at most under each of some lists of arguments, given as JSON: bytes beyond
those before it, as JSON. A program of its own, for test_memory.py."""

import contextlib
import io
import json
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import evaluate
from appearance.measure import pairs, tracks


def anonymous() -> int:
    """Bytes of this process that lie in no file, so that memory-mapped features do not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def peak(arguments: list[str]) -> int:
    """Watched every millisecond from a thread, while the work is done without the interpreter."""
    found, done = [anonymous()], threading.Event()

    def watch():
        while not done.is_set():
            found.append(anonymous())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluate.main(evaluate.get_args_parser().parse_args(arguments))
    finally:
        done.set()
        watcher.join()
    return max(found) - found[0]


if __name__ == "__main__":
    pairs.PAIRS = tracks.PAIRS = 500_000  # fewer pairs take less time, and as much memory
    lists = json.loads(sys.argv[1])
    peak(lists[0])  # what libraries load when they are first used is not counted
    print(json.dumps([peak(arguments) for arguments in lists]))
