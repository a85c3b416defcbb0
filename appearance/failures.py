"""Turn PyTorch's errors about memory and lost processes into messages that say what to do."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from appearance.cli import RunFailed

# in errors of the host, of CUDA's allocator and driver, and of cuBLAS and cuDNN
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


def reason(error: Exception) -> str:
    """The first line of an error, without Gloo's source locations."""
    lines = str(error).splitlines()
    return re.sub(r"\[/[^]]*\] ?", "", lines[0]) if lines else type(error).__name__


@contextmanager
def explained_failures(less_memory: str) -> Iterator[None]:
    """Context that turns PyTorch's errors about memory and lost processes into RunFailed.

    Args:
        less_memory: advice on how to use less memory.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in OUT_OF_MEMORY):
            raise RunFailed(f"out of memory; {less_memory}") from None
        if dist.is_initialized() and any(word in text for word in ("onnection", "imed out", "gloo", "NCCL", "peer")):
            raise RunFailed(
                f"another process failed or does not answer ({reason(error)[:100]}); "
                "continue training with --resume, or start with torchrun --max-restarts=3 to restart automatically"
            ) from None
        raise
