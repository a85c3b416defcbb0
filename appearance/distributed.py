"""Distributed training and testing: join a process group, wrap modules, run collectives.

`World` is one process's view of its group. A single process is a group of size 1, so the same code serves both.
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

# flags that may differ between machines: paths and hardware
MACHINE_FLAGS = {"data_dir", "output", "device", "gpu_id", "workers", "cache", "given"}
FILE_FLAGS = {"weights", "teacher"}
CONTENT = " (content "
PATIENCE = 10  # seconds to wait for rank 0 before a note about it


@dataclass(frozen=True)
class World:
    """This process's device and rank, and the collectives of its group (size 1 without other processes)."""

    device: torch.device
    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only rank that prints and writes."""
        return self.rank == 0

    def say(self, text: str) -> None:
        """Print on rank 0."""
        if self.is_main:
            print(text, flush=True)

    def leave(self) -> None:
        """Leave the process group at the end of successful work.

        Not to be called in a `finally`: leaving waits for running collectives, and after a failure other ranks may be
        in one that this rank will never join. The exit of this process ends them then.
        """
        if dist.is_initialized():
            dist.destroy_process_group()

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.barrier()

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes (all-reduce); `values` is unchanged."""
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
        """The smallest number over all processes, ignoring negative ones; `step`: () int64."""
        step = torch.where(step < 0, torch.iinfo(step.dtype).max, step)
        if self.size > 1:
            dist.all_reduce(step, dist.ReduceOp.MIN)
        return int(step)

    def gather(self, value) -> list | None:
        """The Python values of all processes in rank order, on rank 0; None on other ranks."""
        if self.size == 1:
            return [value]
        values = [None] * self.size if self.is_main else None
        dist.gather_object(value, values)
        return values

    def broadcast(self, value):
        """Rank 0's Python value, on all ranks."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def agree(self, value, difference: Callable[[object, object], str]) -> None:
        """Check that all processes have the same value as rank 0.

        Args:
            difference: (rank 0's value, this process's value) -> the difference in words; "": none.

        Raises:
            InputError: on all processes, if a value differs; names the machine.
        """
        if self.size == 1:
            return
        told = difference(self.broadcast(value), value)
        found = self.broadcast(self.gather(told and f"{socket.gethostname()} (rank {self.rank}): {told}"))
        if others := [text for text in found if text]:
            raise InputError(f"{others[0]}; all processes must have the same as rank 0")

    def agree_on_flags(self, args) -> None:
        """Check that all processes were given the same flags, except MACHINE_FLAGS.

        Files of weights are compared by content, not by path.

        Raises:
            InputError: on all processes, if a flag differs; names the first one.
        """
        self.agree({name: _comparable(name, value) for name, value in vars(args).items()}, _other_flag)

    def wrapped(self, module: nn.Module, compile: bool = False, in_parts: bool = False) -> nn.Module:
        """Compile a module if asked, and with several processes wrap it in DistributedDataParallel.

        Batch norm statistics are not synchronised in every step; they are averaged once per epoch.

        Args:
            compile: use torch.compile, with one graph per image size. On a single GPU also CUDA graphs, which reuse
                gradient memory, so not with several processes or `in_parts`.
            in_parts: gradients are accumulated over several backward passes.
        """
        if compile:
            graphs = self.device.type == "cuda" and self.size == 1 and not in_parts
            module = torch.compile(module, dynamic=False, mode="reduce-overhead" if graphs else None)
        if self.size == 1:
            return module
        # renamed in torch 2.15
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices, **{buffers: False})


def _comparable(name: str, value) -> str:
    """The text of a flag's value that must be equal on all processes."""
    if name in MACHINE_FLAGS:
        return ""
    if name == "resume":  # rank 0 reads the file for all
        return "given" if value else "not given"
    if name in FILE_FLAGS and value is not None and Path(value).is_file():
        return f"{value}{CONTENT}{digest(value)})"
    return str(value)


def _other_flag(first: dict[str, str], own: dict[str, str]) -> str:
    """The first flag that differs from rank 0's (`first`), in words; "" if none."""
    for name, value in own.items():
        if value.rpartition(CONTENT)[2] != first[name].rpartition(CONTENT)[2]:
            return f"--{name.replace('_', '-')} is {value}, but {first[name]} on rank 0"
    return ""


def no_sync(module: nn.Module) -> AbstractContextManager:
    """Context without gradient synchronisation, for all but the last backward pass of an accumulated batch."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()


def gathered(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
    """All-gather (N, D) features and (N,) labels: (M, D), (M,), and the index of this process's first row.

    Gradients flow back to the process of each feature, so mining over all processes is equivalent to one process.
    """
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return features, labels, 0
    gather = torch.compiler.disable(_Gather.apply)
    return gather(features), gather(labels), dist.get_rank() * len(labels)


class _Gather(torch.autograd.Function):
    """All-gather of rows in rank order; backward sums the gradients of all processes for the own rows."""

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
    """Join the process group that `torchrun` describes in the environment; backend nccl on GPUs, else gloo.

    Args:
        timeout_seconds: how long to wait for the other processes, here and in collectives.

    Raises:
        InputError: the device does not fit, or the other processes cannot be reached.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if size > 1 and device_name.startswith("cuda:"):
        raise InputError(
            f"--device {device_name}: all {size} processes would share one GPU; leave --device out, so that each uses "
            "its own (to choose GPUs: CUDA_VISIBLE_DEVICES=0,2 torchrun ...)"
        )
    if device_name in ("auto", "cuda") and torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"--nproc_per_node: {local_rank + 1} or more processes, but this machine has "
                f"{torch.cuda.device_count()} GPUs; start one process per GPU, or add --device cpu"
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
        raise InputError(f"--dist_url {dist_url}: cannot connect the processes ({reason(error)}){hint}") from None
    return World(device, rank, size, local_rank)


def _answering_host(dist_url: str, rank: int, timeout_seconds: float) -> str:
    """Wait until the host of the shared store answers, with a note after PATIENCE (PyTorch would wait silently).

    Returns:
        the host; "" if `dist_url` has none.

    Raises:
        InputError: unknown host name.
        TimeoutError: the host does not answer.
    """
    if dist_url == "env://":
        host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    else:
        host, port = urlparse(dist_url).hostname or "", urlparse(dist_url).port
    if not host or not port or (rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"):
        return host  # rank 0 runs the store itself, unless torchrun does
    begin, told = time.monotonic(), False
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return host
        except socket.gaierror as error:
            raise InputError(
                f"--master_addr {host}: unknown host ({error.strerror}); give the address of the machine with "
                "--node_rank=0"
            ) from None
        except OSError as error:
            waiting = f"rank {rank} cannot reach rank 0 at {host}:{port} ({error.strerror or 'no answer'})"
        if time.monotonic() - begin > timeout_seconds:
            raise TimeoutError(f"{waiting} in {timeout_seconds:g} s (--timeout)")
        if not told and time.monotonic() - begin > PATIENCE:
            told = True
            print(
                f"note: {waiting}; still trying. Are --master_addr and --master_port those of rank 0?", file=sys.stderr
            )
        time.sleep(0.5)


def _choose_interface(store: dist.Store, rank: int, size: int, host: str) -> None:
    """Set Gloo's network interface (GLOO_SOCKET_IFNAME), unless the user has set it.

    By default Gloo uses the address of this machine's host name, which on Debian is a loopback address. The interface
    on the route to the store's host works, because that connection was just made. The host itself uses the interface
    on the route to another machine.
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
        f"set {variable} on each machine to the network interface that reaches the others (here: {names}"
        f"{f'; now {taken}' if taken else ''}), and open its ports in the firewall"
    )


def _all_or_none(join: Callable[[], None], store: dist.Store, rank: int, timeout_seconds: float) -> None:
    """Call `join` on all processes; if it fails on one, fail on all at once.

    Gloo alone would wait five times its timeout, even for processes that have already failed.

    Args:
        store: a separate connection, because `join` keeps the other one busy.

    Raises:
        RuntimeError: `join` failed; names the process and the reason.
        TimeoutError: after `timeout_seconds`.
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
            raise TimeoutError(f"other processes did not join in {timeout_seconds:g} s (--timeout)")
    if outcome[0]:
        store.set("failed", f"{socket.gethostname()}, rank {rank}: {reason(outcome[0])}")
        raise RuntimeError(store.get("failed").decode())


def _unused_part(store: dist.Store, rank: int, size: int, timeout_seconds: float) -> dist.Store:
    """A prefix of the store that earlier attempts of this group have not used.

    torchrun keeps one store for all restarts, with the addresses of dead processes in it. So each process writes a new
    random name, rank 0 publishes the list of names, and all wait until each process has signed a list that contains its
    own new name. That list is the prefix.

    Raises:
        TimeoutError: after `timeout_seconds`.
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
    raise TimeoutError(f"other processes did not join in {timeout_seconds:g} s (--timeout)")


def single_process(device_name: str = "auto", gpu_id: int = 0) -> World:
    """A `World` of one process."""
    return World(choose_device(device_name, gpu_id))


def current_world(device_name: str = "auto", gpu_id: int = 0) -> World:
    """The process group of `torchrun` if it started this process, else a `World` of one process."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        return join_process_group(device_name)
    return single_process(device_name, gpu_id)
