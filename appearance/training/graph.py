"""A training step as one CUDA graph, which a GPU runs without waiting for Python to send each of its operations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from appearance.cli import InputError, RunFailed
from appearance.data.augment import Numbers
from appearance.data.device import to_device
from appearance.world import World

WARM_UP = 3  # steps before a capture: they make the optimizer's state, and the libraries choose their kernels


def check(args, world: World) -> None:
    """Raises InputError where `--cuda-graph` is asked for and cannot be."""
    obstacles = {
        "needs a GPU": world.device.type != "cuda",
        "is for one process; gradients that travel are not captured": world.size > 1,
        "does not go with --amp fp16, where the host decides after each step whether it counts; take bf16": (
            args.amp == "fp16"
        ),
        "does not go with --compile; leave one of them out": args.compile,
    }
    for words, is_one in obstacles.items():
        if args.cuda_graph and is_one:
            raise InputError(f"--cuda-graph: {words} (--no-cuda-graph resumes without)")


class StepGraph:
    """Does `work` on a GPU: a few times as it is written, then by replaying what the GPU was sent in one of them.

    A graph reads and writes the same memory each time, so inputs are copied to where it looks for them. Python numbers
    stay what they were when it was captured: the learning rates, the only ones that change, are then in tensors. Random
    numbers follow `torch.manual_seed`, which a replay looks up. Images of another shape begin anew, with another graph.

    Args:
        work: the device's part of a step, which neither asks for a number nor keeps its results on the host:
            (B, 3, H, W) uint8 images, (B,) int64 labels and the augmentation's numbers -> tensors.
        optimizer: whose rates `work` uses.
    """

    def __init__(self, work: Callable[[Tensor, Tensor, Numbers], tuple[Tensor, ...]], optimizer: torch.optim.Optimizer):
        self.work, self.optimizer = work, optimizer
        self.device = optimizer.param_groups[0]["params"][0].device
        self.rates = [torch.zeros((), device=self.device) for _ in optimizer.param_groups]
        self.stream = torch.cuda.Stream(self.device)
        self.inputs: list[Tensor] = []  # images, labels, packed numbers: where the graph looks for them
        self.graph: torch.cuda.CUDAGraph | None = None
        self.warm_up = 0  # steps still to be done before the capture

    def __call__(self, images: Tensor, labels: Tensor, numbers: Numbers) -> tuple[Tensor, ...]:
        """The results; the next step overwrites them.

        Raises:
            RunFailed: the step cannot be captured.
        """
        inputs = [images, labels, to_device(numbers.packed(), self.device)]
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        if [x.shape for x in self.inputs] != [x.shape for x in inputs]:
            torch.cuda.synchronize(self.device)  # the old graph may be running
            self.graph, self.inputs, self.warm_up = None, [torch.empty_like(x) for x in inputs], WARM_UP
        for ours, new in zip(self.inputs, inputs, strict=True):
            ours.copy_(new)
        if self.warm_up:
            self.warm_up -= 1
            with self._aside():
                return self._work()
        if self.graph is None:
            self._capture()
        self.graph.replay()
        return self.outputs

    def _work(self) -> tuple[Tensor, ...]:
        images, labels, packed = self.inputs
        return self.work(images, labels, Numbers.unpacked(packed))

    def _capture(self) -> None:
        """Nothing is done yet: the device only takes note.

        Not to be recovered from: after a failure PyTorch's memory and random numbers stay as they are in a capture.
        """
        graph = torch.cuda.CUDAGraph()
        noting = torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local")  # other threads go on
        try:
            with self._aside(capturable=True), noting:
                self.outputs = self._work()
        except RuntimeError as error:
            while error.__context__:  # the end of the capture fails as well, with less to say
                error = error.__context__
            raise RunFailed(
                f"--cuda-graph: the step cannot be captured ({str(error).splitlines()[0]}); leave it out, or go on "
                "with --resume --no-cuda-graph"
            ) from None
        self.graph = graph

    @contextmanager
    def _aside(self, **settings) -> Iterator[None]:
        """On a stream of its own, as captures must be, with the rates in tensors and more settings of the optimizer."""
        groups, current = self.optimizer.param_groups, torch.cuda.current_stream(self.device)
        before = [dict(group) for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group.update(lr=rate, **settings)
        self.stream.wait_stream(current)
        try:
            with torch.cuda.stream(self.stream):
                yield
        finally:
            for group, values in zip(groups, before, strict=True):
                group.clear()
                group.update(values)
        current.wait_stream(self.stream)
