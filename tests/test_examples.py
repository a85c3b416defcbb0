"""The examples: a tracker that works on clear cases, identity measures by hand, and a scene that is what it says."""

import json
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
from clean import run_all
from conftest import COLOURS, ROOT, assert_one_line_error
from networks import write_checkpoint
from PIL import Image
from sequences import add_row, annotate, make_sequence, place

sys.path.insert(0, str(ROOT / "examples"))

import scene
import track_mot
from baselines import colours
from identity_measures import hota, identity_measures
from tracker import Kalman, Tracker, distances, overlap

from appearance.cli import InputError
from appearance.data.boxes import TRACKS, read_boxes

pytest.importorskip("scipy", reason="the examples need scipy")

LEFT, RIGHT = np.eye(2)  # two appearances that have nothing in common


def crossing(frame: int) -> np.ndarray:
    """Two people who walk through each other: 5 pixels a frame, from 100 and 300 to 300 and 100."""
    return np.array([[100 + 5 * frame, 50, 40, 100], [300 - 5 * frame, 52, 40, 100]], dtype=float)


# -- overlap and motion


def test_overlap_by_hand():
    boxes = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [20, 20, 10, 10]], dtype=float)
    np.testing.assert_allclose(overlap(boxes[:1], boxes), [[1, 50 / 150, 0]])


def test_motion_learns_the_speed():
    motion = Kalman(np.array([100, 50, 0.4, 100.0]))
    for frame in range(1, 30):
        motion.predict()
        motion.update(np.array([100 + 4 * frame, 50, 0.4, 100]))
    motion.predict()
    np.testing.assert_allclose(motion.mean[:4], [220, 50, 0.4, 100], atol=0.5)
    assert motion.mean[4] == pytest.approx(4, abs=0.1)
    near, far = distances([motion], np.array([[220, 50, 0.4, 100], [300, 50, 0.4, 100]]))[0]
    assert near < 1
    assert far > 9.4877


# -- the tracker


@pytest.mark.parametrize("max_distance", [None, 0.2])
def test_numbers_stay_while_people_walk(max_distance):
    tracker = Tracker(max_distance)
    called = [tracker.update(crossing(frame), np.stack([LEFT, RIGHT])) for frame in range(10)]
    assert [rows.tolist() for rows in called[:2]] == [[-1, -1], [-1, -1]]  # not before the third time
    assert {tuple(rows) for rows in called[2:]} == {(1, 2)}


def test_appearance_finds_people_again_who_turned_round_unseen():
    """Two people meet, are hidden for 8 frames and come back the way they came: motion alone exchanges them."""
    results = {}
    for name, max_distance in (("motion", None), ("appearance", 0.2)):
        tracker = Tracker(max_distance)
        for frame in [*range(17), *[None] * 8, *range(16, 3, -1)]:
            boxes = np.empty((0, 4)) if frame is None else crossing(frame)
            vectors = np.empty((0, 2)) if frame is None else np.stack([LEFT, RIGHT])
            called = tracker.update(boxes, vectors)
        results[name] = called.tolist()
    assert results["appearance"] == [1, 2]
    assert results["motion"] != [1, 2]


def test_tracks_are_given_up():
    tracker = Tracker(0.2, max_age=5)
    for frame in range(5):
        tracker.update(crossing(frame), np.stack([LEFT, RIGHT]))
    for _ in range(6):
        tracker.update(np.empty((0, 4)), np.empty((0, 2)))
    assert tracker.tracks == []
    tracker.update(crossing(0), np.stack([LEFT, RIGHT]))
    assert [track.number for track in tracker.tracks] == [3, 4]


# -- identity measures, by hand


def frames(*numbers):
    """One person standing still, called so in each frame (None: not found)."""
    box = np.array([[0.0, 0, 10, 20]])
    people, boxes = [np.array([7])] * len(numbers), [box] * len(numbers)
    called = [np.array([] if number is None else [number], dtype=int) for number in numbers]
    return people, boxes, called, [box[: len(number)] for number in called]


@pytest.mark.parametrize(
    ("numbers", "idf1", "switches"),
    [
        ([1, 1, 1, 1], 1, 0),
        ([1, 1, 1, 2], 2 * 3 / 8, 1),
        ([1, 2, 1, 2], 2 * 2 / 8, 3),
        ([1, None, None, 1], 2 * 2 / 6, 0),
        ([1, None, None, 2], 2 * 1 / 6, 1),
        ([None] * 4, 0, 0),
    ],
)
def test_identity_measures_of_one_person(numbers, idf1, switches):
    measured = identity_measures(*frames(*numbers))
    assert measured["IDF1"] == pytest.approx(idf1)
    assert measured["switches"] == switches


def test_exchanged_people_count_twice():
    boxes = [crossing(0)] * 4
    called = [np.array([1, 2])] * 3 + [np.array([2, 1])]
    measured = identity_measures([np.array([0, 1])] * 4, boxes, called, boxes)
    assert {key: measured[key] for key in ("IDF1", "switches", "tracks")} == {"IDF1": 6 / 8, "switches": 2, "tracks": 2}


def test_a_match_that_still_holds_is_kept():
    """Both people could have a track, were the one that is on the second person taken from it: no, says CLEAR MOT."""
    people, boxes = [np.array([1, 2])] * 2, [np.array([[0, 0, 10, 20], [3, 0, 10, 20]], dtype=float)] * 2
    called = [np.array([7]), np.array([7, 8])]
    found = [boxes[0][1:], np.array([[2, 0, 10, 20], [5.5, 0, 10, 20]], dtype=float)]  # 8 is on the second one alone
    measured = identity_measures(people, boxes, called, found)
    assert (measured["switches"], measured["misses"], measured["false_positives"]) == (0, 2, 1)


def random_run(seed: int):
    """People who walk about; tracks that are a little off, missing, exchanged, renamed, doubled and invented."""
    rng = random.Random(seed)
    frames, count = rng.randint(5, 40), rng.randint(1, 7)
    place = np.array([[rng.uniform(0, 150), rng.uniform(0, 150), 30, 60] for _ in range(count)])
    step = np.array([[rng.gauss(0, 4), rng.gauss(0, 4), 0, 0] for _ in range(count)])

    def near(box, deviation):
        return box + np.array([rng.gauss(0, deviation) for _ in range(4)])

    called = list(range(10, 10 + count))
    run = [], [], [], []
    for frame in range(frames):
        place = place + step
        if rng.random() < 0.2:
            a, b = rng.randrange(count), rng.randrange(count)
            called[a], called[b] = called[b], called[a]
        if rng.random() < 0.15:
            called[rng.randrange(count)] = 100 + frame
        there = [person for person in range(count) if rng.random() > 0.1]
        found = {called[person]: near(place[person], 4) for person in range(count) if rng.random() > 0.2}
        if rng.random() < 0.3:
            found[1000 + rng.randrange(3)] = near(place[0], 8)
        numbers = rng.sample(sorted(found), len(found))
        run[0].append(np.array(there, dtype=int))
        run[1].append(place[there])
        run[2].append(np.array(numbers, dtype=int))
        run[3].append(np.array([found[number] for number in numbers]).reshape(-1, 4))
    return run


MOTMETRICS = {
    **{"IDF1": "idf1", "IDP": "idp", "IDR": "idr", "MOTA": "mota", "switches": "num_switches"},
    **{"fragments": "num_fragmentations", "misses": "num_misses", "false_positives": "num_false_positives"},
}


STORED = json.loads((ROOT / "tests" / "data" / "motmetrics.json").read_text())  # of version 1.4.0


@pytest.mark.parametrize("seed", range(20))
def test_measures_equal_those_of_motmetrics(seed):
    assert {key: identity_measures(*random_run(seed))[key] for key in MOTMETRICS} == pytest.approx(STORED[seed])


def test_hota_by_trackeval():
    """By hand: of one person in 10 frames, half under one number and half under another; a second one is not found."""
    pytest.importorskip("trackeval", reason="pip install trackeval")
    here, there = np.array([[0.0, 0, 10, 20]]), np.array([[0.0, 0, 10, 20], [50, 0, 10, 20]])
    people, boxes = [np.array([7, 9])] * 10, [there] * 10
    numbers, found = [np.array([3])] * 5 + [np.array([4])] * 5, [here] * 10
    measured = hota(people, boxes, numbers, found)
    assert measured == pytest.approx({"HOTA": 0.5, "AssA": 5 / 10, "DetA": 10 / 20})
    half = hota(people, boxes, numbers, [here / [1, 1, 1, 2]] * 10)  # found up to an overlap of 0.5
    assert half == pytest.approx({"HOTA": 0.5 * 10 / 19, "AssA": 0.5 * 10 / 19, "DetA": 0.5 * 10 / 19})
    nobody = [np.empty(0, int)] * 10, [np.empty((0, 4))] * 10
    assert hota(people, boxes, *nobody) == {"HOTA": 0, "AssA": 0, "DetA": 0}


def test_a_box_beside_the_person_is_wrong():
    people, boxes, called, found = frames(1, 1, 1, 1)
    beside = [box + np.array([8, 0, 0, 0]) for box in found]
    assert identity_measures(people, boxes, called, beside)["IDF1"] == 0


# -- the scene


@pytest.fixture(scope="module")
def recorded():
    return scene.record(seed=3, frames=70, people=3)


def test_scene_is_repeatable_and_complete(recorded):
    again = scene.record(seed=3, frames=3, people=3)
    assert all(np.array_equal(a, b) for a, b in zip(recorded.frames, again.frames, strict=False))
    assert recorded.frames[0].shape == (192, 512, 3)
    assert {len(part) for part in vars(recorded).values()} == {70}
    assert set(np.concatenate(recorded.people)) == {0, 1, 2}
    boxes = np.vstack(recorded.boxes)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2]).max() <= 512
    assert (boxes[:, 3] > 80).all()
    found, there = sum(map(len, recorded.detections)), len(boxes)
    assert 0.9 < found / there < 1.05


def test_people_are_where_their_boxes_say(recorded):
    """Inside a box the picture differs from the empty place, outside all boxes it hardly does."""
    empty = scene.develop(scene.draw([], 3)[0], 60, 3).astype(int)
    moved = np.abs(recorded.frames[60].astype(int) - empty).max(2) > 40
    assert len(recorded.boxes[60])
    for left, top, width, height in recorded.boxes[60].round().astype(int):
        assert moved[top : top + height, left : left + width].mean() > 0.2


def test_a_scene_is_a_sequence_that_can_be_tracked(tmp_path, recorded):
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    drawn, tracked, again = run_all(
        [
            ("examples/scene.py", "walk", "--frames", 70, "--people", 3, "--seed", 3),
            ("examples/track_mot.py", "walk", "--weights", weights),
            ("examples/scene.py", "walk"),
        ],
        tmp_path,
        tmp_path / "printed",
    )
    assert [drawn.code, tracked.code] == [0, 0], (drawn.stderr, tracked.stderr)
    assert_one_line_error(again, "walk: exists and is not empty; choose a new folder")
    assert (tmp_path / "tracks" / "walk.txt").is_file()
    sequence = track_mot.Sequence(tmp_path / "walk")
    recording = track_mot.record(sequence, sequence.detections)
    np.testing.assert_array_equal(np.asarray(Image.open(sequence.frames[61])), recorded.frames[60])
    np.testing.assert_array_equal(np.concatenate(recording.people), np.concatenate(recorded.people) + 1)
    for found, wanted in ((recording.boxes, recorded.detections), (recording.truth, recorded.boxes)):
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(wanted), atol=0.006)


# -- what a network is compared with


def test_colours_are_unit_rows_of_colours():
    red, also_red = np.full((40, 20, 3), (200, 30, 30), np.uint8), np.full((70, 30, 3), (180, 25, 25), np.uint8)
    blue = np.full((40, 20, 3), (30, 30, 200), np.uint8)
    rows = colours([red, also_red, blue])
    np.testing.assert_allclose(rows @ rows.T, [[1, 1, 0], [1, 1, 0], [0, 0, 1]], atol=1e-6)
    assert colours([]).shape == (0, 128)


# -- sequences of one's own


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    folder = make_sequence(tmp_path_factory.mktemp("sequences") / "street", people=3, frames=30)
    annotate(folder, people=3, frames=30)
    return folder


def test_crops_of_a_sequence_come_in_order(street):
    sequence = track_mot.Sequence(street)
    recording = track_mot.record(sequence, sequence.detections)
    crops = [crop for batch in track_mot.batches(recording) for crop in batch]
    assert len(crops) == 90
    for number, crop in enumerate(crops):
        assert crop.shape == (64, 24, 3)
        assert np.abs(crop[30, 12].astype(int) - COLOURS[number % 3]).max() < 12
    rows = track_mot.describe(recording, {"colours": colours})["colours"]
    assert [len(row) for row in rows] == [3] * 30
    np.testing.assert_array_equal(rows[5], colours(crops[15:18]))


def test_large_boxes_are_cut_from_smaller_frames(street):
    sequence = track_mot.Sequence(street)
    recording = track_mot.record(sequence, sequence.detections)  # boxes 64 pixels high
    assert [track_mot.shrinkage(recording, height) for height in (65, 64, 33, 32, 16, 8, 1)] == [1, 1, 1, 2, 4, 8, 8]
    few_are_small = [np.array([[0, 0, 1, 1]]), *recording.boxes]
    assert track_mot.shrinkage(track_mot.Recording(sequence, [], few_are_small), 32) == 2
    assert track_mot.shrinkage(track_mot.Recording(sequence, [], [np.empty((0, 4))]), 32) == 1
    crops = [crop for batch in track_mot.batches(recording, 2) for crop in batch]
    assert len(crops) == 90
    for number, crop in enumerate(crops):
        assert crop.shape[0] == 32
        assert 12 <= crop.shape[1] <= 13  # from an odd column on
        assert np.abs(crop[15, 6].astype(int) - COLOURS[number % 3]).max() < 12


def test_tracks_of_a_sequence(street, tmp_path):
    """People of three colours in lanes of their own: everything is found, from the third frame on."""
    weights = write_checkpoint(tmp_path / "best.pth", "osnet_x0_25")
    flags = ("--weights", weights, "--video", "tracks.gif", "--max-dist")
    best, asked, vehicles = run_all(
        [
            ("examples/track_mot.py", street, *flags, "best", "--json", "figures.json"),
            ("examples/track_mot.py", street, *flags, 0.24, "--json", "asked.json", "--output", "asked"),
            ("examples/track_mot.py", road(tmp_path / "road"), *flags, 0.2, "--classes", "car", "bus"),
        ],
        tmp_path,
        tmp_path / "printed",
    )
    assert [best.code, asked.code, vehicles.code] == [0, 0, 0], (best.stderr, asked.stderr, vehicles.stderr)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [(row["appearance"], row["source"]) for row in figures] == [
        *(("motion alone", ""), ("colour histogram", "default"), ("colour histogram", "best")),
        *(("network", "default"), ("network", "best")),
    ]
    rows = json.loads((tmp_path / "asked.json").read_text())
    assert [(row["source"], row["threshold"]) for row in rows if row["appearance"] == "network"][:2] == [
        *(("default", 0.2), ("asked", 0.24)),
    ]
    assert "0.24 asked" in asked.stdout
    assert "2 of 62 boxes have no width or height" in vehicles.stdout
    tracked = read_boxes(tmp_path / "tracks" / "road.txt", TRACKS)
    assert set(tracked.box[:, 1]) == {place(0, 1)[1], place(2, 1)[1]}  # the car and the bus, not the truck
    of_colours = figures[2]
    assert of_colours["IDF1"] == pytest.approx(2 * 39 / (45 + 39))  # of 15 frames the first two are without tracks
    assert (of_colours["switches"], of_colours["tracks"], of_colours["misses"]) == (0, 3, 6)
    rows = read_boxes(tmp_path / "tracks" / "street.txt")
    assert set(rows.frame) == set(range(3, 31))
    with Image.open(tmp_path / "tracks.gif") as gif:
        assert (gif.n_frames, gif.size) == (30, (160, 120))


def road(folder):
    """A car, a truck and a bus, in `labels.txt` and in the detections, and two detections without a size."""
    make_sequence(folder, people=3, frames=30)
    annotate(folder, "1,1,1", people=3, frames=30)
    for name, track in (("gt/gt.txt", 1), ("det/det.txt", 0)):
        lines = []
        for line in (folder / name).read_text().splitlines():
            words = line.split(",")[:6]
            kind = next(kind for kind in (1, 2, 3) if int(words[3]) == place(kind - 1, 1)[1])
            lines.append(",".join([*words, "1", str(kind), *(["1"] if track else [])]))
        (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "gt" / "labels.txt").write_text("car\ntruck\nbus\n")
    for size in ((0, 40), (30, -1)):
        add_row(folder / "det" / "det.txt", 1, -1, 5, 5, *size, 1, 1)
    return folder


def test_vehicles(tmp_path):
    """The truth and the detections are of the classes that are asked for."""
    sequence = track_mot.Sequence(road(tmp_path / "road"))
    with pytest.raises(InputError, match=r"--classes is needed: .* has car, truck, bus"):
        track_mot.record(sequence, sequence.detections)
    recording = track_mot.record(sequence, sequence.detections, ["car", "bus"])
    assert {number for numbers in recording.people for number in numbers.tolist()} == {11, 13}
    wanted = track_mot.of_classes(sequence, sequence.detections, ["truck"])
    assert wanted.sum() == 30
    (tmp_path / "road" / "gt" / "labels.txt").write_text("car\ntruck\nbus\nvan\n")
    with pytest.raises(InputError, match=r"--classes van: .*det.txt; its classes are 1, 2, 3"):
        track_mot.of_classes(sequence, sequence.detections, ["van"])


@pytest.mark.parametrize(("count", "share", "first"), [(525, 0.5, 262), (795, 0.5, 397), (10, 0.3, 3), (100, 0.29, 29)])
def test_the_first_part_of_a_sequence(count, share, first):
    assert track_mot.first_frames(count, share) == first


def of_two_tracks(street):
    recording = track_mot.record(track_mot.Sequence(street), track_mot.Sequence(street).detections)
    numbers = [np.array([1, 2])] * len(recording.numbers)
    return recording, (numbers, [boxes[:2] for boxes in recording.boxes])


@pytest.mark.parametrize("said", ["", "no such codec"])
def test_video_by_ffmpeg(street, tmp_path, monkeypatch, said):
    """A program in ffmpeg's place takes down what it is called with and what it is given."""
    stand_in = tmp_path / "bin" / "ffmpeg"
    stand_in.parent.mkdir()
    fails = f"echo {said} >&2; exit 1" if said else ""
    stand_in.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\ncat > {tmp_path}/given\n{fails}\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", str(stand_in.parent), prepend=":")
    recording, result = of_two_tracks(street)
    if said:
        with pytest.raises(InputError, match=r"tracks\.mp4: ffmpeg failed"):
            track_mot.save_video(recording, result, tmp_path / "tracks.mp4")
        return
    track_mot.save_video(recording, result, tmp_path / "tracks.mp4")
    called = (tmp_path / "called").read_text()
    assert "-f rawvideo -pix_fmt rgb24 -s 160x120 -r 25" in called
    assert called.endswith(f"{tmp_path}/tracks.mp4\n")
    shown = np.frombuffer((tmp_path / "given").read_bytes(), np.uint8).reshape(30, 120, 160, 3)
    left, top, _, height = recording.boxes[7][1].astype(int)
    assert tuple(shown[7, top + height, left + 5]) == track_mot.colour_of(2)  # the lower edge of the box
    assert np.abs(shown[7, top + 30, left + 12].astype(int) - COLOURS[1]).max() < 12  # who stands in it


def test_video_without_ffmpeg(street, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"needs the program ffmpeg; install it, or use a name in \.gif"):
        track_mot.save_video(*of_two_tracks(street), tmp_path / "tracks.mp4")


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_video_is_one(street, tmp_path):
    track_mot.save_video(*of_two_tracks(street), tmp_path / "tracks.mp4")
    command = [
        "ffmpeg",
        "-loglevel",
        "error",
        "-i",
        tmp_path / "tracks.mp4",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-",
    ]
    shown = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
    shown = shown.reshape(30, 120, 160, 3)
    assert np.abs(shown[7, 50, 52].astype(int) - COLOURS[1]).max() < 40


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--max-dist", "auto"), "--features FILE"),
        (("--max-dist", "some"), "must be a number from 0, or weights, auto, best"),
        (("--max-dist", "nan"), "must be a number from 0, or weights, auto, best"),
        (("--detections", "a.txt", "b.txt"), "2 files for 1 sequences"),
    ],
)
def test_wrong_flags(flags, words):
    with pytest.raises(InputError, match=words):
        track_mot.check_flags(track_mot.get_args_parser().parse_args(["street", *flags]))


def test_what_is_wrong_is_said_in_one_line(street, tmp_path):
    [done] = run_all([("examples/track_mot.py", street, "--classes", "car")], tmp_path, tmp_path / "printed")
    assert_one_line_error(done, "gt.txt are not of class car; choose from pedestrian (1)")


def test_jittered_boxes(street):
    people = track_mot.Sequence(street).people()
    found = track_mot.jittered(people)
    assert 0.9 * len(people) < len(found) < len(people)
    both = {(f, t): box for f, t, box in zip(people.frame, people.track, people.box, strict=True)}
    off = found.box - np.array([both[pair] for pair in zip(found.frame, found.track, strict=True)])
    assert 0.01 < off.std() / 64 < 0.04
