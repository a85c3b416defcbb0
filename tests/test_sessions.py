"""Where names tell no camera, sessions are left out in its place, all the way from `split` to `evaluate.py`."""

import json

import numpy as np
import pytest
import torch
from conftest import assert_one_line_error, call_script, make_class_folders, paint
from PIL import Image

from appearance.data import layouts, sessions
from appearance.data.check import summary
from appearance.data.names import parse_name


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            [
                "20250417162051_20250417162708_0055_cls0",
                "20250417162051_20250417162708_0012_cls0",
                "417-1-6-5(5)",
                "417-1-6-5",
            ],
            ["20250417162051_20250417162708"] * 2 + ["417-1-6-5"] * 2,
        ),
        (
            ["cow_20240317_0018_cls0", "cow_20240317_0019_cls0", "cow_20240318_0018_cls0"],
            ["cow_20240317"] * 2 + ["cow_20240318"],
        ),
        (
            ["IMG_20240317_101500", "IMG_20240317_181501", "IMG_20240318_080000"],
            ["IMG_20240317"] * 2 + ["IMG_20240318"],
        ),
        (["v_000006_obj0_cls0", "v_000043_obj2_cls0", "w_000006_obj1_cls0"], ["v", "v", "w"]),
        (["track1/0001", "track1/0002", "track2/0001"], ["track1/", "track1/", "track2/"]),
        (["003_2024-03-17", "004_2024-03-17", "003_2024-03-18"], ["2024-03-17"] * 2 + ["2024-03-18"]),
    ],
)
def test_what_a_session_is(names, expected):
    pids = [pid for pid in (1, 2, 3) for _ in names]
    found = sessions.from_names([f"{name}.jpg" for name in names] * 3, pids)
    assert found[: len(names)] == expected


@pytest.mark.parametrize(
    "names",
    [
        [f"walk_{n:04d}" for n in range(6)],  # one clip
        [f"{n:06d}" for n in range(6)],
        ["a", "b", "c"],
        [f"{n:08x}" for n in (0x3F2A91BC, 0x11AA22B3, 0x9C1D44E5)],  # no two images of one session
    ],
)
def test_names_without_sessions(names):
    assert sessions.from_names([f"{name}.jpg" for name in names] * 3, [pid for pid in (1, 2, 3) for _ in names]) is None


def cows(root, name: str, people: int = 6, clips: int = 3, images: int = 4):
    """Cows that look like themselves a little and like their clip a lot."""
    for who in range(people):
        for clip in range(clips):
            for n in range(images):
                place = np.random.default_rng([who, clip]).integers(0, 160, (6, 6, 3))
                cow, noise = (
                    np.random.default_rng(seed).integers(0, 48, (6, 6, 3)) for seed in ([who], [who, clip, n])
                )
                path = root / f"cow{who}" / name.format(who=who, clip=clip, n=7 * n)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((place + cow + noise).astype(np.uint8)).resize((48, 48)).save(path)
    return root


def test_sessions_go_the_whole_way(tmp_path):
    cows(tmp_path / "cows", "cow_04{who:02d}_202403{clip:02d}_{n:04d}_cls0.png".replace("{clip:02d}", "1{clip}"))

    def run(script, *flags):
        result = call_script(script, *flags, cwd=tmp_path)
        assert (result.code, result.stderr) == (0, ""), result.stderr
        return result.stdout

    told = run("datasets.py", "split", "cows", "data", "--test-ratio", "0.5")
    assert "18 sessions read from the names" in told
    assert "recognition in another session, not in another camera" in told
    assert told.splitlines()[-1].endswith("--data-dir data --weights drawn --height 48 --width 48 --output runs/data")
    data = layouts.find(tmp_path / "data")
    assert data.by_session
    assert "sessions" in summary(data).splitlines()[1]
    groups = {(s.pid, s.camera) for s in data.query}
    assert len({pid for pid, _ in groups}) == 3
    assert len(groups) == 9  # each identity in each session
    assert len(data.query) == 12  # of 12 images a third, as there are few
    run("test.py", "--data-dir", "data", "--workers", 1)
    found = torch.load(tmp_path / "features.pth", weights_only=True)
    assert found["qc"].tolist() == [s.camera for s in data.query]
    assert found["gc"].tolist() == [s.camera for s in data.gallery]
    assert "sessions (clips, days) are used in place of cameras" in run("evaluate.py", "--json", "m.json")
    metrics = json.loads((tmp_path / "m.json").read_text())
    assert metrics["valid_queries"] == metrics["queries"] == 12
    assert metrics["protocol"] == "market1501"
    own = (found["ql"][:, None] == found["gl"]) & (found["qc"][:, None] == found["gc"])
    scores = (found["qf"] @ found["gf"].T).masked_fill(own, -2)
    assert metrics["rank1"] == pytest.approx((found["gl"][scores.argmax(1)] == found["ql"]).double().mean().item())


def test_a_session_that_is_asked_for(tmp_path):
    root = cows(tmp_path / "cows", "{n:03d}-{clip}x.png")
    told = call_script("datasets.py", "split", root, "a", "--session", r"\d-(\d)x", cwd=tmp_path)
    assert (told.code, "3 sessions read" in told.stdout) == (0, True)
    data = layouts.find(tmp_path / "a")
    clip = {int(s.path.rsplit("@session")[-1].split(".")[0]): s.path.rsplit("-", 1)[1][0] for s in data.train}
    assert clip == {1: "0", 2: "1", 3: "2"}
    assert_one_line_error(
        call_script("datasets.py", "split", root, "b", "--session", "day", cwd=tmp_path), "--session day", "none of 72"
    )
    assert_one_line_error(call_script("datasets.py", "split", root, "b", "--session", "(", cwd=tmp_path), "--session (")


def test_known_cameras_come_first_unless_a_session_is_asked_for(tmp_path):
    root = tmp_path / "people"
    for who in range(4):
        for clip in (1, 2):
            for n in range(4):
                paint(root / f"p{who}" / f"clip{clip}_cam{n % 2}_{n:03d}.png", seed=100 * who + 10 * clip + n)
    assert call_script("datasets.py", "split", root, "a", cwd=tmp_path).code == 0
    data = layouts.find(tmp_path / "a")
    assert (data.by_session, {s.camera for s in data.query}) == (False, {0, 1})
    assert call_script("datasets.py", "split", root, "b", "--session", r"clip\d", cwd=tmp_path).code == 0
    data = layouts.find(tmp_path / "b")
    assert (data.by_session, {s.camera for s in data.query}) == (True, {1, 2})
    assert {s.camera for s in data.train if "/clip2_" in s.path} == {2}


def test_nothing_tells_a_session(tmp_path):
    root = cows(tmp_path / "cows", "{clip}{n:02d}.png")
    told = call_script("datasets.py", "split", root, "a", cwd=tmp_path)
    assert (told.code, "--session" in told.stdout) == (0, True)
    assert "neighbouring frames of one clip" in told.stdout.replace("\n", " ")


# --------------------------------------------------------------------------------------------------------------- flat


def flat(root, name: str):
    for who in range(1, 5):
        for n in range(4):
            paint(root / name.format(who=who, n=n), seed=10 * who + n)
    return root


def places(root):
    return {str(path.relative_to(root)).split("/", 1)[1] for path in root.rglob("*.png")}


def test_a_flat_folder(tmp_path):
    root = flat(tmp_path / "flat", "shop-{who}-cam{n}.png")
    result = call_script("datasets.py", "check", root, cwd=tmp_path)
    assert_one_line_error(result, "16 images are not in identity folders", f"split {root} OUT --identity")
    assert call_script("datasets.py", "split", root, "a", "--identity", r"^shop-(\d)", cwd=tmp_path).code == 0
    expected = {f"{who}/shop-{who}-cam{n}.png" for who in range(1, 5) for n in range(4)}
    assert places(tmp_path / "a") == expected
    rows = [f"shop-{who}-cam{n}.png;who{who};{n // 2}" for who in range(1, 5) for n in range(3)]
    (tmp_path / "ids.csv").write_text("\n".join(["File;Identity;Camera", *rows]))
    told = call_script("datasets.py", "split", root, "b", "--identity", "ids.csv", cwd=tmp_path)
    assert "4 images left out: --identity ids.csv gives no identity" in told.stdout
    data = layouts.find(tmp_path / "b")
    assert {path.name for path in (tmp_path / "b").glob("*/*")} == {"who1", "who2", "who3", "who4"}
    assert {(s.path[-8:], s.camera) for s in data.train if "cam2" in s.path} == {("cam1.png", 1)}
    (tmp_path / "bad.csv").write_text("file,identity\nnobody.png,1\n")
    (tmp_path / "none.csv").write_text("shop-1-cam0.png,1\n")
    for value, words in (
        ("bad.csv", "line 2: nobody.png"),
        ("none.csv", "must name the columns"),
        ("gone.csv", "no such file"),
        ("shop", "group"),
        ("(", "not a valid regular expression"),
        ("(dog)", "matches none of 16 images"),
        ("^()", "matches none of 16 images"),
        ("([.].*)", "not a valid folder name"),
    ):
        result = call_script("datasets.py", "split", root, "c", "--identity", value, cwd=tmp_path)
        assert_one_line_error(result, words)
    assert not (tmp_path / "c").exists()


def test_flat_names_of_markets_kind_just_work(tmp_path):
    root = flat(tmp_path / "flat", "{who:04d}_c{n}s1_000{n}00_01.png")
    paint(root / "0000_c1s1_000000_00.png")
    told = call_script("datasets.py", "split", root, "a", cwd=tmp_path)
    assert (told.code, "1 image left out" in told.stdout) == (0, True)
    assert places(tmp_path / "a") == {f"{w:04d}/{w:04d}_c{n}s1_000{n}00_01.png" for w in range(1, 5) for n in range(4)}


def test_broken_images_stop_a_split_or_are_left_out(tmp_path):
    root = make_class_folders(tmp_path / "people")
    (root / "person1" / "c1_broken.jpg").write_bytes(b"")
    result = call_script("datasets.py", "split", root, "a", cwd=tmp_path)
    assert_one_line_error(result, "c1_broken.jpg", "--skip-bad-images", "1 of 17 images")
    assert not (tmp_path / "a").exists()
    result = call_script("datasets.py", "split", root, "a", "--skip-bad-images", cwd=tmp_path)
    assert (result.code, "1 image left out: unreadable" in result.stdout) == (0, True)
    assert not [*(tmp_path / "a").rglob("*broken*")]


def test_a_folder_with_nothing_to_divide_is_an_error(tmp_path):
    make_class_folders(tmp_path / "root" / "query")
    assert_one_line_error(call_script("datasets.py", "split", "root", "a", cwd=tmp_path), "no train/", "root/query")
    for n in range(3):
        (tmp_path / "broken" / f"p{n}").mkdir(parents=True)
        (tmp_path / "broken" / f"p{n}" / "a.jpg").write_bytes(b"")
    result = call_script("datasets.py", "split", "broken", "a", "--skip-bad-images", cwd=tmp_path)
    assert_one_line_error(result, "all images (3) are unreadable")


def test_a_mark_reads_as_a_session():
    assert parse_name("417-1-6-5(5)@session12.jpg")[1] == 12
