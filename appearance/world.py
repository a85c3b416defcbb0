"""This process among its equals: what they tell each other."""

import inspect
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn


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

    def leave(self) -> None:
        """Take leave of the group, at the end of work that went well.

        Not in a `finally`: leaving waits for all that is under way, and after a failure the others may wait in a
        collective that this process will never join. Then its exit is what ends them.
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

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module, with gradients averaged over the processes where there are several.

        BatchNorm's statistics stay each process's own: they are averaged once an epoch instead of copied every step.
        """
        if self.size == 1:
            return module
        # torch 2.15 gave the flag for buffers a new name
        known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        devices = [self.device] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(module, device_ids=devices, **{buffers: False})
