"""PyTorch's errors about memory and lost processes, in words that say what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from appearance.cli import RunFailed

# of the host, of CUDA's allocator and driver, of cuBLAS and cuDNN
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def reason(error: Exception) -> str:
    """The first line of an error, without the places in Gloo's source that stand in it."""
    lines = str(error).splitlines()
    return re.sub(r"\[/[^]]*\] ?", "", lines[0]) if lines else type(error).__name__


@contextmanager
def explained_failures(less_memory: str) -> Iterator[None]:
    """Turns what PyTorch says about memory and lost processes into sentences.

    Args:
        less_memory: what to do to need less of it.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in OUT_OF_MEMORY):
            raise RunFailed(f"out of memory; {less_memory}") from None
        if dist.is_initialized() and any(word in text for word in ("onnection", "imed out", "gloo", "NCCL", "peer")):
            raise RunFailed(
                f"another process of the group failed or does not answer ({reason(error)[:100]}); "
                "training goes on with --resume, or by itself under torchrun --max-restarts=3"
            ) from None
        raise
