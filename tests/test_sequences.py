"""Sequences as MOTChallenge, CVAT and trackers write them."""

import numpy as np
import pytest
from sequences import add_row, annotate, make_sequence, place

from appearance.cli import InputError
from appearance.data.sequences import NO_CLASS, Sequence, read_boxes, result_lines


@pytest.fixture
def folder(tmp_path):
    return make_sequence(tmp_path / "street", frames=3)


# -- tables


@pytest.mark.parametrize(
    ("tail", "kind", "visibility", "confidence"),
    [
        ("1,1,0.25", 1, 0.25, 1),  # MOT16, 17, 20
        ("0,7,1", 7, 1, 0),
        ("1,-1,-1,-1", NO_CLASS, np.nan, 1),  # MOT15, results
        ("1,-10.2,3.5,0", NO_CLASS, np.nan, 1),  # MOT15 with places
        ("0.75", NO_CLASS, np.nan, 0.75),  # detections of 7 columns
        ("", NO_CLASS, np.nan, 1),
    ],
)
@pytest.mark.parametrize("separator", [",", " ", ", ", "\t"])
def test_columns_after_the_box(folder, tail, kind, visibility, confidence, separator):
    rows = read_boxes(annotate(folder, tail, people=2, frames=3, separator=separator))
    assert len(rows) == 6
    assert rows.frame.tolist() == [1, 1, 2, 2, 3, 3]
    assert rows.track.tolist() == [11, 12] * 3
    np.testing.assert_array_equal(rows.box[1], place(1, 1))
    assert set(rows.kind.tolist()) == {kind}
    np.testing.assert_array_equal(rows.visibility, np.full(6, visibility))
    np.testing.assert_array_equal(rows.confidence, np.full(6, confidence))


def test_rows_by_frame(folder):
    rows = read_boxes(annotate(folder, people=2, frames=3)).by_frame()
    assert list(rows) == [1, 2, 3]
    assert rows[2].track.tolist() == [11, 12]


def test_a_table_without_rows(tmp_path):
    (tmp_path / "det.txt").write_text("\n")
    assert len(read_boxes(tmp_path / "det.txt")) == 0
    assert read_boxes(tmp_path / "det.txt").by_frame() == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2,3,4,5\n", "5 columns"),
        ("1,2,3,4,five,6\n", "not a table"),
        ("1,2,3,4,5,6\n1,2,3\n", "not a table"),
        ("1,1,3,4,5,6\n1,1,nan,4,5,6\n", "row 2"),
        ("1.5,1,3,4,5,6\n", "row 1"),
    ],
)
def test_broken_tables_are_named(tmp_path, text, words):
    (tmp_path / "gt.txt").write_text(text)
    with pytest.raises(InputError, match=rf"gt\.txt: .*{words}"):
        read_boxes(tmp_path / "gt.txt")


def test_results_are_read_as_written(tmp_path):
    (tmp_path / "a.txt").write_text(result_lines([3, 4], [7, 8], np.array([[1.25, 2, 3, 4], [5, 6, 7, 8]])))
    rows = read_boxes(tmp_path / "a.txt")
    assert (rows.frame.tolist(), rows.track.tolist()) == ([3, 4], [7, 8])
    np.testing.assert_array_equal(rows.box, [[1.25, 2, 3, 4], [5, 6, 7, 8]])
    assert (rows.kind == NO_CLASS).all()


# -- folders


def test_frames_by_the_digits_that_end_their_names(tmp_path):
    sequence = Sequence(make_sequence(tmp_path / "a", frames=3, name="cam2_frame_{:06d}.jpg"))
    assert list(sequence.frames) == [1, 2, 3]
    assert sequence.frames[2].name == "cam2_frame_000002.jpg"
    assert (sequence.name, sequence.rate) == ("a", 25)


def test_files_from_0_are_counted_from_1(tmp_path):
    """CVAT calls the first frame frame_000000 and gives it the number 1 in gt.txt."""
    folder = make_sequence(tmp_path / "a", frames=3, name="frame_{:06d}.jpg", first=0)
    assert {number: path.name for number, path in Sequence(folder).frames.items()}[1] == "frame_000000.jpg"
    add_row(annotate(folder, frames=3), 0, 11, 5, 5, 24, 64, 1, 1, 1)
    assert Sequence(folder).frames[0].name == "frame_000000.jpg"


def test_seqinfo(folder):
    (folder / "img1").rename(folder / "pictures")
    (folder / "seqinfo.ini").write_text("[Sequence]\nname=MOT-1\nimDir=pictures\nframeRate=7\nseqLength=3\n")
    sequence = Sequence(folder)
    assert (sequence.name, sequence.rate, len(sequence.frames)) == ("MOT-1", 7, 3)


def test_what_is_no_sequence(tmp_path, folder):
    (tmp_path / "my walk.mp4").write_bytes(b"")
    ffmpeg = r"mkdir -p '.*my walk/img1' && ffmpeg -i '.*my walk.mp4' -q:v 2 '.*my walk/img1/%06d.jpg'"
    with pytest.raises(InputError, match=ffmpeg):
        Sequence(tmp_path / "my walk.mp4")
    with pytest.raises(InputError, match="no such sequence"):
        Sequence(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"name the sequences in it, such as .*street"):
        Sequence(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "walk.avi").write_bytes(b"")
    with pytest.raises(InputError, match=r"has no img1/.*ffmpeg -i .*walk.avi -q:v 2 .*empty/img1/%06d.jpg"):
        Sequence(empty)
    with pytest.raises(InputError, match=r"gt.txt: missing.*--tracks"):
        _ = Sequence(folder).annotations


def test_classes_of_motchallenge(folder):
    path = annotate(folder, "1,1,1", people=2, frames=3)
    add_row(path, 1, 20, 0, 0, 50, 50, 0, 3, 1)
    add_row(path, 1, 21, 0, 0, 50, 50, 0, 1, 1)
    sequence = Sequence(folder)
    rows = sequence.annotations
    assert sequence.people().track.tolist() == [11, 12] * 3  # neither the car nor who is not to be considered
    for names in (["car"], ["3"], ["Car"]):
        cars = rows[sequence.of_classes(rows, names)[0]]
        assert cars.track.tolist() == [20]
        assert sequence.considered(cars, names).all()  # the flag says nothing of a class that has none set
    with pytest.raises(InputError, match=r"--classes bus: no class .* pedestrian, person on vehicle, car"):
        sequence.of_classes(rows, ["bus"])


def test_classes_of_cvat(folder):
    """labels.txt names them; class numbers are its lines."""
    annotate(folder, "1,2,1", people=2, frames=3)
    (folder / "gt" / "labels.txt").write_text("dog\nPerson\n")
    assert len(Sequence(folder).people()) == 6
    (folder / "gt" / "labels.txt").write_text("dog\nworker\n")
    with pytest.raises(InputError, match=r"--classes choose what to keep .* it has dog, worker"):
        Sequence(folder).people()
    sequence = Sequence(folder)
    assert sequence.of_classes(sequence.annotations, ["worker"])[0].all()
