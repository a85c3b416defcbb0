"""Train on several GPUs, or several CPU processes: the loop of `train.py` under `torchrun`.

    torchrun --nproc_per_node=4 train_multiGPU.py [flags of train.py] [--syncBN]

Several machines: the same command on each, with --nnodes, --node_rank, --master_addr and --master_port for torchrun
(docs/training.md). Between CPUs the processes take the network interface that reaches --master_addr; the environment
variables GLOO_SOCKET_IFNAME and, for GPUs, NCCL_SOCKET_IFNAME name another.
`--batch_size` and `--lr` belong to the batch of all processes together, so a recipe keeps its meaning.
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
        raise InputError(f"start it with torchrun, one process per GPU: {command}   (one GPU: python train.py)")
    if args.world_size and args.world_size != int(os.environ["WORLD_SIZE"]):
        raise InputError(
            f"--world_size {args.world_size}: torchrun started {os.environ['WORLD_SIZE']} processes; "
            f"use --nproc_per_node={args.world_size}, or leave the flag out"
        )
    if args.syncBN and args.compile:
        raise InputError("--syncBN --compile: PyTorch cannot compile across the processes; leave one of them out")
    world = join_process_group(args.device, args.dist_url, args.timeout)
    if args.syncBN and world.device.type != "cuda":
        world.say("note: --syncBN: PyTorch has it on GPUs only; each process keeps its own BatchNorm statistics")
    train.main(args, world, default_arch="resnet18")
    world.leave()


if __name__ == "__main__":
    cli.run(main, get_args_parser())
