"""Train on several GPUs or CPU processes: `train.py` under `torchrun`.

    torchrun --nproc_per_node=4 train_multiGPU.py [flags of train.py] [--syncBN]

On several machines, run the same command on each, with torchrun's --nnodes, --node_rank, --master_addr and
--master_port (docs/training.md). CPU processes use the network interface that reaches --master_addr; set
GLOO_SOCKET_IFNAME (for GPUs NCCL_SOCKET_IFNAME) to use another.
`--batch_size` and `--lr` refer to the batch of all processes together, so they do not depend on their number.
"""

import argparse
import os
import sys

import train
from appearance import cli
from appearance.cli import InputError
from appearance.flags import positive
from utils import join_process_group


def get_args_parser() -> cli.ArgumentParser:
    parser = train.get_args_parser(default_arch="resnet18")
    parser.description = "Train a re-ID network on several GPUs or CPU processes. Start it with torchrun."
    add = parser.add_argument_group("processes").add_argument
    add("--syncBN", action=argparse.BooleanOptionalAction, default=False, help="BatchNorm over all processes, on GPUs")
    add("--world_size", type=positive, help="processes expected; a check, torchrun's --nproc_per_node sets it")
    add("--timeout", type=positive, default=1800, help="seconds that a process waits for the others before it gives up")
    add("--dist_url", default="env://", help="where the processes meet (default: as torchrun says)")
    return parser


def main(args) -> None:
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        command = " ".join(["torchrun --nproc_per_node=2", "train_multiGPU.py", *sys.argv[1:]])
        raise InputError(f"must be started by torchrun, one process per GPU: {command}   (one GPU: python train.py)")
    if args.world_size and args.world_size != int(os.environ["WORLD_SIZE"]):
        raise InputError(
            f"--world_size {args.world_size}: torchrun started {os.environ['WORLD_SIZE']} processes; "
            f"use --nproc_per_node={args.world_size}, or leave --world_size out"
        )
    if args.syncBN and args.compile:
        raise InputError("--syncBN --compile: cannot be combined; leave one of them out")
    world = join_process_group(args.device, args.dist_url, args.timeout)
    if args.syncBN and world.device.type != "cuda":
        world.say("note: --syncBN has no effect on CPUs; each process uses its own batch statistics")
    train.main(args, world, default_arch="resnet18")
    world.leave()


if __name__ == "__main__":
    cli.run(main, get_args_parser())
