"""`weights/make.py`: every step from drawing to the files, with a few people."""

import json

from conftest import assert_one_line_error, call_script, run_script

from appearance.networks import checkpoints

WEIGHTS = ("weights/osnet_x0_25_reid.pt", "weights/ckpt.t7")


def test_two_networks_are_made_and_measured_once(tmp_path):
    out = tmp_path / "tiny"
    tested = ("--test", out / "people")
    made = run_script("weights/make.py", "--small", "--output", out, *tested, cwd=tmp_path, timeout=600)
    assert made.code == 0, made.stderr
    light, net = (checkpoints.load(out / name) for name in WEIGHTS)
    assert (light.arch, light.num_classes, light.height, light.width) == ("osnet_x0_25", None, 32, 16)
    assert (net.arch, net.num_classes) == ("net", None)
    card = json.loads((out / "card.json").read_text())
    assert set(card) == {"light", "net"}
    for figures in card.values():
        assert figures["drawn people"] == figures[str(out / "people")]
        assert 0 < figures["drawn people"]["mAP"] < 100
    assert made.stdout.count("$ python train.py") == 2
    assert made.stdout.count("$ python datasets.py draw") == 1
    assert json.loads((out / "people" / "sample.json").read_text())["variety"]["vivid"] == [0.7, 1.5]

    # what is done is not done again
    before = (out / "light" / "last.pth").stat().st_mtime_ns
    again = call_script("weights/make.py", "--small", "--output", out, cwd=tmp_path)
    assert again.code == 0, again.stderr
    assert again.stdout.count("has finished its 1 epoch") == 1
    assert (out / "light" / "last.pth").stat().st_mtime_ns == before

    # and a folder of another plan is refused
    assert_one_line_error(call_script("weights/make.py", "--output", out, cwd=tmp_path), str(out), "another plan")
