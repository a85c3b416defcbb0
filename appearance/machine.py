"""What this machine has to give: cores, memory, and processes and threads to work side by side."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from appearance.cli import SCRIPTS, RunFailed

AT_ONCE = 16  # images that a thread is given each time: asking costs as much as decoding a small one


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoders() -> int:
    """Threads that decode images: one a core, at most 16."""
    return min(cores(), 16)


def free_memory() -> int:
    """Bytes of memory that can be used without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30  # not Linux: a cautious guess


def data_folder() -> Path:
    """Where the sample and files of decoded images lie: the folder that APPEARANCE_DATA names, else `data` beside the
    scripts, or where that cannot be written the user's cache."""
    if os.environ.get("APPEARANCE_DATA"):
        return Path(os.environ["APPEARANCE_DATA"])
    beside = SCRIPTS / "data"
    if (beside / "sample").is_dir() or os.access(beside if beside.is_dir() else SCRIPTS, os.W_OK):
        return beside
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "appearance")


def by_threads(work: Callable, jobs: Sequence, workers: int) -> Iterator:
    """`work(job)` of each, in order, by so many threads: for work that is mostly done without the interpreter."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for results in pool.map(lambda part: list(map(work, part)), chunks(jobs)):
            yield from results


def chunks(jobs: Sequence) -> list[Sequence]:
    """`AT_ONCE` of them each, in order."""
    return [jobs[start : start + AT_ONCE] for start in range(0, len(jobs), AT_ONCE)]


def side_by_side(work: Callable, jobs: Sequence, workers: int, chunk: int = 1) -> Iterator:
    """`work(job)` of each, in order, by so many processes; by this one alone with one worker.

    Args:
        work: a function at the top of a module, which other processes can find.
        chunk: jobs that a process is given at a time.

    Raises:
        RunFailed: a process was killed.
    """
    if min(workers, len(jobs)) <= 1:
        yield from map(work, jobs)
        return
    # Forked workers start at once; elsewhere than on Linux forking is not safe or not there.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(workers, context, _begin_worker)
    try:
        yield from pool.map(work, jobs, chunksize=chunk)
    except BrokenProcessPool:
        raise RunFailed("a process that worked along was killed; is the memory full?") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """An interrupt (Ctrl-C) reaches every process: workers leave it to their parent, which ends them.

    Where the parent is killed, nobody does, and they would wait for its next job for ever. So each watches it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
