"""What this machine has to give: cores and memory."""

import os
from pathlib import Path


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
