"""Each command takes the picture that a row means, whatever pictures and rows count from.

The grey of a picture and the width of its boxes both tell its place in the sequence.
"""

import sys

import numpy as np
import pytest
from clean import run_all
from conftest import ROOT, assert_one_line_error, benchmark
from networks import write_checkpoint
from PIL import Image
from sequences import annotate

from appearance.data.boxes import DETECTIONS
from appearance.data.sequences import Reading, Sequence

sys.path.append(str(ROOT / "examples"))
import track_mot

pytest.importorskip("scipy", reason="track_mot.py needs scipy")

PICTURES = 8
# first number in the pictures' names, and in the file of boxes
COUNTED = [(1, 1), (0, 0), (0, 1), (1, 0), (100, 100), (100, 0), (100, 1)]
OPEN = "--first-frame 0 (frame 1 is 00001.png) or --first-frame 1 (frame 1 is 00000.png)"


def make(folder, pictures: int, rows: int, count: int = PICTURES):
    """A sequence of grey pictures and `boxes.txt`, with two people in each of the first `count` frames."""
    (folder / "img1").mkdir(parents=True)
    lines = []
    for place in range(PICTURES):
        grey = np.full((80, 160, 3), 20 + 20 * place, np.uint8)
        Image.fromarray(grey).save(folder / "img1" / f"{pictures + place:05d}.png")
        if place < count:
            lines += [f"{rows + place},{person},{5 + 80 * person},5,{30 + place},60,0.9" for person in (0, 1)]
    (folder / "boxes.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """What the commands print and write for all sequences at once, and what they say of one that is open."""
    root = tmp_path_factory.mktemp("counted")
    folders = [make(root / f"from{pictures}and{rows}", pictures, rows) for pictures, rows in COUNTED]
    boxes = [folder / "boxes.txt" for folder in folders]
    undecided = make(root / "undecided", 0, 1, PICTURES - 1)
    weights = ("--weights", write_checkpoint(root / "best.pth", "osnet_x0_25"))
    crops, said = ("--min-images", 1, "--test-ratio", 0), ("--first-frame", 0)
    commands = {
        "crops": ("datasets.py", "crops", *folders, "--tracks", *boxes, "people", *crops),
        "track": ("examples/track_mot.py", *folders, "--detections", *boxes, *weights),
        "features": ("feature_extractor.py", *folders, "--detections", *boxes, *weights, "--cpu"),
        "crops open": ("datasets.py", "crops", undecided, "out", "--tracks", undecided / "boxes.txt", *crops),
        "track open": ("examples/track_mot.py", undecided, "--detections", undecided / "boxes.txt", *weights),
        "features open": ("feature_extractor.py", undecided, "--detections", undecided / "boxes.txt", *weights),
        "crops said": ("datasets.py", "crops", undecided, "said", "--tracks", undecided / "boxes.txt", *crops, *said),
    }
    results = run_all(commands.values(), root, root / "printed")
    return root, dict(zip(commands, results, strict=True))


def shown(root) -> dict[tuple[int, int], int]:
    """Sequence and frame in a crop's name -> place of the picture; the crop's width must tell the same one."""
    found = {}
    for path in root.glob("train/*/*.jpg"):
        _, camera, frame, _ = path.stem.split("_")
        crop = np.asarray(Image.open(path)).astype(float)
        found[int(camera[1:]), int(frame)] = round((crop.mean() - 20) / 20), crop.shape[1] - 30
    return found


def test_crops(done):
    root, results = done
    assert results["crops"].code == 0, results["crops"].stderr
    places = {
        (n, first + place): (place, place) for n, (first, _) in enumerate(COUNTED, 1) for place in range(PICTURES)
    }
    assert shown(root / "people") == places
    assert "boxes.txt; frame 0 is the first image, 00001.png" in results["crops"].stdout


def test_features(done):
    root, results = done
    assert results["features"].code == 0, results["features"].stderr
    for first, rows in COUNTED:
        table = np.load(root / "detections" / f"from{first}and{rows}.npy")
        assert table[:, 0].tolist() == [first + place for place in range(PICTURES) for _ in (0, 1)]
        if (first, rows) == COUNTED[0]:
            wanted = table[:, 1:]
        np.testing.assert_array_equal(table[:, 1:], wanted)


def test_tracks_have_the_frame_numbers_of_the_detections(done):
    root, results = done
    assert results["track"].code == 0, results["track"].stderr
    for first, rows in COUNTED:
        table = np.loadtxt(root / "tracks" / f"from{first}and{rows}.txt", delimiter=",")
        assert len(table) == 2 * (PICTURES - 2)  # from the third picture on
        np.testing.assert_array_equal(table[:, 0] - rows, table[:, 4] - 30)


@pytest.mark.parametrize("command", ["crops", "track", "features"])
def test_what_is_open_is_asked(done, command):
    assert_one_line_error(
        done[1][f"{command} open"],
        "undecided/boxes.txt: numbers its frames 1 to 7, and the sequence has 8 images",
        OPEN,
    )
    assert not (done[0] / "out").exists()


def test_the_answer_counts(done):
    root, results = done
    assert results["crops said"].code == 0, results["crops said"].stderr
    assert shown(root / "said") == {(1, place): (place, place - 1) for place in range(1, PICTURES)}


def test_the_tracker_looks_at_the_right_pictures(done):
    for first, rows in COUNTED:
        sequence = Sequence(done[0] / f"from{first}and{rows}")
        recording = track_mot.record(sequence, sequence.read(sequence.folder / "boxes.txt", DETECTIONS))
        crops = [crop for batch in track_mot.batches(recording) for crop in batch]
        assert [(crop.mean() - 20) / 20 for crop in crops] == [crop.shape[1] - 30 for crop in crops]
        assert len(crops) == 2 * PICTURES


def test_halves_of_a_sequence_count_as_the_pictures_do(tmp_path):
    """The first half for `track_table.py`: an odd number of pictures, annotations from 1, detections from 0."""
    table = benchmark("track_table")
    folder = make(tmp_path / "street", 0, 0)
    (folder / "img1" / f"{PICTURES - 1:05d}.png").unlink()
    (folder / "det").mkdir()
    lines = (folder / "boxes.txt").read_text().splitlines()
    (folder / "det" / "det.txt").write_text("\n".join(lines[:-2]) + "\n")
    annotate(folder, people=2, frames=PICTURES - 1)
    half = table.first_half(folder, tmp_path / "halves", Reading())
    sequence = Sequence(half, Reading("name"))
    assert list(sequence.frames) == [0, 1, 2] == list(range(track_mot.first_frames(PICTURES - 1)))
    assert np.unique(sequence.detections.frame).tolist() == [0, 1, 2] == np.unique(sequence.annotations.frame).tolist()
    assert (half / "det" / "det.txt").read_text().splitlines() == lines[:6]
