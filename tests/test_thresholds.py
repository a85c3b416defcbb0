"""The tracker's threshold: written into a checkpoint, carried by exports, used where people are tracked."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, assert_one_line_error, call_script, make_market
from networks import write_checkpoint
from test_calibrate import walk

import export
from appearance.measure import calibrate, features_file
from appearance.networks import checkpoints, thresholds
from feature_extractor import Extractor

sys.path.append(str(ROOT / "examples"))
import track_mot

HOW = {"measured": 0.24, "start": None, "identities": 30}


def max_dist_of(path) -> float | None:
    return Extractor(path, use_cuda=False).max_dist


@pytest.fixture
def weights(tmp_path):
    return write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")


@pytest.fixture
def here(tmp_path, weights):
    """A folder with a checkpoint, a dataset and the features of the one on the other."""
    make_market(tmp_path / "market", test_ids=8)
    assert call_script(*extraction(weights), cwd=tmp_path).code == 0
    return tmp_path


def extraction(weights, *more):
    return ("test.py", "--data-dir", "market", "--weights", weights, "--workers", 1, "--device", "cpu", *more)


def calibration(*more):
    return ("evaluate.py", "--calibrate", "--json", "m.json", *more)


def test_a_checkpoint_keeps_everything_else(weights):
    before = torch.load(weights, weights_only=True)
    assert max_dist_of(weights) is None
    thresholds.save(weights, 0.24, HOW, {})
    after = torch.load(weights, weights_only=True)
    assert (after.pop("max_dist"), after.pop("calibration")) == (0.24, HOW)
    assert after.keys() == before.keys()
    kept, given = after.pop("net_dict"), before.pop("net_dict")
    assert after == before
    assert list(kept) == list(given)
    assert all(torch.equal(kept[name], given[name]) for name in given)
    assert max_dist_of(weights) == 0.24


def test_calibrated_saved_and_calibrated_again(here, weights):
    done = call_script(*calibration("--save-threshold", weights), cwd=here)
    assert done.code == 0, done.stderr
    found = json.loads((here / "m.json").read_text())["calibration"]
    assert max_dist_of(weights) == found["max_dist"] == found["measured"]
    assert f"-> {weights}: trackers" in done.stdout
    how = checkpoints.load(weights).extra["calibration"]
    assert (how["identities"], how["data"], how["start"]) == (8, "market", None)
    assert how["warnings"] == found["warnings"]

    thresholds.save(weights, 0.9, HOW, {})
    for _ in range(2):  # the same people move it once, however often they are measured
        assert call_script(*extraction(weights), cwd=here).code == 0
        done = call_script(*calibration("--save-threshold", weights), cwd=here)
        again = json.loads((here / "m.json").read_text())["calibration"]
        assert again["start"] == 0.9
        assert max_dist_of(weights) == again["max_dist"] == calibrate.moved(0.9, found["max_dist"], 8)
        assert "a blend: 29% of the way from the weights' 0.9000 to " in done.stdout
        assert ", measured on these 8 people" in done.stdout


def test_what_cannot_take_a_threshold_stays_as_it_was(here, weights):
    content = checkpoints.read(weights)
    content["net_dict"]["fc.1.bias"] = content["net_dict"]["fc.1.bias"] + 0.1
    other = here / "other.pth"
    torch.save(content, other)
    larger = checkpoints.read(weights) | {"height": 128}
    torch.save(larger, here / "larger.pth")
    torch.save(checkpoints.read(weights)["net_dict"], here / "bare.pth")
    torch.save(checkpoints.read(weights) | {"log": np.float64(1)}, here / "objects.pth")
    cases = {
        other: "with another network",
        here / "larger.pth": "input size is 128x32, but the features were made at 64x32",
        here / "bare.pth": "a threshold cannot be added to this file",
        here / "objects.pth": "a threshold cannot be added to this file",
    }
    for path, words in cases.items():
        before = path.read_bytes()
        assert_one_line_error(call_script(*calibration("--save-threshold", path), cwd=here), f"{path}: ", words)
        assert path.read_bytes() == before
    missing = call_script(*calibration("--save-threshold", "nothing.pth"), cwd=here)
    assert_one_line_error(missing, "--save-threshold nothing.pth: no such checkpoint")
    wrong = call_script("evaluate.py", "--save-threshold", weights, cwd=here)
    assert_one_line_error(wrong, "--save-threshold: needs --calibrate")
    wrong = call_script(*calibration("--save-threshold", weights), "features.pth", "other.pth", cwd=here)
    assert_one_line_error(wrong, "--save-threshold: needs --calibrate and exactly one features file")


@pytest.mark.parametrize("value", [True, "0.2", float("nan"), -0.1, 2.5, [0.2]])
def test_what_is_no_threshold_is_none(weights, value):
    content = checkpoints.read(weights) | {"max_dist": value}
    torch.save(content, weights)
    assert max_dist_of(weights) is None


def test_another_size_has_no_threshold(weights):
    thresholds.save(weights, 0.24, HOW, {})
    assert Extractor(weights, use_cuda=False, height=64).max_dist == 0.24
    assert Extractor(weights, use_cuda=False, height=128).max_dist is None


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_exports_carry_it(tmp_path, weights, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    thresholds.save(weights, 0.24, HOW, {})
    net = write_checkpoint(tmp_path / "net.pth", height=128, width=64)
    thresholds.save(net, 0.31, HOW, {})
    data = make_market(tmp_path / "market")
    for one, formats in ((weights, ("onnx", "torchscript", "boxmot")), (net, ("ckpt",))):
        flags = ["--weights", one, "--format", *formats, "--output", tmp_path / "export", "--data-dir", data]
        export.main(export.get_args_parser().parse_args(list(map(str, flags))))
    assert "max_dist 0.2400, the threshold of these weights" in capsys.readouterr().out
    found = {path.suffix: max_dist_of(path) for path in (tmp_path / "export").iterdir() if path.suffix != ".json"}
    assert found == {".onnx": 0.24, ".torchscript": 0.24, ".pt": 0.24, ".t7": 0.31}
    assert torch.load(tmp_path / "export" / "ckpt.t7", weights_only=True)["calibration"] == HOW


# -- few people say little about others


def test_few_people_move_a_threshold_little():
    assert calibrate.moved(0.1, 0.4, 0) == pytest.approx(0.1)
    assert calibrate.moved(0.1, 0.4, 20) == pytest.approx(0.2)  # half of the way, as a ratio
    assert calibrate.moved(0.1, 0.4, 60) == pytest.approx(0.1 * 4**0.75, rel=1e-5)
    assert calibrate.moved(0.1, 0.4, 10**9) == pytest.approx(0.4)
    assert 0 < calibrate.moved(0.1, 0.0, 5) < 0.1


def test_from_the_threshold_that_the_weights_bring():
    data = walk()  # 12 people, whose own threshold is 0.3
    alone = calibrate.calibrate(data)
    assert (alone["start"], alone["measured"]) == (None, alone["max_dist"])
    found = calibrate.calibrate(data | {"meta": {"max_dist": 0.9}})
    assert (found["start"], found["measured"]) == (0.9, alone["max_dist"])
    assert found["max_dist"] == pytest.approx(0.9 ** (20 / 32) * alone["max_dist"] ** (12 / 32), rel=1e-5)
    interval = found["max_dist_interval"]  # none where rounding does not tell these people, who are alike, apart
    assert interval is None or interval[0] <= found["max_dist"] <= interval[1]
    group = found["groups"]["track"]
    assert group["threshold"] == found["max_dist"]
    # of 1,320 comparisons with strangers 120 lie at 0.3, the others at 1; of 120 with the own track 12 lie at 1
    assert (group["false_matches"], found["kept"]) == (pytest.approx(120 / 1320), pytest.approx(0.9))
    below = calibrate.calibrate(data | {"meta": {"max_dist": 0.01}})
    assert below["max_dist"] < 0.05
    assert below["groups"]["track"]["false_matches"] == 0


def test_the_features_tell_what_the_weights_bring(here, weights):
    thresholds.save(weights, 0.5, HOW, {})
    assert call_script(*extraction(weights), cwd=here).code == 0
    meta = features_file.load(here / "features.pth")["meta"]
    assert meta["max_dist"] == 0.5
    assert meta["fingerprint"] == thresholds.fingerprint(checkpoints.load(weights).net_dict)


# -- where people are tracked


def test_the_threshold_that_people_are_tracked_with(tmp_path, capsys):
    features_file.save(tmp_path / "features.pth", walk())

    def chosen(max_dist: str, brought: float | None, features=None) -> tuple[dict, str]:
        args = SimpleNamespace(max_dist=max_dist, features=features, false_match_rate=None, weights="best.pth")
        return track_mot.network_thresholds(args, SimpleNamespace(max_dist=brought))

    assert chosen("weights", 0.1) == ({"default": 0.2, "weights": 0.1}, "weights")
    assert chosen("0.3", 0.1) == ({"default": 0.2, "weights": 0.1, "asked": 0.3}, "asked")
    assert chosen("0.1", 0.1) == ({"default": 0.2, "weights": 0.1}, "weights")
    assert capsys.readouterr().out == ""
    assert chosen("weights", None) == ({"default": 0.2}, "default")
    assert "best.pth has no threshold, using DeepSORT's default 0.2" in capsys.readouterr().out
    found, source = chosen("auto", 0.9, tmp_path / "features.pth")
    assert source == "auto"
    assert found["auto"] == calibrate.calibrate(walk() | {"meta": {"max_dist": 0.9}})["max_dist"]
    printed = capsys.readouterr().out
    assert "of the way from the weights' 0.9000 to 0.30" in printed
    assert "measured on these 12 people" in printed
    assert "  warning: too few people: 12 (at least 20 needed)" in printed


def test_auto_prints_what_calibrate_prints(tmp_path, capsys):
    features_file.save(tmp_path / "features.pth", walk())
    track_mot.calibrated(tmp_path / "features.pth", None, None)
    below = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    done = call_script("evaluate.py", "--protocol", "reappear", "--calibrate", "--gap", 10, cwd=tmp_path)
    assert below
    assert all(line in done.stdout.splitlines() for line in below)


# -- what is trained from weights that bring one


def test_a_fine_tuned_network_starts_from_the_threshold_of_its_start(here, weights):
    thresholds.save(weights, 0.5, HOW | {"start": 0.4}, {})
    flags = ["--data-dir", "market", "--epochs", 1, "--workers", 1, "--device", "cpu", "--amp", "fp32"]
    done = call_script("train.py", *flags, "--weights", weights, "--output", "tuned", cwd=here)
    assert done.code == 0, done.stderr
    tuned = here / "tuned" / "best.pth"
    assert max_dist_of(tuned) == 0.5
    assert checkpoints.load(tuned).extra["calibration"] == {"start": 0.5}  # nobody was measured with these weights

    assert call_script(*extraction(tuned), cwd=here).code == 0
    assert call_script(*calibration("--save-threshold", tuned), cwd=here).code == 0
    found = json.loads((here / "m.json").read_text())["calibration"]
    assert max_dist_of(tuned) == found["max_dist"] == calibrate.moved(0.5, found["measured"], 8)
    assert checkpoints.load(tuned).extra["calibration"]["start"] == 0.5

    done = call_script("train.py", *flags, "--weights", weights, "--height", 32, "--output", "low", cwd=here)
    assert done.code == 0, done.stderr
    assert max_dist_of(here / "low" / "best.pth") is None  # the threshold is of another size
