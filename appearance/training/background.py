"""Write files in the background during training."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch.utils._pytree import tree_map_only


class BackgroundWriter:
    """One thread that calls write functions in order; after a failure it skips the rest.

    The error of a failed write is raised by the next `wait`. As a context manager, it waits for all writes at the end.
    """

    def __init__(self):
        self._thread = ThreadPoolExecutor(1)
        self._pending: list[Future] = []
        self._failed = False

    def __call__(self, write: Callable, *args) -> None:
        """Queue `write(*args)`. The arguments must not change afterwards (see `snapshot`)."""
        self._pending.append(self._thread.submit(self._run, write, args))

    def _run(self, write: Callable, args: tuple) -> None:
        if not self._failed:
            try:
                write(*args)
            except BaseException:
                self._failed = True
                raise

    def wait(self) -> None:
        """Block until all files are written; raises the error of a failed write."""
        pending, self._pending = self._pending, []
        for job in pending:
            job.result()

    def __enter__(self) -> "BackgroundWriter":
        return self

    def __exit__(self, kind, *_) -> None:
        self._thread.shutdown()
        if kind is None:
            self.wait()


def snapshot(content):
    """A copy on the CPU of nested dicts and lists of tensors; equal views of one memory become one copy."""
    copies = {}

    def copied(tensor: torch.Tensor) -> torch.Tensor:
        key = tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
        if not tensor.numel() or key not in copies:
            copies[key] = tensor.detach().to("cpu", copy=True)
        return copies[key]

    return tree_map_only(torch.Tensor, copied, content)
