"""From sequences to class folders: which boxes, who is tested, and what the crops show."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import COLOURS, assert_one_line_error, call_script
from PIL import Image
from sequences import add_row, annotate, make_sequence

from appearance.cli import InputError
from appearance.data.boxes import TRACKS, Boxes
from appearance.data.crops import Rules, overlaps, plan, query_and_gallery, select, spread, write
from appearance.data.layouts import find
from appearance.data.sequences import Sequence

RULES = Rules(min_images=2)


@pytest.fixture
def folder(tmp_path):
    folder = make_sequence(tmp_path / "street")
    (folder / "seqinfo.ini").write_text("[Sequence]\nname=street\nframeRate=5\n")
    return folder


def chosen(folder, rules: Rules = RULES, tracks=None):
    sequence = Sequence(folder)
    rows = sequence.annotations if tracks is None else sequence.read(tracks, TRACKS)
    return select(sequence, rows, rules, tracked=tracks is not None)


# -- which boxes


def test_every_filter_counts_what_it_leaves_out(folder):
    path = annotate(folder)  # 160 boxes of 4 people
    add_row(path, 1, 30, 0, 0, 50, 100, 1, 3, 1)  # a car
    add_row(path, 1, 31, 0, 0, 50, 100, 0, 1, 1)  # not to be considered
    add_row(path, 1, -1, 0, 0, 50, 100, 1, 1, 1)  # nobody's
    add_row(path, 99, 11, 0, 0, 50, 100, 1, 1, 1)  # no such frame
    add_row(path, 1, 11, 0, 0, 50, 100, 1, 1, 1)  # twice in one frame
    add_row(path, 1, 32, 0, 0, 50, 100, 1, 1, 0.29)
    add_row(path, 1, 33, 0, 0, 50, 47, 1, 1, 1)
    add_row(path, 1, 34, 0, 0, 15, 100, 1, 1, 1)
    add_row(path, 1, 35, -40, 0, 50, 100, 1, 1, 1)  # 10 pixels of it are in the frame
    for track, left, width, height in ((36, 10, 0, 100), (37, 10, 50, -1), (38, 160, 50, 100), (39, -50, 50, 100)):
        add_row(path, 1, track, left, 0, width, height, 1, 1, 1)
    kept, steps = chosen(folder)
    assert [(step.reason, step.left_out) for step in steps[1:]] == [
        ("not of class pedestrian", 1),
        ("marked to be ignored (column 7 is 0)", 1),
        ("no track number", 1),
        ("no image for the frame", 1),
        ("no width or height", 2),
        ("second box of a track in one frame", 1),
        ("outside the frame", 2),
        ("under 30% visible", 1),
        ("under 48 pixels high", 1),
        ("under 16 pixels wide", 2),
    ]
    assert steps[0].boxes == 173
    assert (steps[-1].boxes, steps[-1].identities) == (160, 4) == (len(kept), len(np.unique(kept.track)))


def test_visibility_where_nothing_tells_it(folder):
    """MOT15: what a nearer box covers and what is outside the frame is not seen."""
    path = annotate(folder, "1,-1,-1,-1", people=1, frames=1)  # left 5, top 20, 24 x 64
    add_row(path, 1, 12, 5, 21, 24, 64, 1, -1, -1, -1)  # in front of it
    add_row(path, 1, 13, -40, 20, 56, 64, 1, -1, -1, -1)  # 16 of 56 pixels inside
    kept, steps = chosen(folder)
    assert kept.track.tolist() == [12]
    assert steps[-1].reason == "under 30% visible"


def test_overlaps_by_hand():
    box = np.array([[0, 0, 10, 20], [5, 0, 10, 25], [0, 0, 10, 20]], dtype=float)
    rows = Boxes(np.array([1, 1, 2]), np.arange(3), box, np.ones(3), np.ones(3), np.ones(3))
    covered, nearer = overlaps(rows)
    np.testing.assert_allclose(covered, [0.5, 100 / 250, 0])
    np.testing.assert_allclose(nearer, [0.5, 0, 0])  # the second one's feet are lower in the picture


def test_a_trackers_results_leave_out_who_overlaps(folder, tmp_path):
    results = annotate(folder, "1,-1,-1,-1").rename(tmp_path / "results.txt")
    for frame in range(1, 11):
        add_row(results, frame, 50, 4 + frame, 20, 24, 64, 1, -1, -1, -1)
    kept, steps = chosen(folder, tracks=results)
    assert steps[1].reason == "over 30% inside another track's box"
    assert steps[1].left_out == 20  # of both
    assert 50 not in kept.track


def test_a_trackers_confidence_is_no_visibility(folder, tmp_path):
    """BoxMOT's lines end in class and confidence, or confidence, class and the number of the detection."""
    for tail in ("1,1,0.25", "0.25,1,0", "0.9,0,0,0"):
        kept, _ = chosen(folder, tracks=annotate(folder, tail))
        assert len(kept) == 160


def test_classes_of_tracks(folder):
    results = annotate(folder, "0.9,3,-1", people=2)
    add_row(results, 1, 30, 100, 20, 24, 64, 0.9, 1, -1)
    kept, steps = chosen(folder, Rules(classes=("car",)), tracks=results)
    assert (len(kept), steps[1].reason, steps[1].left_out) == (80, "not of class car", 1)
    assert len(chosen(folder, tracks=results)[0]) == 81
    with pytest.raises(InputError, match=r"--classes: .*gt.txt has no class column .* with --columns"):
        chosen(folder, Rules(classes=("car",)), tracks=annotate(folder, "1,-1,-1,-1"))


def test_a_track_that_was_lost_may_be_somebody_else_after_it(folder, tmp_path):
    results = tmp_path / "results.txt"
    frames = [*range(1, 9), *range(11, 21), *range(25, 35)]  # 3 frames from 8 to 11, 5 from 20 to 25
    results.write_text("".join(f"{frame},1,5,20,24,64,1,-1,-1,-1\n" for frame in frames))
    kept, steps = chosen(folder, tracks=results)
    assert (steps[-1].reason, steps[-1].left_out) == ("outside the track's longest unbroken run", 10)
    assert kept.frame.tolist() == frames[:18]


# -- who is tested


def test_spread_is_even():
    assert spread(list(range(100)), 5) == [0, 25, 50, 74, 99]
    assert spread([1, 2, 3], 5) == [1, 2, 3]


def crops_at(*frames):
    return [SimpleNamespace(sequence=0, frame=frame) for frame in frames]


def test_queries_are_the_ends_of_a_persons_time():
    query, gallery = query_and_gallery(crops_at(*range(0, 100, 5)), apart=[12])
    assert [crop.frame for crop in query] == [0, 5, 90, 95]
    assert [crop.frame for crop in gallery] == list(range(20, 80, 5))  # 12 frames at least from a query
    query, gallery = query_and_gallery(crops_at(*range(1, 17)), apart=[12])
    assert [crop.frame for crop in query] == [1, 2, 15, 16]
    assert [crop.frame for crop in gallery] == list(range(7, 11))  # a third of 15 frames
    assert query_and_gallery(crops_at(1, 2, 3, 4), apart=[12]) == ([], [])  # nothing is far enough


def test_nobody_is_in_train_and_test(folder):
    annotate(folder)
    kept, _ = chosen(folder)
    made = plan([Sequence(folder)], [kept], RULES)
    who = {split: {crop.who for crop in crops} for split, crops in made.splits.items()}
    assert (len(who["train"]), len(who["query"])) == (3, 1)
    assert who["query"] == who["gallery"]
    assert not who["train"] & who["query"]
    again = plan([Sequence(folder)], [kept], RULES)
    assert again == made
    seeds = {tuple(plan([Sequence(folder)], [kept], Rules(seed=seed)).splits["query"]) for seed in range(8)}
    assert len(seeds) > 1


@pytest.mark.parametrize("split", ["person", "time"])
def test_all_are_for_testing_where_nothing_is_trained(folder, split):
    annotate(folder)
    kept, _ = chosen(folder)
    made = plan([Sequence(folder)], [kept], Rules(split=split, test_ratio=1))
    assert not made.splits["train"]
    assert len({crop.who for crop in made.splits["query"]}) == 4
    with pytest.raises(InputError, match="only 1 person left after filtering, 1 to test, but at least two"):
        plan([Sequence(folder)], [kept[kept.track == kept.track[0]]], Rules(split=split, test_ratio=1))


def test_time_is_cut(folder):
    annotate(folder)
    kept, _ = chosen(folder)
    made = plan([Sequence(folder)], [kept], Rules(min_images=2, split="time", test_ratio=0.5))
    frames = {split: [crop.frame for crop in crops] for split, crops in made.splits.items()}
    assert max(frames["train"]) == 15  # 5 frames, a second, before 21
    assert min(frames["query"]) == 21
    assert {crop.who for crop in made.splits["train"]} == {crop.who for crop in made.splits["query"]}
    assert made.left_out["between the training and the test part"] == 4 * 5


def test_no_more_of_an_identity_than_asked_for(folder):
    annotate(folder)
    kept, _ = chosen(folder)
    made = plan([Sequence(folder)], [kept], Rules(per_identity=10))
    assert len(made.splits["train"]) == 3 * 10
    assert made.left_out["over 10 crops of a person"] == 4 * 30


def test_few_people(folder):
    annotate(folder, people=2)
    made = plan([Sequence(folder)], [chosen(folder)[0]], RULES)
    assert {split: len(crops) for split, crops in made.splits.items()} == {"train": 80, "query": 0, "gallery": 0}
    annotate(folder, people=1)
    with pytest.raises(InputError, match="only 1 person left after filtering, 1 to train on, but at least two"):
        plan([Sequence(folder)], [chosen(folder)[0]], RULES)


@pytest.mark.parametrize(("shared", "identities"), [(False, 8), (True, 4)])
def test_numbers_of_two_sequences(tmp_path, folder, shared, identities):
    annotate(folder)
    other = make_sequence(tmp_path / "square")
    annotate(other)
    sequences = [Sequence(folder), Sequence(other)]
    made = plan(sequences, [chosen(one)[0] for one in (folder, other)], Rules(shared_ids=shared))
    everything = [crop for crops in made.splits.values() for crop in crops]
    assert len({crop.who for crop in everything}) == identities
    assert {crop.sequence for crop in everything} == {0, 1}


# -- the crops


def test_crops_show_the_people(tmp_path, folder):
    annotate(folder)
    sequence = Sequence(folder)
    made = plan([sequence], [chosen(folder)[0]], RULES)
    out = tmp_path / "crops"
    write(made.splits, [sequence], out)
    data = find(out)
    assert {split: len(samples) for split, samples in data.splits().items()} == {
        split: len(crops) for split, crops in made.splits.items()
    }
    for sample in data.train + data.query + data.gallery:
        pixels = np.asarray(Image.open(sample.path)).astype(int)
        assert pixels.shape == (64, 24, 3)
        assert np.abs(pixels.mean((0, 1)) - COLOURS[sample.pid - 1]).max() < 12  # its colour, and nothing of the street
        assert sample.camera == 1
        assert 1 <= sample.time <= 40
    with open(out / "identities.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["track"]) for row in rows if row["split"] in ("train", "query")] == [11, 12, 13, 14]
    assert sum(int(row["crops"]) for row in rows) == sum(map(len, made.splits.values()))


def test_nothing_is_left_of_a_failed_run(tmp_path, folder):
    annotate(folder)
    sequence = Sequence(folder)
    made = plan([sequence], [chosen(folder)[0]], RULES)
    sequence.frames[made.splits["train"][-1].frame].write_bytes(b"no image")
    with pytest.raises(InputError, match="cannot be read as an image"):
        write(made.splits, [sequence], tmp_path / "crops")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["street"]


# -- python datasets.py crops


def test_command(tmp_path, folder):
    annotate(folder)
    done = call_script("datasets.py", "crops", "street", "--min-images", 2, "--per-identity", 9, "out", cwd=tmp_path)
    assert done.code == 0, done.stderr
    for line in ("in the file 160 4", "over 9 crops of a person -124", "train 3 27 1", "train.py --data-dir out"):
        assert line in " ".join(done.stdout.split())
    assert len(list((tmp_path / "out" / "train").glob("*/*_c1_*_*.jpg"))) == 27
    done = call_script("datasets.py", "crops", "street", "out", cwd=tmp_path)
    assert_one_line_error(done, "out: exists and is not an empty folder")


def test_command_with_tracks(tmp_path, folder):
    annotate(folder, "1,-1,-1,-1").rename(tmp_path / "a.txt")
    done = call_script("datasets.py", "crops", "street", "out", cwd=tmp_path)
    assert_one_line_error(done, "gt.txt: missing", "--tracks FILE")
    done = call_script("datasets.py", "crops", "street", "--tracks", "a.txt", "out", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert all(find(tmp_path / "out").splits().values())
    done = call_script("datasets.py", "crops", "street", "new", "--tracks", "a.txt", "a.txt", cwd=tmp_path)
    assert_one_line_error(done, "--tracks: 2 files for 1 sequences")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("street",), "give one or more sequences"),
        (("street", "out", "--min-visibility", 3), "argument --min-visibility: 3 is not a number from 0 to 1"),
        (("street", "out", "--per-identity", 0), "argument --per-identity: 0 is not a whole number above 0"),
        (("street", "out", "--classes", "bus"), "--classes bus"),
        (("street", "out", "--wrong", 1), "--wrong"),
        (("street", "out", "--gt-columns", "frame,id"), "--gt-columns: unknown column id"),
        (("nowhere", "out"), "nowhere: no such folder"),
    ],
)
def test_wrong_commands(tmp_path, folder, flags, words):
    annotate(folder)
    assert_one_line_error(call_script("datasets.py", "crops", *flags, cwd=tmp_path), words)
    assert not (tmp_path / "out").exists()


def test_crops_train_and_are_measured(tmp_path, folder):
    """One camera all the way: crops, training with rank-1 after a gap, features, the measure with a gap."""
    annotate(folder)
    flags = ("--height", 32, "--width", 16)
    commands = (
        ("datasets.py", "crops", "street", "out", "--min-images", 2),
        ("train.py", "--data-dir", "out", "--model", "osnet_x0_25", "--epochs", 1, *flags),
        ("test.py", "--data-dir", "out"),
        ("evaluate.py", "--protocol", "reappear", "--gap", 5),
    )
    done = [call_script(*command, cwd=tmp_path) for command in commands]
    assert [one.code for one in done] == [0, 0, 0, 0], [one.stderr for one in done]
    assert "rank-1" in done[1].stdout
    assert "at least this many frames apart" in done[3].stdout
