"""What every run needs: the device, the process group, seeds."""

import os
import random
import time
import uuid
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist

from appearance.cli import InputError
from appearance.world import World


def choose_device(name: str = "auto", gpu_id: int = 0) -> torch.device:
    """The device called `name` ("auto": GPU `gpu_id` if there is one, else the CPU).

    Raises:
        InputError: it does not exist on this machine.
    """
    flag = f"--device {name}"
    if name == "auto" and not torch.cuda.is_available() and gpu_id == 0:
        name = "cpu"
    elif name in ("auto", "cuda"):
        name = f"cuda:{gpu_id}"
        flag = f"--gpu_id {gpu_id}" if gpu_id else flag
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        found = f"{torch.cuda.device_count()} CUDA devices" if torch.cuda.is_available() else "no CUDA device"
        raise InputError(f"{flag}: not available, this machine has {found}; use --device cpu") from None
    return device


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
