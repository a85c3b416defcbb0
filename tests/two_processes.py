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
from appearance.data.batches import Feed
from appearance.networks import checkpoints
from appearance.pictures import plots
from appearance.training import run
from appearance.training.run import Run
from utils import join_process_group, single_process

REPORT, RANK = sys.argv[1], int(os.environ.get("RANK", 0))


def record(plain: bool) -> dict:
    report = {"trained": [], "scored": []}
    whole = Feed.__call__

    def call(feed, order):
        report["trained"].append(feed.mine(order).flatten())
        return whole(feed, order)

    Feed.__call__ = call
    rows_of = Feed.rows

    def rows(feed, wanted):
        report["scored"].append(torch.tensor(list(wanted)))
        return rows_of(feed, wanted)

    Feed.rows = rows
    end = Run.end_epoch

    def end_epoch(run, measured, score):
        end(run, measured, score)
        report["weights"] = {k: v.clone() for k, v in run.net.state_dict().items()}

    Run.end_epoch = end_epoch
    if plain:
        mode = train.ReIDLoss.train

        def train_mode(self, training=True):
            mode(self, training)
            for module in self.modules():
                if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.Dropout):
                    module.eval()
            return self

        train.ReIDLoss.train = train_mode
    return report


def forbid_writing():
    def refuse(*args, **kwargs):
        raise AssertionError("a rank other than 0 writes")

    for module in (files, run, checkpoints, plots):
        module.atomic_write = refuse


if __name__ == "__main__":
    plain = "--plain" in sys.argv
    report = record(plain)
    args = train_multiGPU.get_args_parser().parse_args([arg for arg in sys.argv[2:] if arg != "--plain"])
    if RANK:
        forbid_writing()
    world = join_process_group("cpu") if "RANK" in os.environ else single_process("cpu")
    train.main(args, world)
    torch.save(report, f"{REPORT}.rank{RANK}")
    world.leave()
