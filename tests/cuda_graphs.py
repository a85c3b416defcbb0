"""`torch.cuda`'s graphs and streams, acted by the CPU."""

import contextlib

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves


class Graph:
    """What `torch.cuda.CUDAGraph` is: operations, each with the tensors and numbers that it was given once.

    A replay has them done again, in order, on the same memory: a number of Python's is what it was then, a tensor what
    it is now.
    """

    def __init__(self):
        self.operations: list[tuple] = []
        self.replays = 0

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        with _disable_current_modes():
            for function, args, kwargs, results in self.operations:
                for known, new in zip(results, tensors(function(*args, **kwargs)), strict=True):
                    if known.data_ptr() != new.data_ptr():  # else a view, or written in place
                        known.copy_(new)


class Capture(TorchDispatchMode):
    """What `torch.cuda.graph` is: notes operations for a graph and, in the end, has done none of them.

    The CPU has to do them to know what their results look like. So all memory that was there before is put back as it
    was, random numbers too, and all memory that is new is left full of NaN.

    Not shown by it: streams; memory that PyTorch's allocator gives to a second owner; that a library refuses to be
    captured; tensors of the host among those of the device, and whoever asks for a number, on which a capture fails
    (`step_cost.Watch` looks for both).
    """

    def __init__(self, graph: Graph, stream=None, capture_error_mode: str = "global"):
        super().__init__()
        self.graph = graph
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # address -> memory, and what was in it
        self.new: dict[int, Tensor] = {}
        self.random = torch.get_rng_state()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = tensors((args, kwargs))
        for tensor in given:
            memory = whole(tensor)
            if memory.data_ptr() not in self.new and memory.data_ptr() not in self.before:
                self.before[memory.data_ptr()] = memory, memory.clone()
        result = function(*args, **kwargs)
        for tensor in tensors(result):
            memory = whole(tensor)
            if memory.data_ptr() not in self.before:
                self.new[memory.data_ptr()] = memory
        self.graph.operations.append((function, args, kwargs, tensors(result)))
        return result

    def __exit__(self, *exception):
        super().__exit__(*exception)
        torch.set_rng_state(self.random)
        for memory, content in self.before.values():
            memory.copy_(content)
        for memory in self.new.values():
            memory.fill_(255)


def tensors(tree) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def whole(tensor: Tensor) -> Tensor:
    """The memory that a tensor lies in, as bytes."""
    with _disable_current_modes():
        return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


class Stream:
    def __init__(self, device=None):
        pass

    def wait_stream(self, other) -> None:
        pass


def act(monkeypatch) -> list[Graph]:
    """Have the CPU act for `torch.cuda`; the graphs that will be made."""
    made = []

    def new_graph() -> Graph:
        made.append(Graph())
        return made[-1]

    cuda = {"CUDAGraph": new_graph, "graph": Capture, "Stream": Stream, "current_stream": Stream}
    cuda |= {"stream": contextlib.nullcontext, "synchronize": lambda device=None: None}
    for name, part in cuda.items():
        monkeypatch.setattr(torch.cuda, name, part)
    return made
