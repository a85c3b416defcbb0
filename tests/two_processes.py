"""Runs `train.py`'s loop in this process, alone or under torchrun, and leaves what tests compare in REPORT.rankN.

    python tests/two_processes.py REPORT [--plain] [flags of train_multiGPU.py]

--plain trains without BatchNorm and dropout effects, so that one and two processes do the same arithmetic.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from torch import nn

import train
import train_multiGPU
from appearance import files
from utils import join_process_group, single_process

REPORT, RANK = sys.argv[1], int(os.environ.get("RANK", 0))


def record(training_class, plain: bool) -> dict:
    report = {"trained": [], "scored": []}
    whole = train.batches.Feed.__call__

    def call(feed, order):
        report["trained"].append(feed.mine(order).flatten())
        return whole(feed, order)

    train.batches.Feed.__call__ = call
    rows_of = train.batches.Feed.rows

    def rows(feed, wanted):
        report["scored"].append(torch.tensor(list(wanted)))
        return rows_of(feed, wanted)

    train.batches.Feed.rows = rows
    finish = training_class.finish_epoch

    def finish_epoch(self):
        finish(self)
        report["weights"] = {k: v.clone() for k, v in self.learner.objective.state_dict().items()}

    training_class.finish_epoch = finish_epoch
    if plain:
        mode = train.Learner.train_mode

        def train_mode(self):
            mode(self)
            for module in self.objective.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.Dropout):
                    module.eval()

        train.Learner.train_mode = train_mode
    return report


def forbid_writing():
    def refuse(*args, **kwargs):
        raise AssertionError("a rank other than 0 writes")

    for module in (files, train.log, train.checkpoints, train.log.plots):
        module.atomic_write = refuse


if __name__ == "__main__":
    plain = "--plain" in sys.argv
    report = record(train.Training, plain)
    args = train_multiGPU.get_args_parser().parse_args([arg for arg in sys.argv[2:] if arg != "--plain"])
    if RANK:
        forbid_writing()
    world = join_process_group("cpu") if "RANK" in os.environ else single_process("cpu")
    train.main(args, world)
    torch.save(report, f"{REPORT}.rank{RANK}")
    if world.size > 1:
        torch.distributed.destroy_process_group()
