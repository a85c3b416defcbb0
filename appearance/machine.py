"""Cores, memory, the data folder, and maps over threads or processes."""

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

AT_ONCE = 16  # jobs handed to a thread at once: handing over costs as much as decoding a small image


def cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoders() -> int:
    """Number of threads that decode images: one per core, at most 16."""
    return min(cores(), 16)


def free_memory() -> int:
    """Bytes of memory available without swapping; 4 GiB if unknown."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30  # not Linux: a conservative guess


def data_folder() -> Path:
    """Folder of the sample dataset and cache files: $APPEARANCE_DATA, else `data` next to the scripts, else (if that is
    not writable) the user's cache folder."""
    if os.environ.get("APPEARANCE_DATA"):
        return Path(os.environ["APPEARANCE_DATA"])
    beside = SCRIPTS / "data"
    if (beside / "sample").is_dir() or os.access(beside if beside.is_dir() else SCRIPTS, os.W_OK):
        return beside
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "appearance")


def by_threads(work: Callable, jobs: Sequence, workers: int) -> Iterator:
    """`map(work, jobs)` with `workers` threads, results in order; for work that releases the GIL."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for results in pool.map(lambda part: list(map(work, part)), chunks(jobs)):
            yield from results


def chunks(jobs: Sequence) -> list[Sequence]:
    """Cut jobs into parts of AT_ONCE."""
    return [jobs[start : start + AT_ONCE] for start in range(0, len(jobs), AT_ONCE)]


def side_by_side(work: Callable, jobs: Sequence, workers: int, chunk: int = 1) -> Iterator:
    """`map(work, jobs)` with `workers` processes, results in order; in this process if there is one worker or job.

    Args:
        work: a top-level function, so that it can be pickled.
        chunk: jobs handed to a process at once.

    Raises:
        RunFailed: a worker process was killed.
    """
    if min(workers, len(jobs)) <= 1:
        yield from map(work, jobs)
        return
    # Forked workers start fastest, but forking is only safe on Linux.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(workers, context, _begin_worker)
    try:
        yield from pool.map(work, jobs, chunksize=chunk)
    except BrokenProcessPool:
        raise RunFailed(
            "a worker process was killed, probably because memory is full; free some memory and run again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_worker() -> None:
    """Set up a worker process: ignore Ctrl-C, which the parent handles, and exit when the parent is killed.

    Otherwise the workers of a killed parent would wait for jobs for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
