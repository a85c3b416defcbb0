"""Data of one camera goes the whole way, names of the user's own with it: split, train, test, evaluate, report."""

import json

import numpy as np
import pytest
import torch
from conftest import call_script
from PIL import Image

from appearance.measure import calibrate, features_file, metrics, protocols, reappear
from appearance.pictures import plots, report

NAMES = ("anna", "bert", "s11", "李明", "_x", "cost $5 or $6", "grün")


def make_people(root, times: bool):
    """Seven people of six images in one camera, half a minute apart where names tell the time."""
    for number, who in enumerate(NAMES):
        for n in range(6):
            noise = np.random.default_rng([number, n]).integers(-60, 60, (8, 4, 3))
            base = np.random.default_rng(number).integers(60, 196, (8, 4, 3))
            name = f"{number:04d}_c3_{900 * n:06d}_00.jpg" if times else f"cam3_{chr(97 + n)}.jpg"
            path = root / who / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((base + noise).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC).save(path)
    return root


@pytest.mark.parametrize("times", [True, False])
def test_one_camera_has_no_dead_end(tmp_path, times):
    def run(script, *flags):
        result = call_script(script, *flags, cwd=tmp_path)
        assert (result.code, result.stderr) == (0, ""), result.stderr
        return result.stdout

    make_people(tmp_path / "people", times)
    assert "all images are from one camera" in run("datasets.py", "check", "people")
    told = run("datasets.py", "split", "people", "data", "--test-ratio", "0.5")
    assert "at another time, not in another camera" in told
    small = ("--height", 32, "--width", 16, "--workers", 1)
    told = run("train.py", "--data-dir", "data", "--epochs", 1, "--model", "osnet_x0_25", *small)
    assert "rank-1" in told
    run("test.py", "--data-dir", "data", *small)
    told = run("evaluate.py", "--calibrate", "--json", "m.json", "--report", "report")
    assert "all images are from camera 3" in told
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["protocol"] == ("reappear" if times else "no-camera")
    assert found["valid_queries"] == found["queries"] == (8 if times else 4)
    assert ("reappear" in found) == times
    assert "camera" in found["calibration"]["groups"]  # whatever the protocol, the threshold is of one camera
    assert ("reappear" in found["calibration"]["groups"]) == times
    tested = {path.name for path in (tmp_path / "data" / "query").iterdir()}
    assert {row["name"] for row in found["breakdown"]["identities"]} == tested
    page = (tmp_path / "report" / "report.html").read_text()
    assert all(name in page for name in tested)


def features(times=None, cameras=3) -> dict:
    """Two people, a query and four gallery images of each."""
    vectors = torch.nn.functional.normalize(torch.randn(10, 8, generator=torch.Generator().manual_seed(0)))
    labels = torch.tensor([1, 2, 1, 1, 1, 1, 2, 2, 2, 2])
    times = torch.tensor(times or [-1] * 10)
    columns = {"f": vectors, "l": labels, "c": torch.full((10,), cameras), "t": times}
    rows = {"q": slice(2), "g": slice(2, 10)}
    sides = {side + key: value[part] for key, value in columns.items() for side, part in rows.items()}
    return features_file.check(sides)


@pytest.mark.parametrize(
    ("times", "gap"),
    [
        ([0, 0, 1, 60, 9, 9, 5, 70, 3, 3], 50),
        ([0, 0, 1, 6, 9, 9, 5, 7, 3, 3], 5),
        ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0], None),
        (None, None),
    ],
)
def test_the_gap_that_fits_leaves_half_of_the_queries(times, gap):
    data = features(times)
    assert reappear.fitting_gap(data) == gap
    name, found, [line] = protocols.fitting("market1501", data)
    assert (name, found) == (("no-camera", None) if gap is None else ("reappear", gap))
    assert "camera 3" in line
    assert protocols.metrics(data)["valid_queries"] * 2 >= len(data["ql"])
    assert protocols.fitting("market1501", data, whole=False)[0] == "no-camera"


def test_other_data_and_other_protocols_are_left_as_they_are():
    data = features()
    assert protocols.fitting("mars", data) == ("mars", None, [])
    unknown = features(cameras=-1)
    assert protocols.fitting("market1501", unknown) == ("market1501", None, [])
    data["gc"][2:] = 4
    assert protocols.fitting("market1501", data) == ("market1501", None, [])
    assert protocols.metrics(data) == metrics.summary(metrics.rank_queries(data))
    data["gl"][2:] = -1  # junk of another camera does not count
    assert protocols.fitting("market1501", data)[0] == "no-camera"


def test_no_camera_keeps_cameras_and_times_for_the_threshold():
    data = features([0, 0, 1, 60, 9, 9, 5, 70, 3, 3])
    forgotten, _ = protocols.apply("no-camera", data)
    assert (forgotten["gc"] == -1).all()
    found = calibrate.calibrate(protocols.with_cameras(forgotten))
    assert set(found["groups"]) == {"track", "tracker", "camera", "all"}
    assert found["groups"] == calibrate.calibrate(data)["groups"]


def test_a_name_in_a_picture_is_plain_text():
    assert plots.plain("s11", "3") == "s11"
    assert plots.plain("李明", "3") == "3"  # no letters for it in the font
    assert plots.plain("a\nb", "3") == "3"
    assert plots.plain("$x$", "3") == r"\$x\$"
    assert plots.plain("_x", "3") == " _x"
    assert len(plots.plain("x" * 100, "3")) == 24


def test_names_of_strangers_are_not_trusted():
    assert features_file.name_of({"meta": {"names": {"3": "s11"}}}, torch.tensor(3)) == "s11"
    for meta in ({}, {"names": None}, {"names": {"3": 7}}, {"names": ["a"]}):
        assert features_file.name_of({"meta": meta}, 3) == "3"


@pytest.mark.parametrize("kind", ["f.pth", "f.npz", "f"])
def test_names_are_kept_in_every_kind_of_file(tmp_path, kind):
    features_file.save(tmp_path / kind, features() | {"meta": {"names": {"1": "anna", "2": "李明"}}})
    assert features_file.name_of(features_file.load(tmp_path / kind), 2) == "李明"


def test_pictures_keep_their_shape(tmp_path):
    sizes = ((64, 128), (100, 100), (120, 60))
    for n, size in enumerate(sizes):
        Image.new("RGB", size, "blue").save(tmp_path / f"{n}.png")
    data = {"g_paths": [str(tmp_path / f"{n}.png") for n in range(3)], "meta": {}}
    opened = [report._open(data, "g", n) for n in range(3)]
    assert [image.size for image in opened] == [(64, 128), (96, 96), (96, 48)]
    for image, size in zip(opened, sizes, strict=True):
        row = {"title": "t", "query": {"image": image, "caption": "query"}, "results": []}
        figure = plots.ranked_lists([row])
        box = figure.axes[0].images[0].get_window_extent()
        assert box.width / box.height == pytest.approx(size[0] / size[1], rel=0.01)
