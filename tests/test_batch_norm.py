"""BatchNorm's statistics are those of the batches seen within `measured_afresh`, and nothing else changes."""

import pytest
import torch
from recipes import recipe_of
from torch import nn

import train
from appearance.drawn import sample
from appearance.networks import checkpoints
from appearance.training import schedule
from appearance.training.batch_norm import measured_afresh
from model import from_checkpoint


def test_statistics_are_the_mean_over_the_batches():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    net[1].eval()  # frozen, say
    batches = [torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(n)) * (n + 1) for n in range(3)]
    with measured_afresh(net) as measuring:
        for batch in batches:
            measuring(batch)
    rows = [net[0](batch).detach().transpose(0, 1).flatten(1) for batch in batches]  # (4, 200) each
    torch.testing.assert_close(net[1].running_mean, torch.stack([row.mean(1) for row in rows]).mean(0))
    torch.testing.assert_close(net[1].running_var, torch.stack([row.var(1) for row in rows]).mean(0))
    assert net[1].momentum == 0.1
    assert [module.training for module in net.modules()] == [True, True, False, True]


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        (["--epochs", "4", "--model", "osnet_x0_25"], True),  # batches of 16
        (["--epochs", "4"], False),  # of 32
        (["--epochs", "40"], False),  # of 64
        (["--epochs", "40", "--precise-bn"], True),
        (["--epochs", "4", "--model", "osnet_x0_25", "--no-precise-bn"], False),
        (["--epochs", "4", "--recipe", "deepsort"], False),
    ],
)
def test_small_batches_have_them_measured_in_the_last_fifth(flags, chosen):
    recipe = recipe_of(*flags)
    assert recipe.precise_bn == chosen
    precise = [epoch for epoch in range(recipe.epochs) if schedule.is_precise(recipe, epoch)]
    assert precise == (list(range(recipe.epochs - max(1, recipe.epochs // 5), recipe.epochs)) if chosen else [])
    frozen = recipe_of(*flags, "--freeze-layers")
    assert not schedule.is_precise(frozen, recipe.epochs - 1)


def test_weights_are_those_of_the_same_run_without(tmp_path):
    """Only the statistics differ, and those of the last checkpoint are of mixed batches."""
    data = sample.ensure(tmp_path / "sample", identities=12, workers=1)
    nets = {}
    for flag in ("--precise-bn", "--no-precise-bn"):
        out = tmp_path / flag
        flags = ["--data-dir", str(data), "--model", "osnet_x0_25", "--height", "32", "--width", "16"]
        flags += ["--workers", "1", "--epochs", "2", "--amp", "fp32"]  # auto measures: two runs may differ
        flags += ["--batch_size", "16", "--eval-interval", "9", flag, "--output", str(out)]
        train.main(train.get_args_parser().parse_args(flags))
        nets[flag] = from_checkpoint(checkpoints.load(out / "last.pth"))
    ours, theirs = (net.state_dict() for net in nets.values())
    changed = {name.rpartition(".")[2] for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])}
    assert changed <= {"running_mean", "running_var", "num_batches_tracked"}
    assert {"running_mean", "running_var"} <= changed
