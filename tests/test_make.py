"""`weights/make.py`: every step from drawing to the files, with a few people."""

import json

import pytest
from conftest import assert_one_line_error, run_script

from appearance.networks import checkpoints

WEIGHTS = ("weights/osnet_x0_25_reid.pt", "weights/ckpt.t7")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "tiny"
    done = run_script(
        "weights/make.py", "--small", "--output", out, "--test", out / "first", cwd=out.parent, timeout=600
    )
    assert done.code == 0, done.stderr
    return out, done.stdout


def test_two_networks_are_made_and_measured(made):
    out, said = made
    light, net = (checkpoints.load(out / name) for name in WEIGHTS)
    assert (light.arch, light.num_classes, light.height, light.width) == ("osnet_x0_25", None, 32, 16)
    assert (net.arch, net.num_classes) == ("net", None)
    card = json.loads((out / "card.json").read_text())
    assert set(card) == {"light", "net"}
    for figures in card.values():
        assert figures["drawn people"] == figures[str(out / "first")]
        assert 0 < figures["drawn people"]["mAP"] < 100
    assert said.count("$ python train.py") == 5
    assert said.count("$ python datasets.py draw") == 2
    assert json.loads((out / "second" / "sample.json").read_text())["variety"]["vivid"] == [0.7, 1.5]


def test_what_is_done_is_not_done_again(made):
    out, _ = made
    before = (out / "light" / "last.pth").stat().st_mtime_ns
    again = run_script("weights/make.py", "--small", "--output", out, cwd=out.parent)
    assert again.code == 0, again.stderr
    assert again.stdout.count("has finished its 1 epoch") == 5
    assert (out / "light" / "last.pth").stat().st_mtime_ns == before


def test_a_folder_of_another_plan_is_refused(made):
    out, _ = made
    assert_one_line_error(run_script("weights/make.py", "--output", out, cwd=out.parent), str(out), "another plan")
