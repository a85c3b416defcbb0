"""What is saved lies between the weights that a run started from and those that it ended with."""

import pytest
import torch
from recipes import chosen

import train
from appearance.cli import InputError
from appearance.drawn import sample
from appearance.networks import checkpoints
from appearance.training import starting
from appearance.training.interpolation import WeightInterpolation
from model import build_model


def test_a_share_of_every_weight_but_the_classifiers():
    net = build_model("osnet_x0_25", 5)
    start = {name: value.clone() for name, value in net.state_dict().items()}
    interpolation = WeightInterpolation(net, 0.25)
    net.train().embed(torch.randn(4, 3, 32, 16))  # other statistics
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += torch.randn_like(parameter)
    ended = net.state_dict()
    between = interpolation.of(net).state_dict()
    for name, value in between.items():
        trained_alone = name.startswith("classifier.") or name.endswith("num_batches_tracked")
        wanted = ended[name] if trained_alone else 0.25 * start[name] + 0.75 * ended[name]
        torch.testing.assert_close(value, wanted)
    assert between["conv1.bn.num_batches_tracked"] == 1
    assert interpolation.of(net) is interpolation.module is not net


@pytest.mark.parametrize(
    ("people", "flags", "refining", "share"),
    [
        (10, [], True, 0.56),
        (50, [], True, 0.4),
        (150, [], True, 0.0),
        (751, [], True, 0.0),
        (10, [], False, 0.0),
        (10, ["--keep-start", "0"], True, 0.0),
        (751, ["--keep-start", "0.3"], True, 0.3),
        (10, ["--recipe", "deepsort"], True, 0.0),
    ],
)
def test_the_fewer_people_the_more_is_kept(people, flags, refining, share):
    recipe, reasons = chosen(*flags, images=20 * people, identities=people, fine_tuning=refining)
    assert recipe.keep_start == share
    assert ("keep_start" in reasons) == (share > 0 and "--keep-start" not in flags)


def test_a_run_that_keeps_half(tmp_path):
    """Half of what it started from, half of the same run that keeps nothing; training itself is not touched."""
    data = sample.ensure(tmp_path / "sample", identities=12, workers=1)

    def run(name: str, *flags) -> dict:
        line = ["--data-dir", data, "--height", 32, "--width", 16, "--workers", 1, "--amp", "fp32", "--epochs", 1]
        line += ["--batch_size", 16, "--model", "osnet_x0_25", "--output", tmp_path / name, *flags]
        train.main(train.get_args_parser().parse_args([str(flag) for flag in line]))
        return torch.load(tmp_path / name / "last.pth", weights_only=True)

    start = run("start")["net_dict"]
    weights = ("--weights", tmp_path / "start/best.pth")
    none, half = run("none", *weights, "--keep-start", 0), run("half", *weights, "--keep-start", 0.5)
    for name, value in half["objective"].items():
        assert torch.equal(value, none["objective"][name])
    best = checkpoints.load(tmp_path / "half/best.pth").net_dict
    for name in ("conv1.conv.weight", "fc.1.running_var"):
        assert not torch.equal(start[name], none["net_dict"][name])
        torch.testing.assert_close(best[name], (start[name] + none["net_dict"][name]) / 2)
    torch.testing.assert_close(best["classifier.weight"], none["net_dict"]["classifier.weight"])


def test_there_must_be_something_to_keep():
    args = train.get_args_parser().parse_args(["--keep-start", "0.5"])
    with pytest.raises(InputError, match=r"--keep-start 0\.5: needs starting weights; add --weights"):
        starting.starting_weights(args, "net")
