"""Failures and signals in words: what PyTorch says of memory and lost processes, Ctrl-C, SIGTERM."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch
import torch.distributed as dist

from appearance.cli import RunFailed

# of the host, of CUDA's allocator and driver, of cuBLAS and cuDNN
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


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
                f"another process of the group failed or does not answer ({text.splitlines()[0][:100]}); "
                "training goes on with --resume, or by itself under torchrun --max-restarts=3"
            ) from None
        raise


class GracefulStop:
    """Turns Ctrl-C and SIGTERM into a wish to stop after the current step; a second Ctrl-C stops at once."""

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> "GracefulStop":
        self._before = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            with suppress(ValueError):  # not in the main thread: whoever runs us handles signals
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
