"""Layouts are recognised, and names parsed, as the datasets' authors meant them."""

from pathlib import Path

import numpy as np
import pytest
from conftest import make_class_folders, paint

from appearance.cli import InputError
from appearance.data import layouts
from appearance.data.check import find_problems
from appearance.data.layouts import Sample
from appearance.data.names import SEQUENCE_FRAMES, NameParts, parse_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("0002_c1s1_000451_03.jpg", NameParts(2, 1, 1, 451, -1)),
        ("1501_c6s4_012345_00.jpg", NameParts(1501, 6, 4, 12345, -1)),
        ("-1_c3s2_036944_03.jpg", NameParts(-1, 3, 2, 36944, -1)),
        ("0000_c1s1_000151_01.jpg", NameParts(0, 1, 1, 151, -1)),
        ("0005_c2_f0046985.jpg", NameParts(5, 2, -1, 46985, -1)),  # DukeMTMC-reID
        ("0001_c020_00016450_0.jpg", NameParts(1, 20, -1, 16450, -1)),  # VeRi, two-digit cameras
        ("0001C1T0002F003.jpg", NameParts(1, 1, -1, 3, 2)),  # MARS
        ("00-1C4T0012F120.jpg", NameParts(-1, 4, -1, 120, 12)),
        ("000012_s03_c01_f000776.jpg", NameParts(12, 301, 3, 776)),  # RandPerson, ClonedPerson
        ("anna_cam12_007.png", NameParts(None, 12)),
        ("c3-000123.JPEG", NameParts(None, 3)),
        ("walk.camera2.left.png", NameParts(None, 2)),
        ("IMG_2041.jpg", NameParts()),
        ("cat.jpg", NameParts()),
        ("abc1.jpg", NameParts()),
        ("Müller_C05_x.jpg", NameParts(None, 5)),
    ],
)
def test_parse_name(name, expected):
    assert parse_name(name) == expected


def test_times_of_two_sequences_are_far_apart():
    first, second = parse_name("0002_c1s1_000451_03.jpg").time, parse_name("0002_c1s2_000001_03.jpg").time
    assert first == SEQUENCE_FRAMES + 451
    assert second - first > 9_000_000
    assert parse_name("c3_x.jpg").time == -1


def test_market(market):
    data = layouts.find(market)
    assert data.layout == "Market-1501"
    assert {split: len(samples) for split, samples in data.splits().items()} == {
        "train": 16,
        "query": 6,
        "gallery": 8,
    }
    assert data.train_pids() == [1, 2, 3, 4]
    assert sorted(s.pid for s in data.gallery) == [-1, 0, 5, 5, 6, 6, 7, 7]
    assert {s.camera for s in data.train} == {1, 2}
    assert data.names[1] == "0001"
    assert [s.path for s in data.train] == sorted(s.path for s in data.train)


def test_market_junk_is_not_trained_on(market):
    paint(market / "bounding_box_train" / "-1_c1s1_000001_00.jpg")
    assert layouts.find(market).train_pids() == [1, 2, 3, 4]


def test_a_foreign_name_in_market_is_an_error_that_names_it(market):
    stray = paint(market / "query" / "holiday.jpg")
    with pytest.raises(InputError, match=r"holiday\.jpg.*class folders"):
        layouts.find(market)
    assert stray.exists()


def test_veri_folder_names(tmp_path):
    for folder in ("image_train", "image_query", "image_test"):
        paint(tmp_path / folder / "0001_c001_00016450_0.jpg")
    data = layouts.find(tmp_path)
    assert data.layout == "Market-1501"
    assert (len(data.train), len(data.query), len(data.gallery)) == (1, 1, 1)


def test_class_folders_with_any_extension_and_language(tmp_path):
    for number, name in enumerate(["a.jpg", "b.jpeg", "c.PNG", "d.bmp", "ü.webp", "e.tiff"]):
        paint(tmp_path / "Zoë Müller" / name, seed=number)
        paint(tmp_path / "李明" / name, seed=number)
    (tmp_path / "李明" / "notes.txt").write_text("not an image")
    (tmp_path / "李明" / ".hidden.jpg").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    data = layouts.find(tmp_path)
    assert data.layout == "class folders"
    assert len(data.train) == 12
    assert [data.names[pid] for pid in data.train_pids()] == ["Zoë Müller", "李明"]


def test_numbers_stay_numbers_when_all_are(tmp_path):
    for name in ("7", "0012", "3"):
        paint(tmp_path / name / "a.jpg")
    assert layouts.find(tmp_path).names == {3: "3", 7: "7", 12: "0012"}


@pytest.mark.parametrize("folders", [("0", "1", "2"), ("0000", "0001", "0002"), ("1", "01", "2"), ("-1", "1", "2")])
def test_a_training_folder_called_zero_or_minus_one_is_a_person(tmp_path, folders):
    for name in folders:
        paint(tmp_path / name / "a.jpg")
    data = layouts.find(tmp_path)
    assert len(data.train_pids()) == 3
    assert min(data.train_pids()) > 0
    assert sorted(data.names.values()) == sorted(folders)


def test_a_number_too_large_for_int64_is_a_name_like_any_other(tmp_path):
    for name in ("9" * 25, "1"):
        paint(tmp_path / name / "a.jpg")
    assert sorted(layouts.find(tmp_path).names) == [1, 2]


def test_gallery_junk_and_distractor_folders(tmp_path):
    for split, name in (("query", "5"), ("gallery", "5"), ("gallery", "-1"), ("gallery", "0000"), ("train", "1")):
        paint(tmp_path / split / name / "c1_a.jpg")
    data = layouts.find(tmp_path)
    assert sorted(s.pid for s in data.gallery) == [-1, 0, 5]
    assert data.train_pids() == [1]
    assert data.can_evaluate


def test_identities_agree_between_splits(tmp_path):
    make_class_folders(tmp_path / "query", identities=3)
    make_class_folders(tmp_path / "gallery", identities=5)
    data = layouts.find(tmp_path)
    of = {s.path.split("/")[-2]: s.pid for s in data.query}
    assert {s.path.split("/")[-2]: s.pid for s in data.gallery}.items() >= of.items()
    assert len({s.pid for s in data.gallery}) == 5


def test_links_to_identity_folders_are_followed_and_loops_end(tmp_path):
    make_class_folders(tmp_path / "real", identities=2)
    root = tmp_path / "linked"
    root.mkdir()
    for name in ("person1", "person2"):
        (root / name).symlink_to(tmp_path / "real" / name)
    assert len(layouts.find(root).train) == 8
    (tmp_path / "real" / "person1" / "loop").symlink_to(tmp_path / "real" / "person1")
    (tmp_path / "real" / "person1" / "again").symlink_to(tmp_path / "real")
    assert {s.path.split("/")[-1] for s in layouts.find(root).train} == {
        f"c{number % 2 + 1}_{number:03d}.jpg" for number in range(4)
    }
    assert len(layouts.find(root).train) < 40


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: None, "no such folder"),
        (lambda root: root.mkdir(), "no images found"),
        (lambda root: paint(root / "a.jpg"), "move each person's images into a folder"),
    ],
)
def test_what_is_no_dataset_says_what_to_do(tmp_path, make, words):
    make(tmp_path / "root")
    with pytest.raises(InputError, match=words):
        layouts.find(tmp_path / "root")


# ------------------------------------------------------------------------------------------------------ MSMT17 and made


def make_msmt(root, train: str = "train", test: str = "test"):
    """Two people to train on, numbers 0 and 1, and two others of the same numbers to test with."""
    lists = {
        "list_train.txt": (
            train,
            ["0000/0000_000_01_0303am_0008_0.jpg 0", "0001/0001_000_15_0114am_0100_1.jpg 1"],
        ),
        "list_val.txt": (train, ["0000/0000_001_02_0303am_0010_0.jpg 0"]),
        "list_query.txt": (test, ["0000/0000_000_04_0302pm_0001_0.jpg 0"]),
        "list_gallery.txt": (
            test,
            ["0000/0000_001_05_0302am_0002_0.jpg 0", "0001/0001_000_04_0302am_0001_0.jpg 1"],
        ),
    }
    for name, (half, lines) in lists.items():
        for line in lines:
            paint(root / half / line.split()[0])
        (root / name).write_text("\n".join(lines) + "\n")
    return root


@pytest.mark.parametrize("halves", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
def test_msmt(tmp_path, halves):
    data = layouts.find(make_msmt(tmp_path, *halves))
    assert data.layout == "MSMT17"
    assert [(s.pid, s.camera) for s in data.train] == [(1, 1), (1, 2), (2, 15)]
    assert [(s.pid, s.camera) for s in data.query] == [(3, 4)]
    assert [(s.pid, s.camera) for s in data.gallery] == [(3, 5), (4, 4)]
    assert data.names == {1: "train 0000", 2: "train 0001", 3: "test 0000", 4: "test 0001"}
    assert all(Path(s.path).is_file() for split in data.splits().values() for s in split)


def test_a_line_that_is_none_of_msmts_is_named(tmp_path):
    make_msmt(tmp_path)
    (tmp_path / "list_val.txt").write_text("0000/a.jpg 0\n")
    with pytest.raises(InputError, match=r"list_val\.txt: '0000/a\.jpg 0' is not"):
        layouts.find(tmp_path)


def test_randperson(tmp_path):
    for name in ("000000_s00_c00_f000776.jpg", "000000_s10_c01_f000001.jpg", "000007_s00_c01_f000012.jpg"):
        paint(tmp_path / "randperson_subset" / "randperson_subset" / name)
    data = layouts.find(tmp_path)
    assert data.layout == "RandPerson"
    assert [(s.pid, s.camera) for s in data.train] == [(1, 0), (1, 1001), (8, 1)]
    assert data.names[8] == "000007"
    assert not data.can_evaluate


def test_clonedperson(tmp_path):
    names = {"train": "0001_s01_c01_f000005.jpg", "test/query": "0003_s02_c01_f000006.jpg"}
    names["test/gallery"] = "0003_s02_c02_f000009.jpg"
    for folder, name in names.items():
        paint(tmp_path / folder / name)
    data = layouts.find(tmp_path)
    assert data.layout == "ClonedPerson"
    assert [(s.pid, s.camera) for samples in data.splits().values() for s in samples] == [(2, 101), (4, 201), (4, 202)]
    paint(tmp_path / "train" / "holiday.jpg")
    with pytest.raises(InputError, match=r"holiday\.jpg.*scene"):
        layouts.find(tmp_path)


def test_merged_keeps_people_and_cameras_apart(market, tmp_path):
    first = layouts.find(make_class_folders(tmp_path / "own", identities=2))  # cameras 1 and 2, nobody to test with
    second = layouts.find(market)  # pids 1 to 4, tested on 5 to 7
    whole = layouts.merged([first, second])
    assert whole.layout == "class folders + Market-1501"
    assert whole.root == market
    assert [s.path for s in whole.train] == [s.path for s in first.train + second.train]
    assert [whole.names[pid] for pid in whole.train_pids()] == [
        *("own/person1", "own/person2", "market/0001", "market/0002", "market/0003", "market/0004"),
    ]
    assert {s.camera for s in whole.train[: len(first.train)]} == {1, 2}
    assert {s.camera for s in whole.train[len(first.train) :]} == {4, 5}
    assert sorted({s.pid for s in whole.gallery}) == [-1, 0, 7, 8, 9]
    assert {s.pid for s in whole.query} == {7, 8, 9}


def test_merged_leaves_out_what_is_tested_elsewhere(market, tmp_path):
    other = layouts.find(make_msmt(tmp_path / "msmt"))
    whole = layouts.merged([layouts.find(market), other])
    assert len(whole.train_pids()) == 4 + 2
    assert {Path(s.path).parent.name for s in whole.query + whole.gallery} == {"query", "bounding_box_test"}
    unseen = Sample("a.jpg", 1)  # a camera that nobody knows stays unknown
    blind = layouts.ReIDData(tmp_path, "class folders", train=[unseen], names={1: "a"})
    assert layouts.merged([layouts.find(market), blind]).train[-1].camera == -1


@pytest.mark.parametrize("below", ["", "MOT16-09", "train/MOT16-09"])
def test_a_video_is_no_person(tmp_path, below):
    root = tmp_path / "videos"
    for number in range(3):
        paint(root / below / "img1" / f"{number:06d}.jpg")
    with pytest.raises(InputError, match=r"datasets\.py crops") as caught:
        layouts.find(root)
    assert str(root / below) in str(caught.value)


def test_only_kinds_that_are_not_read(tmp_path):
    (tmp_path / "anna").mkdir()
    (tmp_path / "anna" / "a.HEIC").write_bytes(b"")
    with pytest.raises(InputError, match=r"1 images in formats that are not supported.*a\.HEIC"):
        layouts.find(tmp_path)


# -------------------------------------------------------------------------------------------------------------- MARS


def make_mars(root):
    """Two training people, two test people; test tracklets 2 (query), 1 and 3 (same people), junk and distractor."""
    scipy_io = pytest.importorskip("scipy.io")
    for name in ("0001C1T0001F001.jpg", "0001C1T0001F002.jpg", "0001C2T0001F001.jpg", "0003C1T0001F001.jpg"):
        paint(root / "bbox_train" / name[:4] / name)
    names = [
        *("0002C1T0001F001.jpg", "0002C1T0001F002.jpg", "0002C2T0001F001.jpg", "0002C2T0001F002.jpg"),
        *("0004C1T0001F001.jpg", "00-1C1T0001F001.jpg", "0000C1T0001F001.jpg"),
    ]
    for name in names:
        paint(root / "bbox_test" / name[:4] / name)
    info = root / "info"
    info.mkdir()
    (info / "test_name.txt").write_text("\n".join(names) + "\n")
    tracks = np.array([[1, 2, 2, 1], [3, 4, 2, 2], [5, 5, 4, 1], [6, 6, -1, 1], [7, 7, 0, 1]])
    scipy_io.savemat(info / "tracks_test_info.mat", {"track_test_info": tracks.astype(np.float64)})
    scipy_io.savemat(info / "query_IDX.mat", {"query_IDX": np.array([[2]], np.uint16)})
    return root


def test_mars(tmp_path):
    data = layouts.find(make_mars(tmp_path))
    assert data.layout == "MARS"
    assert data.train_pids() == [1, 3]
    assert len({s.tracklet for s in data.train}) == 3
    assert [(s.pid, s.camera, s.tracklet) for s in data.query] == [(2, 2, 1), (2, 2, 1)]
    assert [(s.pid, s.camera, s.tracklet) for s in data.gallery] == [
        (2, 1, 0),
        (2, 1, 0),
        (4, 1, 2),
        (-1, 1, 3),
        (0, 1, 4),
    ]


@pytest.mark.parametrize("name", ["tracks_test_info.mat", "query_IDX.mat", "test_name.txt"])
def test_mars_without_its_info_can_be_trained_with_and_names_the_file(tmp_path, name):
    make_mars(tmp_path)
    (tmp_path / "info" / name).unlink()
    data = layouts.find(tmp_path)
    assert (len(data.train), data.query, data.gallery) == (4, [], [])
    assert data.untestable.startswith(f"{tmp_path / 'info' / name}: missing")
    assert [p.text for p in find_problems(data) if data.untestable in p.text and not p.fatal]


def test_a_broken_mat_file_is_named(tmp_path):
    make_mars(tmp_path)
    (tmp_path / "info" / "query_IDX.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(40))
    with pytest.raises(InputError, match=r"query_IDX\.mat"):
        layouts.find(tmp_path)


def test_tracks_beyond_the_name_list_are_refused(tmp_path):
    make_mars(tmp_path)
    (tmp_path / "info" / "test_name.txt").write_text("0002C1T0001F001.jpg\n")
    with pytest.raises(InputError, match="does not fit"):
        layouts.find(tmp_path)
