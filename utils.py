"""What every run needs: the device, the process group, seeds."""

import copy
import os
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from cli import InputError, RunFailed


@dataclass(frozen=True)
class World:
    """This process among its equals: one of `size`, each with its own device."""

    device: torch.device
    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Rank 0 alone prints and writes."""
        return self.rank == 0

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

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


@contextmanager
def explained_failures() -> Iterator[None]:
    """Turns what PyTorch says about memory and lost processes into sentences."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in text:
            raise RunFailed("out of memory; lower --batch_size, or run it in parts with --accumulate 2") from None
        if dist.is_initialized() and any(word in text for word in ("onnection", "imed out", "gloo", "NCCL", "peer")):
            raise RunFailed(
                f"another process of the group failed or does not answer ({text.splitlines()[0][:100]}); "
                "training goes on with --resume, or by itself under torchrun --max-restarts=3"
            ) from None
        raise


def choose_device(name: str = "auto", gpu_id: int = 0) -> torch.device:
    """The device called `name` ("auto": GPU `gpu_id` if there is one, else the CPU).

    Raises:
        InputError: it does not exist on this machine.
    """
    if name == "auto":
        name = f"cuda:{gpu_id}" if torch.cuda.is_available() else "cpu"
    elif name == "cuda":
        name = f"cuda:{gpu_id}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        found = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise InputError(f"--device {name}: not available, this machine has {found}; use --device cpu") from None
    return device


def join_process_group(device_name: str = "auto", dist_url: str = "env://", timeout_seconds: int = 600) -> World:
    """Join the group that `torchrun` describes in the environment: nccl where every rank has a GPU, else gloo.

    Raises:
        InputError: the other processes cannot be reached.
    """
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
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
    try:
        store, rank, size = next(dist.rendezvous(dist_url, rank, size, timeout=timeout))
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=_unused_part(store, rank, size, timeout_seconds),
            rank=rank,
            world_size=size,
            timeout=timeout,
            device_id=device if device.type == "cuda" else None,
        )
    except (dist.DistError, RuntimeError, ValueError, TimeoutError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"--dist_url {dist_url}: the processes could not meet ({reason})") from None
    return World(device, rank, size, local_rank)


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


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def default_workers() -> int:
    """Decoding threads: the cores that this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 16)


def fastest_precision(net: nn.Module, height: int, width: int, device: torch.device) -> str:
    """What `--amp auto` means: "bf16" where the device trains this network faster with it, else "fp32".

    A CPU is measured, at the size of training: many take bfloat16 and are slower with it, and those that are made for
    it are so for large convolutions only. Of a forward and backward pass of four images the best of three counts.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    net = copy.deepcopy(net).train().to(memory_format=torch.channels_last)
    images = torch.zeros(4, 3, height, width).contiguous(memory_format=torch.channels_last)

    def seconds(precision: str) -> float:
        started = time.perf_counter()
        with autocast(device, precision):
            loss = net.embed(images).float().sum()
        loss.backward()
        return time.perf_counter() - started

    with torch.random.fork_rng(devices=[]):  # dropout draws
        times = {precision: min(seconds(precision) for _ in range(3)) for precision in ("fp32", "bf16")}
    return "bf16" if times["bf16"] < 0.9 * times["fp32"] else "fp32"


def autocast(device: torch.device, precision: str):
    """The context for forward passes: "fp32" (none), "bf16" or "fp16"."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, {"bf16": torch.bfloat16, "fp16": torch.float16}[precision])
