"""Which folders are identities, what lies beside a dataset, and what a number in a name is not."""

from types import SimpleNamespace

import pytest
import torch
from conftest import assert_one_line_error, call_script, paint

from appearance.cli import InputError
from appearance.data import check, layouts, prepare
from appearance.data.layouts import Sample
from appearance.data.names import counters, marked, parse_name
from appearance.data.similarity import Order
from appearance.data.unread import unread
from appearance.distributed import World


def tree(root, *paths):
    for number, path in enumerate(paths):
        paint(root / path, seed=number)
    return root


def names_and_cameras(samples, data):
    return {(data.names[sample.pid], sample.camera) for sample in samples}


# ------------------------------------------------------------------------------------------------------------- levels


@pytest.mark.parametrize(
    ("cameras", "people", "numbers"),
    [
        (("cam_a", "cam_b"), ("person_0001", "person_0002"), (1, 2)),  # PRID
        (("cam1", "cam2", "cam6"), ("0001", "0002"), (1, 2, 6)),  # SYSU-MM01
        (("Camera left", "Camera right"), ("anna", "bert"), (1, 2)),
        (("c1", "c3"), ("0001", "0002", "0003"), (1, 3)),
        (("cam_a", "cam_b"), ("p1", "p2"), (1, 2)),
    ],
)
@pytest.mark.parametrize("splits", [("",), ("train", "query", "gallery")])
def test_cameras_above_identities(tmp_path, cameras, people, numbers, splits):
    paths = [f"{s}/{c}/{p}/{n:04d}.jpg" for s in splits for c in cameras for p in people for n in range(2)]
    data = layouts.find(tree(tmp_path, *(path.lstrip("/") for path in paths)))
    for samples in (data.splits().values()) if len(splits) > 1 else (data.train,):
        assert names_and_cameras(samples, data) == {(p, number) for p in people for number in numbers}
    assert sum(map(len, data.splits().values())) == len(paths)


def test_each_person_in_one_camera_folder_alone(tmp_path):
    paths = [f"cam{c}/person{c}{n}/{i}.jpg" for c in (1, 2) for n in (1, 2) for i in range(2)]
    data = layouts.find(tree(tmp_path, *paths))
    assert names_and_cameras(data.train, data) == {("person11", 1), ("person12", 1), ("person21", 2), ("person22", 2)}


@pytest.mark.parametrize(
    "paths",
    [
        # DukeMTMC-VideoReID: identity, tracklet
        [f"{p:04d}/{7 * p + t:04d}/{p:04d}_C{t}_F{n:04d}_X{n}.jpg" for p in (1, 2) for t in (1, 2) for n in range(2)],
        [f"{p:04d}/{t:04d}/{p:04d}C1T{t:04d}F{n:03d}.jpg" for p in (1, 2) for t in (1, 2) for n in range(2)],
        [f"{p:04d}/{7 * p + t:04d}/{n:04d}.jpg" for p in (1, 2) for t in (1, 2) for n in range(2)],
        [f"person{p}/{t}/{n}.jpg" for p in (1, 2) for t in (1, 2, 3) for n in range(2)],
        [f"{who}/track_{t}/{n}.jpg" for who in ("anna", "bert") for t in (1, 2) for n in range(2)],
        [f"{who}/2024-03-{t:02d}/{n}.jpg" for who in ("anna", "bert") for t in (1, 2) for n in range(2)],
        [f"{p}/{t}/{n}.jpg" for p in range(1, 6) for t in (1, 2) for n in range(2)],
        [f"C{p:03d}/{t}/{n}.jpg" for p in range(1, 25) for t in (1, 2) for n in range(2)],
        ["anna/1.jpg", "anna/2.jpg", "bert/1.jpg", "bert/more/2.jpg"],
    ],
)
def test_tracklets_below_identities_stay(tmp_path, paths):
    data = layouts.find(tree(tmp_path, *paths))
    assert {*data.names.values()} == {path.split("/")[0] for path in paths}
    assert len(data.train) == len(paths)


def test_cameras_below_identities(tmp_path):
    data = layouts.find(
        tree(tmp_path, *(f"{p}/cam{c}/{n}.jpg" for p in ("anna", "bert") for c in (1, 2) for n in "ab"))
    )
    assert names_and_cameras(data.train, data) == {(p, c) for p in ("anna", "bert") for c in (1, 2)}


@pytest.mark.parametrize(
    "paths",
    [
        [
            f"{kind}_body_images/{p:03d}/{p:03d}_{n:02d}.jpg"
            for kind in ("occluded", "whole")
            for p in (1, 2)
            for n in (1, 2)
        ],
        [
            f"session{s}/{p:03d}_{t:02d}/{n}.jpg" for s in (1, 2) for p in (1, 2) for t in (1, 2) for n in (1, 2)
        ],  # CCVID
        [f"session{s}/{p}/{n}.jpg" for s in (1, 2, 3, 4) for p in (1, 2) for n in (1, 2)],
        [f"{side}/p{p}/{n}.jpg" for side in ("left", "right") for p in (1, 2) for n in (1, 2)],
        [f"cam{c}/track{t}/{n}.jpg" for c in (1, 2) for t in (1, 2) for n in (1, 2)],  # track 1 of two trackers
        [f"C{c:03d}/{t}/{n}.jpg" for c in (1, 2, 3) for t in (1, 2) for n in (1, 2)],
    ],
)
def test_two_readings_are_asked_about(tmp_path, paths):
    with pytest.raises(InputError) as caught:
        layouts.find(tree(tmp_path, *paths))
    uppers = sorted({path.split("/")[0] for path in paths})
    for words in (f"{len(paths)} images", uppers[0], f"split {tmp_path} OUT --identity '^(?P<identity>[^/]+)/'"):
        assert words in str(caught.value)


def test_the_command_of_a_refusal_makes_the_tree_readable(tmp_path):
    """And capitals, a wrapped dataset and camera folders without identities, each as a user sees it."""
    tree(tmp_path / "r", *(f"{side}/p{p}/{n}.jpg" for side in ("left", "right") for p in range(4) for n in "ab"))
    assert_one_line_error(call_script("datasets.py", "check", "r", cwd=tmp_path), "2 upper folders", "4 folders below")
    told = call_script(
        "datasets.py", "split", "r", "out", "--identity", "^(?P<camera>[^/]+)/(?P<identity>[^/]+)/", cwd=tmp_path
    )
    assert (told.code, told.stderr) == (0, "")
    data = layouts.find(tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").glob("*/*")} == {"p0", "p1", "p2", "p3"}
    assert {s.camera for s in data.query} == {s.camera for s in data.train} == {1, 2}
    tree(
        tmp_path / "w",
        *(f"Market/Bounding_Box_{s}/0001_c{c}s1_000100_01.jpg" for s in ("Train", "Test") for c in (1, 2)),
    )
    assert_one_line_error(
        call_script("datasets.py", "check", "w", cwd=tmp_path), "Market/ (4 images)", "check w/Market"
    )
    tree(tmp_path / "s", *(f"cam_{c}/person_{n:04d}.jpg" for c in "ab" for n in range(3)))
    assert_one_line_error(
        call_script("datasets.py", "check", "s", cwd=tmp_path), "its folders are cameras", "--identity"
    )


def test_upper_and_lower_case_do_not_matter(tmp_path):
    own = tree(
        tmp_path / "own",
        *(f"{s}/anna{s == 'Train'}/c{c}_{s}.jpg" for s in ("Train", "Query", "GALLERY") for c in (1, 2)),
    )
    data = layouts.find(own)
    assert [len(part) for part in data.splits().values()] == [2, 2, 2]
    name = "0001_c{}s1_000100_01.jpg"
    folders = ("Bounding_Box_Train", "QUERY", "bounding_box_Test")
    market = tree(tmp_path / "market", *(f"{s}/{name.format(c)}" for s in folders for c in (1, 2)))
    data = layouts.find(market)
    assert (data.layout, [len(part) for part in data.splits().values()]) == ("Market-1501", [2, 2, 2])
    (market / "bounding_box_train").mkdir()  # both there: the exact one is read, the other named
    paint(market / "bounding_box_train" / name.format(3))
    data = layouts.find(market)
    assert len(data.train) == 1
    assert any("Bounding_Box_Train/: 2 images" in problem.text for problem in unread(data))


# ------------------------------------------------------------------------------------------------------------- beside


def texts(root):
    return [problem.text for problem in unread(layouts.find(root)) if not problem.fatal]


def test_what_lies_beside_is_named(tmp_path):
    train = [f"train/{p}/c{n}_a.jpg" for p in ("anna", "bert", "carl") for n in (1, 2)]
    tree(tmp_path / "a", *train, *(f"test/{p}/c3_a.jpg" for p in ("anna", "bert")))
    [text] = texts(tmp_path / "a")
    assert text.startswith("test/: 2 images in 2 folders not used: it has the identities of train/")
    tree(tmp_path / "b", *train, *(f"test/{p}/c{n}_a.jpg" for p in ("dora", "emil") for n in (1, 2)))
    [text] = texts(tmp_path / "b")
    assert text.startswith("test/: 4 images in 2 folders not used: its identities are not in train/")
    assert f"split {tmp_path / 'b' / 'test'} OUT --test-ratio 1" in text
    told = call_script("datasets.py", "split", "b/test", "out", "--test-ratio", "1", cwd=tmp_path)
    assert (told.code, told.stdout.splitlines()[-1].endswith("test.py --data-dir out")) == (0, True)
    assert [len(part) for part in layouts.find(tmp_path / "out").splits().values()] == [0, 2, 2]
    tree(tmp_path / "c", *train, "val/anna/c3_a.jpg", "val/dora/c3_a.jpg", "thumbs/x.jpg", "x.jpg")
    told = texts(tmp_path / "c")
    assert len(told) == 3
    assert any("val/: 2 images in 2 folders not used: 1 identity in train/ as well (anna)" in t for t in told)


def test_most_images_unread_are_no_reason_to_refuse_what_training_takes(tmp_path):
    """deep_sort_pytorch's own folders, with more images to test with than to train on."""
    tree(
        tmp_path / "own",
        *(f"train/{p}/c{n}_a.jpg" for p in ("anna", "bert") for n in (1, 2)),
        *(f"test/{p}/c{n}_{m}.jpg" for p in ("anna", "bert") for n in (1, 2) for m in "bc"),
    )
    result = call_script("datasets.py", "check", "own", cwd=tmp_path)
    assert (result.code, result.stderr) == (0, "")
    assert "test/: 8 images in 2 folders not used: it has the identities of train/" in result.stdout
    assert "most images in own are not used: 8 of 12; used: only train; to use the others" in result.stdout
    args = SimpleNamespace(data_dir=[tmp_path / "own"], skip_bad_images=False, cache="auto", workers=1)
    assert len(prepare.for_training(args, World(torch.device("cpu"))).train) == 4


def test_most_images_unread_and_none_to_train_on_is_fatal_and_training_says_so(tmp_path, capsys):
    root = tree(
        tmp_path / "cows",
        *(f"{s}/0001/{s}{n}.jpg" for s in ("query", "gallery") for n in range(2)),
        *(f"datasets_v2/cow{p}/{n}.jpg" for p in range(4) for n in range(2)),
    )
    result = call_script("datasets.py", "check", root, cwd=tmp_path)
    assert_one_line_error(result, "problems are errors")
    assert "datasets_v2/: 8 images in 4 folders not used" in result.stdout
    assert f"check {root / 'datasets_v2'}" in result.stdout
    assert "are not used: 8 of 12" in result.stdout
    assert "Usable" not in result.stdout
    tree(root, *(f"train/{p}/{p}{n}.jpg" for p in ("anna", "bert") for n in range(3)))  # still 8 unread, of 18
    result = call_script("datasets.py", "check", root, cwd=tmp_path)
    assert (result.code, "datasets_v2/: 8 images" in result.stdout) == (0, True)
    args = SimpleNamespace(data_dir=[root], skip_bad_images=False, cache="auto", workers=1)
    prepare.for_training(args, World(torch.device("cpu")))
    assert "\n  note: datasets_v2/: 8 images in 4 folders not used" in capsys.readouterr().out


def test_official_extras_are_named_and_count_for_nothing(market):
    for number in range(60):
        paint(market / "gt_bbox" / f"0001_c1s1_{number:06d}_00.jpg")
    [problem] = unread(layouts.find(market))
    assert (problem.fatal, problem.text.split(":")[:2]) == (False, ["gt_bbox/", " 60 images not used"])
    paint(market / "bounding_box_train" / "-1_c1s1_000001_00.jpg")
    assert any("1 image not used (bounding_box_train/-1_c1s1" in p.text for p in unread(layouts.find(market)))


def test_a_folder_of_folders_among_identities_is_named(tmp_path):
    root = tree(
        tmp_path, *(f"{p}/{n}.jpg" for p in ("anna", "bert") for n in "ab"), "more/carl/a.jpg", "more/dora/a.jpg"
    )
    found = [problem.text for problem in check.find_problems(layouts.find(root))]
    assert any(text.startswith(f"{root / 'more'}: its 2 subfolders (carl, dora)") for text in found)


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("names", "cameras"),
    [
        ([f"C{p:03d}/C{p:03d}_{n}.jpg" for p in range(1, 5) for n in range(3)], {-1}),
        ([f"C{p:03d}/cam{n}_C{p:03d}_x.jpg" for p in range(1, 5) for n in range(3)], {0, 1, 2}),
        ([f"id{p}/C{p:03d}_{n}.jpg" for p in range(1, 5) for n in range(3)], {-1}),
        ([f"C{p}/c{n}_x.jpg" for p in range(1, 5) for n in range(3)], {0, 1, 2}),
        ([f"id{p}/cam{p}_{n}.jpg" for p in range(1, 5) for n in range(3)], {1, 2, 3, 4}),  # said in so many words
        ([f"id{p}/c3_{n}.jpg" for p in range(1, 5) for n in range(3)], {3}),
    ],
)
def test_an_identitys_name_is_no_camera(tmp_path, names, cameras):
    data = layouts.find(tree(tmp_path, *names))
    assert {sample.camera for sample in data.train} == cameras
    assert len(data.train_pids()) == 4


def test_serial_numbers_are_no_frames(tmp_path):
    serial = [Sample(f"{i // 3}/{i:07d}.jpg", i // 3) for i in range(12)]  # VehicleID
    assert Order(serial).neighbours().shape == (2, 0)
    frames = [Sample(f"{pid}/{i:07d}.jpg", pid) for pid in range(4) for i in range(3)]
    assert Order(frames).neighbours().shape == (2, 12)
    data = layouts.find(tree(tmp_path / "a", *(f"{i // 3}/{i // 3:04d}_c1_{i:07d}_0.jpg" for i in range(12))))
    assert {sample.time for sample in data.train} == {-1}
    assert "are not used as frame numbers" in data.notes[0]
    apart = tree(tmp_path / "b", *(f"{i // 3}/{i // 3:04d}_c1_{9 * i:07d}_0.jpg" for i in range(12)))
    assert {sample.time for sample in layouts.find(apart).train} == {9 * i for i in range(12)}


def test_the_number_that_counts():
    names = [
        "a_0018_cls0",
        "a_0020_cls0",
        "417-1-6-5(5)",
        "417-1-6-5(6)",
        "x",
        "v_000006_obj0",
        "v_000043_obj2",
        "IMG_7",
    ]
    numbers = [name[slice(*place)] if place else None for name, place in zip(names, counters(names), strict=True)]
    assert numbers == ["0018", "0020", "5", "6", None, "000006", "000043", "7"]
    near = [Sample(f"p/a_{n}_cls0.jpg", 1) for n in ("0018", "0020", "0090")]
    assert Order(near).neighbours().T.tolist() == [[0, 1]]


def test_marked_names_say_what_their_folders_said():
    name = marked("0002_c1s1_000451_03.jpg", "cam", 7)
    assert name == "0002_c1s1_000451_03@cam7.jpg"
    assert parse_name(name) == parse_name("0002_c1s1_000451_03.jpg")._replace(camera=7)
    parts = parse_name(marked(name, "session", 12))
    assert (parts.camera, parts.by_session, parts.frame) == (12, True, 451)
    assert parse_name("anna_session12.jpg").camera == -1


# --------------------------------------------------------------------------------------------------------------- size


def test_image_sizes_and_what_fits_them(tmp_path):
    for size, flags in (((60, 60), "--height 64 --width 64"), ((300, 290), "--height 96 --width 96"), ((64, 128), "")):
        root = tmp_path / str(size)
        for p in range(3):
            for c in (1, 2):
                paint(root / f"p{p}" / f"c{c}_{p}.png", size=size, seed=10 * p + c)
        paint(root / "p0" / "c3_x.png", size=(size[0] // 2, size[1] // 2))
        told = call_script("datasets.py", "check", root, cwd=tmp_path).stdout
        width, height = size
        expected = f"median {width}x{height}, smallest {width // 2}x{height // 2}, largest {width}x{height}"
        [line] = [line for line in told.splitlines() if "image sizes" in line]
        assert expected in line
        assert line.endswith(f"train with {flags}") if flags else "train with" not in line
        out = tmp_path / f"out{size}"
        told = call_script("datasets.py", "split", root, out, cwd=tmp_path).stdout.splitlines()[-1]
        assert f"--weights drawn {flags} --output ".replace("  ", " ") in told
