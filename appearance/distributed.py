"""Several processes that train or test as one: joining, wrapping, collectives.

`World` is one process's view of the group; a process alone is a group of one, so all code is written once.
"""

import inspect
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from appearance.cli import InputError
from appearance.device import choose_device
from appearance.failures import reason
from appearance.interfaces import interface_of, is_of_this_machine_alone, own_address
from appearance.reading import digest

# flags that may be others on another machine: where things lie there, and what it has
MACHINE_FLAGS = {"data_dir", "output", "device", "gpu_id", "workers", "cache", "given"}
FILE_FLAGS = {"weights", "teacher"}
CONTENT = " (content "
PATIENCE = 10  # seconds without an answer after which a process says for whom it waits


@dataclass(frozen=True)
class World:
    """This process's rank and device, and the collectives of its process group (of one, where there is no other)."""

    device: torch.device
    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Rank 0 alone prints and writes."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print, once for the whole group."""
        if self.is_main:
            print(text, flush=True)

    def leave(self) -> None:
        """Leave the process group, at the end of work that went well.

        Not in a `finally`: leaving waits for collectives that are under way, and after a failure the others may wait
        in one that this process will never join. Then its exit is what ends them.
        """
        if dist.is_initialized():
            dist.destroy_process_group()

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    @torch.no_grad()
    def average_(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over all processes."""
        if self.size > 1:
            for tensor in tensors:
                tensor.copy_(self.total(tensor) / self.size)

    def lowest(self, step: Tensor) -> int:
        """The smallest of all processes' numbers from 0 up; a process without one gives -1."""
        step = torch.where(step < 0, torch.iinfo(step.dtype).max, step)
        if self.size > 1:
            dist.all_reduce(step, dist.ReduceOp.MIN)
        return int(step)

    def gather(self, value) -> list | None:
        """Every process's Python value, in rank order, on rank 0; None elsewhere."""
        if self.size == 1:
            return [value]
        values = [None] * self.size if self.is_main else None
        dist.gather_object(value, values)
        return values

    def broadcast(self, value):
        """Rank 0's Python value, on every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def agree(self, value, difference: Callable[[object, object], str]) -> None:
        """Make sure that all processes have the value that rank 0 has.

        Args:
            difference: rank 0's value and this process's -> what is another, in words; "" for none.

        Raises:
            InputError: on all processes; names the machine whose value is another.
        """
        if self.size == 1:
            return
        told = difference(self.broadcast(value), value)
        found = self.broadcast(self.gather(told and f"{socket.gethostname()} (rank {self.rank}): {told}"))
        if others := [text for text in found if text]:
            raise InputError(f"{others[0]}; all processes must have what rank 0 has")

    def agree_on_flags(self, args) -> None:
        """Make sure that all processes were given the same flags, but for those that belong to a machine.

        Of a file of weights its content counts, wherever it lies.

        Raises:
            InputError: on all processes; names the first flag that is another.
        """
        self.agree({name: _comparable(name, value) for name, value in vars(args).items()}, _other_flag)

    def wrapped(self, module: nn.Module, compile: bool = False, in_parts: bool = False) -> nn.Module:
        """The module, compiled on demand, with gradients averaged over the processes where there are several.

        Batch norm statistics stay each process's own: they are averaged once an epoch instead of copied every step.

        Args:
            compile: through torch.compile, a graph for each image size; on one GPU as CUDA graphs, which reuse the
                memory of their gradients and so cannot sum them over processes or parts of a batch.
            in_parts: gradients are summed over several backward passes.
        """
        if compile:
            graphs = self.device.type == "cuda" and self.size == 1 and not in_parts
            module = torch.compile(module, dynamic=False, mode="reduce-overhead" if graphs else None)
        if self.size == 1:
            return module
        # torch 2.15 gave the flag for buffers a new name
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, **{buffers: False})


def _comparable(name: str, value) -> str:
    """A flag's value as all processes must have it."""
    if name in MACHINE_FLAGS:
        return ""
    if name == "resume":  # rank 0 reads the file for all
        return "given" if value else "not given"
    if name in FILE_FLAGS and value is not None and Path(value).is_file():
        return f"{value}{CONTENT}{digest(value)})"
    return str(value)


def _other_flag(first: dict[str, str], own: dict[str, str]) -> str:
    for name, value in own.items():
        if value.rpartition(CONTENT)[2] != first[name].rpartition(CONTENT)[2]:
            return f"--{name.replace('_', '-')} is {value}, on rank 0 {first[name]}"
    return ""


def no_sync(module: nn.Module) -> AbstractContextManager:
    """Backward passes within it leave their gradients on this process, as all parts of a batch but the last do."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def gathered(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """(N, D) features and (N,) labels of all processes, and the row at which this process's own begin.

    Gradients flow back to the process that a feature comes from, so mining in the batch of all processes trains like
    one process.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return features, labels, 0
    gather = torch.compiler.disable(_Gather.apply)
    return gather(features), gather(labels), dist.get_rank() * len(labels)


class _Gather(torch.autograd.Function):
    """The rows of all processes, in rank order; each gets back the gradients that all have for its own."""

    @staticmethod
    def forward(ctx, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradients: Tensor) -> Tensor:
        gradients = gradients.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradients)
        return gradients.chunk(dist.get_world_size())[dist.get_rank()]


def join_process_group(device_name: str = "auto", dist_url: str = "env://", timeout_seconds: int = 600) -> World:
    """Join the group that `torchrun` describes in the environment: nccl where every rank has a GPU, else gloo.

    Raises:
        InputError: the other processes cannot be reached.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if size > 1 and device_name.startswith("cuda:"):
        raise InputError(
            f"--device {device_name}: all {size} processes would share one GPU; leave it out, and each takes its own "
            "(CUDA_VISIBLE_DEVICES=0,2 torchrun ... chooses among them)"
        )
    if device_name in ("auto", "cuda") and torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"--nproc_per_node: {local_rank + 1} or more processes, but {torch.cuda.device_count()} GPUs here; "
                "start as many processes as GPUs, or add --device cpu"
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = choose_device(device_name)
    timeout = timedelta(seconds=timeout_seconds)
    several_machines = int(os.environ.get("LOCAL_WORLD_SIZE", 0)) < size
    try:
        host = _answering_host(dist_url, rank, timeout_seconds)
        store, rank, size = next(dist.rendezvous(dist_url, rank, size, timeout=timeout))
        store = _unused_part(store, rank, size, timeout_seconds)
        group = {"store": store, "rank": rank, "world_size": size, "timeout": timeout}
        if device.type == "cuda":
            dist.init_process_group("nccl", **group, device_id=device)
        else:
            if several_machines:
                _choose_interface(store, rank, size, host)
            join = partial(dist.init_process_group, "gloo", **group)
            _all_or_none(join, store.clone(), rank, timeout_seconds)
    except (dist.DistError, RuntimeError, ValueError, TimeoutError) as error:
        hint = f"; {_interface_hint(device)}" if several_machines else ""
        raise InputError(f"--dist_url {dist_url}: the processes could not meet ({reason(error)}){hint}") from None
    return World(device, rank, size, local_rank)


def _answering_host(dist_url: str, rank: int, timeout_seconds: float) -> str:
    """The host of the store that all processes share, once it answers; "" where the address does not tell.

    PyTorch would wait without a word.

    Raises:
        InputError: there is no host of this name.
        TimeoutError: it does not answer.
    """
    if dist_url == "env://":
        host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    else:
        host, port = urlparse(dist_url).hostname or "", urlparse(dist_url).port
    if not host or not port or (rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"):
        return host  # rank 0 answers there itself, unless torchrun does
    begin, told = time.monotonic(), False
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return host
        except socket.gaierror as error:
            raise InputError(
                f"--master_addr {host}: there is no such host ({error.strerror}); name the machine with --node_rank=0"
            ) from None
        except OSError as error:
            waiting = f"rank {rank} reaches nobody at {host}:{port} ({error.strerror or 'no answer'})"
        if time.monotonic() - begin > timeout_seconds:
            raise TimeoutError(f"{waiting}; see --timeout")
        if not told and time.monotonic() - begin > PATIENCE:
            told = True
            print(
                f"note: {waiting}; still trying. Is it the --master_addr and --master_port of rank 0?", file=sys.stderr
            )
        time.sleep(0.5)


def _choose_interface(store: dist.Store, rank: int, size: int, host: str) -> None:
    """Tell Gloo through which network interface the machines reach each other, unless the user has.

    By itself Gloo takes the address that this machine's name has, which on Debian is one that no other machine can
    reach. The way to the host of the store is right: it has just been used. That host itself takes the way back.
    """
    store.set(f"address{rank}", own_address(host))
    addresses = [store.get(f"address{other}").decode() for other in range(size)]
    own, others = addresses[rank], [one for one in addresses if not is_of_this_machine_alone(one)]
    if is_of_this_machine_alone(own) and others:
        own = own_address(others[0])
    if not is_of_this_machine_alone(own) and (name := interface_of(own)):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _interface_hint(device: torch.device) -> str:
    variable = "NCCL_SOCKET_IFNAME" if device.type == "cuda" else "GLOO_SOCKET_IFNAME"
    taken = os.environ.get(variable)
    names = ", ".join(name for _, name in socket.if_nameindex())
    return (
        f"set {variable} on each machine to the network interface that reaches the others (here: "
        f"{f'{taken} of ' if taken else ''}{names}), and open its ports in the firewall"
    )


def _all_or_none(join: Callable[[], None], store: dist.Store, rank: int, timeout_seconds: float) -> None:
    """Call `join`, on all processes; where it fails on one, it fails on all at once.

    By itself Gloo waits five times as long as it is told, also for those that have given up.

    Args:
        store: a connection of its own, as `join` keeps the other one busy.

    Raises:
        RuntimeError: names the process on which it failed, and why.
        TimeoutError: it takes too long.
    """
    outcome = []

    def attempt() -> None:
        try:
            join()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    threading.Thread(target=attempt, daemon=True).start()
    deadline = time.monotonic() + timeout_seconds
    while not outcome:
        time.sleep(0.02)
        if store.check(["failed"]):
            raise RuntimeError(store.get("failed").decode())
        if time.monotonic() > deadline:
            raise TimeoutError("the others did not come in time; see --timeout")
    if outcome[0]:
        store.set("failed", f"{socket.gethostname()}, rank {rank}: {reason(outcome[0])}")
        raise RuntimeError(store.get("failed").decode())


def _unused_part(store: dist.Store, rank: int, size: int, timeout_seconds: float) -> dist.Store:
    """A part of the store that no earlier attempt of this group has written to.

    torchrun keeps one store for all restarts of a group, in which the addresses of processes that have died still
    stand. So each process leaves a new name, rank 0 lists the names it finds, and everybody waits until each process
    has signed a list with its own new name in it.
    """
    own = uuid.uuid4().hex
    store.set(f"name{rank}", own)
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if rank == 0 and store.check([f"name{other}" for other in range(size)]):
            store.set("names", "-".join(store.get(f"name{other}").decode() for other in range(size)))
        names = store.get("names").decode() if store.check(["names"]) else ""
        if own in names:
            store.set(f"{names}/{rank}", "signed")
            if store.check([f"{names}/{other}" for other in range(size)]):
                return dist.PrefixStore(names, store)
        time.sleep(0.05)
    raise TimeoutError("the others did not come in time; see --timeout")


def single_process(device_name: str = "auto", gpu_id: int = 0) -> World:
    """A world of one."""
    return World(choose_device(device_name, gpu_id))


def current_world(device_name: str = "auto", gpu_id: int = 0) -> World:
    """The group of `torchrun` where it started this process, else a world of one."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return join_process_group(device_name)
    return single_process(device_name, gpu_id)
