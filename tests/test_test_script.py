"""`test.py`: the features file of a checkpoint, from any kind of file and on any number of processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, call_script, load_script
from networks import write_checkpoint

from appearance.cli import InputError
from appearance.data import layouts
from appearance.data.augment import normalize
from appearance.drawn import sample
from appearance.measure import features_file
from appearance.networks import checkpoints, precision
from appearance.networks.inference import unit_rows
from datasets import PersonImages
from model import Net, build_model, from_checkpoint

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
SMALL = ["--height", "32", "--width", "16", "--workers", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return sample.ensure(tmp_path_factory.mktemp("data") / "sample", identities=9, workers=1)


def script(*arguments, cwd, launcher=(sys.executable,)) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*launcher, ROOT / "test.py", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def in_process(*arguments):
    module = load_script("test.py")
    module.main(module.get_args_parser().parse_args([str(a) for a in arguments]))


def test_published_style_checkpoints_work(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = Net(1261)
    torch.save({"net_dict": net.state_dict(), "acc": 91.2, "epoch": 39}, "ckpt.t7")
    in_process("--data-dir", data, "--weights", "ckpt.t7", *SMALL)
    found = features_file.load("features.pth")
    listed = layouts.find(data)
    assert found["qf"].shape == (len(listed.query), 512)
    assert found["gf"].shape == (len(listed.gallery), 512)
    assert found["qf"].dtype == torch.float32
    assert torch.allclose(found["gf"].norm(dim=1), torch.ones(len(listed.gallery)), atol=1e-5)
    assert found["ql"].tolist() == [s.pid for s in listed.query]
    assert found["gc"].tolist() == [s.camera for s in listed.gallery]
    assert {-1, 0} <= set(found["gl"].tolist())  # junk and distractors keep their labels
    assert found["q_paths"] == [s.path for s in listed.query]
    assert found["meta"]["height"] == 32

    # by hand: scale to 0..1, ImageNet's mean and deviation, the network without any fusing
    images = PersonImages(listed.query[:3], 32, 16, pids=())
    pixels = torch.stack([images[i][0] for i in range(3)]).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    net.reid = True
    with torch.inference_mode():
        by_hand = net.eval()((pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    assert torch.allclose(found["qf"][:3], by_hand, atol=1e-5)


def test_a_size_that_the_checkpoint_does_not_say(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "w.pth", "osnet_x0_25", height=32, width=16)
    torch.save(checkpoints.read("w.pth")["net_dict"], "bare.pth")
    in_process("--data-dir", data, "--weights", "w.pth", "--output", "told.pth", "--workers", 1)
    in_process("--data-dir", data, "--weights", "bare.pth", *SMALL)
    assert "note" not in capsys.readouterr().out
    assert torch.equal(features_file.load("told.pth")["qf"], features_file.load("features.pth")["qf"])
    in_process("--data-dir", data, "--weights", "bare.pth", "--height", 32, "--workers", 1)
    assert "note: bare.pth does not say its input size; using 32x16; if" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_exported_files_and_those_from_elsewhere_are_tested_alike(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = from_checkpoint(checkpoints.load(write_checkpoint(tmp_path / "w.pth", "osnet_x0_25", height=32, width=16)))
    torch.jit.save(torch.jit.trace(net, torch.rand(2, 3, 32, 16)), "theirs.pt")
    in_process("--data-dir", data, "--weights", "w.pth", "--output", "own.pth", "--workers", 1)
    flags = ["--data-dir", data, "--weights", Path("theirs.pt"), *SMALL]
    in_process(*flags, "--normalize", "outside")
    found = features_file.load("features.pth")
    assert torch.allclose(found["qf"], features_file.load("own.pth")["qf"], atol=1e-5)
    assert (found["meta"]["arch"], found["meta"]["height"]) == ("theirs", 32)
    with pytest.raises(InputError, match="its normalisation; give normalize"):
        in_process(*flags)
    with pytest.raises(InputError, match=r"--amp bf16: the number format of theirs\.pt is fixed"):
        in_process(*flags, "--normalize", "outside", "--amp", "bf16")


def test_flip_is_the_mean_of_both_directions(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "w.pth", "osnet_x0_25")
    flags = ["--data-dir", data, "--weights", "w.pth", *SMALL]
    in_process(*flags, "--flip")
    found = features_file.load("features.pth")
    assert found["meta"]["flip"] is True
    net = from_checkpoint(checkpoints.load("w.pth"))
    images = PersonImages(layouts.find(data).query, 32, 16)
    pixels = normalize(torch.stack([images[i][0] for i in range(len(images))]))
    with torch.inference_mode():
        one, mirrored = net(pixels), net(pixels.flip(3))
    assert torch.allclose(found["qf"], unit_rows(one + mirrored), atol=1e-5)
    assert not torch.allclose(found["qf"], one, atol=1e-2)


@pytest.mark.parametrize(("emulated", "warnings"), [(True, 1), (False, 0)])
def test_who_asks_for_emulated_arithmetic_is_told(data, tmp_path, monkeypatch, capsys, emulated, warnings):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precision, "emulates", lambda *_: emulated)
    write_checkpoint(tmp_path / "w.pth", "osnet_x0_25")
    in_process("--data-dir", data, "--weights", "w.pth", "--amp", "bf16", *SMALL)
    assert capsys.readouterr().out.count("warning: --amp bf16: this device has no hardware for it") == warnings


def test_one_and_two_processes_write_the_same_file(data, tmp_path):
    net = build_model("osnet_x0_25", 8)
    checkpoints.save(tmp_path / "w.pth", {"net_dict": net.state_dict(), "arch": "osnet_x0_25"})
    flags = ["--data-dir", data, "--weights", "w.pth", "--batch_size", 16, *SMALL]
    one = script(*flags, "--output", "one.pth", cwd=tmp_path)
    two = script(*flags, "--output", "two.pth", cwd=tmp_path, launcher=TORCHRUN)
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    assert (tmp_path / "one.pth").read_bytes() == (tmp_path / "two.pth").read_bytes()


def test_a_report_finds_the_images_of_a_relative_root_from_anywhere(data, tmp_path, monkeypatch):
    monkeypatch.chdir(data.parent)
    torch.save({"net_dict": Net(7).state_dict()}, tmp_path / "ckpt.t7")
    answer = tmp_path / "f.pth"
    in_process("--data-dir", data.name, "--weights", tmp_path / "ckpt.t7", "--output", answer, *SMALL)
    monkeypatch.chdir(tmp_path)
    result = call_script("evaluate.py", answer, "--report", "report", cwd=tmp_path)
    assert result.code == 0, result.stderr
    assert "could not be read" not in result.stdout + result.stderr
    assert (tmp_path / "report" / "best.jpg").is_file()


def test_vectors_that_are_none_are_not_written(data, tmp_path, monkeypatch):
    """Damaged weights are refused; and where only some images break the arithmetic, so is the file."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    weights = Net(2).state_dict()
    broken = {key: value - 5 if key.endswith("running_var") else value for key, value in weights.items()}
    torch.save({"net_dict": broken}, "broken.t7")
    with pytest.raises(InputError, match=r"broken\.t7: the network gives zero, NaN or infinite vectors"):
        in_process("--data-dir", data, "--weights", "broken.t7", *SMALL)
    torch.save({"net_dict": weights}, "whole.t7")
    embed, calls = Net.embed, []

    def overflowing(net, images):
        calls.append(len(images))
        return embed(net, images) * (float("inf") if len(calls) > 1 else 1)  # the first is that of the check

    monkeypatch.setattr(Net, "embed", overflowing)
    with pytest.raises(InputError, match=r"features\.pth: not written: qf has NaN or infinite values in"):
        in_process("--data-dir", data, "--weights", "whole.t7", *SMALL)
    assert not Path("features.pth").exists()


def test_missing_pieces_are_named(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"best\.pth: no such checkpoint; train one with `python train.py`"):
        in_process("--data-dir", data, "--weights", "best.pth")
    torch.save({"net_dict": Net(5).state_dict()}, "w.pth")
    plain = tmp_path / "plain"
    for number, path in enumerate(sorted((data / "bounding_box_train").iterdir())[:4]):
        (plain / str(number)).mkdir(parents=True)
        (plain / str(number) / path.name).symlink_to(path)
    with pytest.raises(InputError, match=r"datasets\.py split"):
        in_process("--data-dir", plain, "--weights", "w.pth")


def test_mars_tracklets_are_averaged(data, tmp_path, monkeypatch):
    """Two tracklets of one person, one of another: three rows, each the unit mean of its images' rows."""
    from appearance.data.layouts import Sample
    from appearance.measure.embed import average_tracklets

    samples = [Sample(f"{i}.jpg", pid, 1, track) for i, (pid, track) in enumerate([(1, 0), (1, 0), (1, 1), (2, 2)])]
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    kept, averaged = average_tracklets(samples, rows)
    assert [(s.pid, s.tracklet) for s in kept] == [(1, 0), (1, 1), (2, 2)]
    expected = torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 1.0], [1.0, 0.0]])
    assert torch.allclose(averaged, expected)
