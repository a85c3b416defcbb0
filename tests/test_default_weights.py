"""The network that comes with the collection: found where nobody has trained one, and a start for training."""

import numpy as np
import pytest
import torch
from conftest import ROOT, call_script, make_market
from networks import random_crops, write_checkpoint
from test_train import SMALL, run

from appearance.cli import InputError
from appearance.measure import features_file
from appearance.networks import checkpoints, default_weights
from feature_extractor import Extractor


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_file_is_small_whole_and_free_of_identities():
    checkpoint = checkpoints.load(default_weights.WEIGHTS)
    assert checkpoint.arch == default_weights.ARCH
    assert (checkpoint.height, checkpoint.width) == (64, 32)
    assert checkpoint.num_classes is None
    assert default_weights.WEIGHTS.stat().st_size <= 5e6
    assert (default_weights.WEIGHTS.parent / "README.md").is_file()


def test_an_extractor_without_a_path(here):
    crops = random_crops(3)
    vectors = Extractor(use_cuda=False)(crops)
    np.testing.assert_array_equal(vectors, Extractor(default_weights.WEIGHTS, use_cuda=False)(crops))
    assert vectors.shape == (3, 512)
    assert (vectors @ vectors.T)[~np.eye(3, dtype=bool)].max() < 0.999


def test_which_file_is_chosen(here):
    said = []
    assert default_weights.choose(None, said.append) == default_weights.WEIGHTS
    told = "note: no checkpoint/best.pth here; using the default weights, trained on synthetic people only"
    assert said == [f"{told}: {default_weights.WEIGHTS}"]
    write_checkpoint(default_weights.TRAINED, "osnet_x0_25")
    assert default_weights.choose(None, said.append) == default_weights.TRAINED
    assert default_weights.choose(here / "other.pth", said.append) == here / "other.pth"
    assert len(said) == 1


@pytest.mark.parametrize("script", ["test.py", "export.py"])
def test_scripts_use_it_and_say_so(here, script):
    data = make_market(here / "market")
    flags = ["--format", "torchscript"] if script == "export.py" else ["--workers", 1]
    done = call_script(script, "--data-dir", data, *flags, cwd=here)
    assert done.code == 0, done.stderr
    assert done.stdout.startswith("note: no checkpoint/best.pth here")
    if script == "test.py":
        assert features_file.load("features.pth")["meta"]["weights"] == str(default_weights.WEIGHTS)


def test_training_starts_from_it(here, capsys):
    data = make_market(here / "market")
    flags = ["--data-dir", data, "--epochs", 1, "--lr", 0, *SMALL[:-2]]
    run(*flags, "--weights", "drawn")
    assert f"from {default_weights.WEIGHTS}" in capsys.readouterr().out
    wanted, found = checkpoints.load(default_weights.WEIGHTS), checkpoints.load("checkpoint/best.pth")
    assert found.arch == default_weights.ARCH
    kernels = [key for key in wanted.net_dict if key.endswith("conv.weight")]
    assert kernels
    assert all(torch.equal(wanted.net_dict[key], found.net_dict[key]) for key in kernels)
    with pytest.raises(InputError, match=r"--weights drawn: .*datasets\.py draw .* --model net .*drawn_net/best\.pth"):
        run(*flags, "--weights", "drawn", "--model", "net", "--output", "other")


def test_training_goes_on_at_the_size_of_the_weights(here):
    data = make_market(here / "market")
    flags = ["--data-dir", data, "--epochs", 1, "--batch_size", 8, "--workers", 1, "--device", "cpu", "--amp", "fp32"]
    write_checkpoint(here / "small.pth", "osnet_x0_25", height=48, width=24)
    for name, given, size in (("a", [], (48, 24)), ("b", ["--height", 32, "--width", 16], (32, 16))):
        run(*flags, *given, "--weights", here / "small.pth", "--output", name)
        found = checkpoints.load(here / name / "best.pth")
        assert (found.height, found.width) == size


def test_the_folder_holds_nothing_else():
    assert {path.name for path in (ROOT / "weights").iterdir()} == {
        "README.md",
        "ckpt.t7",
        "make.py",
        default_weights.WEIGHTS.name,
    }
