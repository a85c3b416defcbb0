"""Sequences as MOTChallenge, CVAT and trackers write them."""

import numpy as np
import pytest
from sequences import add_row, annotate, make_sequence, place

from appearance.cli import InputError
from appearance.data.boxes import ANNOTATIONS, DETECTIONS, NO_CLASS, TRACKS, read_boxes, result_lines
from appearance.data.numbering import Undecided, file_numbers, first_number, picture_numbers
from appearance.data.sequences import Reading, Sequence


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
        ("frame,id,left,top,width,height\n1,2,3,4,5,6\n", r"is a header \(frame,id,left.*delete it"),
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


@pytest.mark.parametrize(
    ("role", "tail", "kind", "visible"),
    [
        (TRACKS, "1,1,0.25", 1, np.nan),  # BoxMOT: class, confidence
        (TRACKS, "0.9,3,7", 3, np.nan),  # BoxMOT: confidence, class, number of the detection
        (TRACKS, "0.9,3,-1", 3, np.nan),
        (TRACKS, "1,-1,-1,-1", NO_CLASS, np.nan),  # DeepSORT
        (TRACKS, "0.9,0,0,0", NO_CLASS, np.nan),
        (TRACKS, "0.9,4,-1,-1", 4, np.nan),  # VisDrone's results
        (DETECTIONS, "0.9,3", 3, np.nan),
        (DETECTIONS, "0.9,-3.7,-7.2,0", NO_CLASS, np.nan),
        (ANNOTATIONS, "0.9,0,0,0", NO_CLASS, np.nan),
        (ANNOTATIONS, "1,4,0,1", 4, np.nan),  # VisDrone: category, truncation, occlusion
        (ANNOTATIONS, "1,4,1,2", 4, np.nan),
        (ANNOTATIONS, "1,4,0,0", 4, np.nan),
        (ANNOTATIONS, "1,4,0.5", 4, 0.5),
        (ANNOTATIONS, "1,0,0.5", NO_CLASS, 0.5),  # classes from 0, and one alone
        (ANNOTATIONS, "1,4,-1", 4, np.nan),
        (ANNOTATIONS, "1,4", 4, np.nan),
    ],
)
def test_dialects(folder, role, tail, kind, visible):
    rows = read_boxes(annotate(folder, tail, people=2, frames=3), role)
    assert set(rows.kind.tolist()) == {kind}
    np.testing.assert_array_equal(rows.visibility, np.full(6, visible))
    assert set(rows.confidence.tolist()) == {float(tail.split(",")[0])}


def test_visdrone_has_classes_of_its_own(folder):
    path = annotate(folder, "1,1,0,1", people=2, frames=3)
    for track, kind in ((20, 2), (21, 4), (0, 0)):
        add_row(path, 1, track, 0, 0, 50, 50, 1 if kind else 0, kind, 1, 2)
    sequence = Sequence(folder)
    assert set(sequence.people().track.tolist()) == {11, 12, 20}  # pedestrians and people
    assert sequence.people(["car"]).track.tolist() == [21]
    path.write_text("1,5,0,0,50,50,1,4,0,1\n")
    with pytest.raises(InputError, match=r"not of class pedestrian, people; choose from car \(4\)"):
        Sequence(folder).people()


def test_a_binary_ninth_column_of_ten_is_asked_about(folder):
    path = annotate(folder, "1,1,0,0", people=1, frames=3)
    add_row(path, 1, 30, 0, 0, 50, 50, 1, 1, 1, 0)
    with pytest.raises(InputError, match=r"gt.txt: .*visibility or VisDrone's truncation.*--gt-columns"):
        _ = Sequence(folder).annotations
    names = "frame,track,left,top,width,height,confidence,class"
    for end, wanted in (("visibility,-", [0, 1, 0, 0]), ("-,-", [np.nan] * 4)):
        rows = Sequence(folder, Reading(gt_columns=f"{names},{end}")).annotations
        np.testing.assert_array_equal(rows.visibility, wanted)
    (folder / "gt" / "labels.txt").write_text("person\n")
    np.testing.assert_array_equal(Sequence(folder).annotations.visibility, [0, 1, 0, 0])


def as_fractions(folder, centre: bool, people: int = 4):
    """The rows of `place` as shares of the frame, the first two of the centre or of the corner."""
    rows = []
    for frame in (1, 2, 3):
        for person in range(4 - people, 4):
            left, top, width, height = place(person, frame)
            x, y = (left + width / 2, top + height / 2) if centre else (left, top)
            rows.append(f"{frame},{person},{x / 160:.6f},{y / 120:.6f},{width / 160:.6f},{height / 120:.6f},0.9")
    path = folder / "det" / "det.txt"
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("centre", [True, False])
def test_fractions_of_the_frame(folder, centre):
    as_fractions(folder, centre)
    rows = Sequence(folder).detections
    np.testing.assert_allclose(rows.box[5], place(1, 2), atol=1e-3)
    assert rows.source.notes == ("boxes are fractions of the frame, scaled to 160x120 pixels",)


def test_fractions_that_may_be_of_the_corner_or_of_the_centre(folder):
    path = folder / "det" / "det.txt"
    path.write_text("1,-1,0.4,0.5,0.2,0.4,0.9\n")
    with pytest.raises(InputError, match=r"det.txt: the boxes are fractions .*--columns frame,.* or --columns frame,"):
        _ = Sequence(folder).detections
    corner, centre = (
        Sequence(folder, Reading(columns=f"frame,track,{names},width,height")).detections
        for names in ("left,top", "centre-x,centre-y")
    )
    np.testing.assert_allclose(corner.box, [[64, 60, 32, 48]])
    np.testing.assert_allclose(centre.box, [[48, 36, 32, 48]])


def test_columns_that_the_user_names(folder):
    path = folder / "det" / "det.txt"
    path.write_text("7,1,3,10,20,40,80,0.5\n")
    rows = Sequence(folder, Reading(columns="track,frame,class,left,top,right,bottom,confidence")).detections
    assert (rows.frame[0], rows.track[0], rows.kind[0], rows.confidence[0]) == (1, 7, 3, 0.5)
    assert rows.box.tolist() == [[10, 20, 30, 60]]
    for names, words in (
        ("frame,track,left,top,width", "name top and height"),
        ("track,left,top,width,height", "the column frame is missing"),
        ("frame,id,left,top,width,height", "unknown column id"),
        ("frame,frame,left,top,width,height", "twice"),
        ("frame,track,left,top,width,height,-,-,-", "names 9 columns"),
    ):
        with pytest.raises(InputError, match=f"--columns: .*{words}"):
            _ = Sequence(folder, Reading(columns=names)).detections


def test_label_files_of_ultralytics(folder):
    labels = folder / "labels"
    labels.mkdir()
    (labels / "street_1.txt").write_text("2 0.25 0.5 0.1 0.4 7\n0 0.5 0.5 0.1 0.4 8\n")
    (labels / "street_3.txt").write_text("2 0.25 0.5 0.1 0.4 0.8 7\n")
    (labels / "street_2.txt").write_text("2 0.25 0.5 0.1 0.4 0.6\n")
    rows = Sequence(folder).read(labels, TRACKS)
    assert rows.frame.tolist() == [1, 1, 2, 3]
    assert (rows.track.tolist(), rows.kind.tolist()) == ([7, 8, -1, 7], [2, 0, 2, 2])
    np.testing.assert_allclose(rows.confidence, [1, 1, 0.6, 0.8])
    np.testing.assert_allclose(rows.box[0], [32, 36, 16, 48])
    with pytest.raises(InputError, match=r"street_1.txt: .*YOLO label file .*no frame numbers; give the folder"):
        Sequence(folder).read(labels / "street_1.txt", TRACKS)


def test_boxes_that_no_network_should_see(folder):
    path = folder / "det" / "det.txt"
    path.write_text("1,-1,5,5,0,40,1\n1,-1,5,5,30,-4,1\n1,-1,200,5,30,40,1\n1,-1,-30,5,30,40,1\n3,-1,-29,5,30,40,1\n")
    sequence = Sequence(folder)
    rows, said = sequence.usable(sequence.detections)
    assert rows.frame.tolist() == [3]
    assert said == ("2 of 5 boxes have no width or height", "2 of 5 boxes have no part inside the frame")


# -- folders


def test_frames_by_the_digits_that_end_their_names(tmp_path):
    sequence = Sequence(make_sequence(tmp_path / "a", frames=3, name="cam2_frame_{:06d}.jpg"))
    assert list(sequence.frames) == [1, 2, 3]
    assert sequence.frames[2].name == "cam2_frame_000002.jpg"
    assert (sequence.name, sequence.rate) == ("a", 25)


ASK = "ask"


@pytest.mark.parametrize(
    ("names", "frames", "first"),
    [
        (range(1, 41), range(1, 41), None),
        (range(1, 41), range(5, 30), None),  # MOTChallenge: nobody at first and at last
        (range(1, 41), range(1, 80), None),  # some of the pictures of a longer sequence
        (range(1, 41), range(40), 0),
        (range(1, 41), [0, 7], 0),
        (range(1, 41), range(41), ASK),  # 41 frames of 40 pictures
        (range(40), range(40), None),
        (range(40), [0, 7], None),
        (range(40), range(80), None),
        (range(40), range(1, 41), 1),
        (range(40), [7, 40], 1),
        (range(40), range(1, 40), ASK),  # nobody in the first picture, or in the last
        (range(40), range(1, 80), ASK),
        (range(100, 140), range(100, 140), None),
        (range(100, 140), range(120, 130), None),
        (range(100, 140), range(1, 200), None),
        (range(100, 140), range(1, 41), 1),
        (range(100, 140), range(40), 0),
        (range(100, 140), range(10, 20), ASK),
        (range(3, 43), range(3, 20), None),
        (range(3, 43), range(5, 20), ASK),
        (range(0, 100, 5), range(0, 100, 5), None),
        (range(1, 100, 5), range(1, 500), None),
        (range(1, 100, 5), range(20), 0),
        (range(1, 100, 5), range(1, 21), ASK),  # the fifth picture, or the fifth frame of which there is no picture
        ([1, 2, 4, 5], [1, 2, 3, 4, 5], None),
        ([1, 2, 4, 5], [1, 2, 3, 4], ASK),
        (range(40), [], None),
    ],
)
def test_which_picture_a_frame_number_means(names, frames, first):
    frames, names = np.array(frames, dtype=int), list(names)
    if first == ASK:
        with pytest.raises(Undecided) as error:
            first_number(frames, names)
        answers = error.value.readings
        assert len(answers) > 1
        assert {flag: first_number(frames, names, flag) for flag in answers} == answers
    else:
        assert first_number(frames, names) == first


def test_the_numbers_of_pictures():
    names = [10, 20, 30]
    assert picture_numbers(np.array([1, 2, 3]), names, 1).tolist() == names
    assert picture_numbers(np.array([0, 2]), names, None).tolist() == [0, 2]
    assert not set(picture_numbers(np.array([-9, -1, 3, 10, 20, 30]), names, 0)) & set(names)
    assert file_numbers(names, 0) == {10: 0, 20: 1, 30: 2}


def test_each_file_counts_on_its_own(tmp_path):
    """Pictures from 0, annotations as CVAT counts them, from 1, detections from 0."""
    folder = make_sequence(tmp_path / "a", frames=3, name="frame_{:06d}.jpg", first=0)  # detections 1 to 3
    det = folder / "det" / "det.txt"
    annotate(folder, frames=3)
    det.write_text("".join(f"{frame},-1,{frame},2,30,40,0.9\n" for frame in (0, 1)))
    sequence = Sequence(folder)
    assert sequence.frames[0].name == "frame_000000.jpg"
    assert np.unique(sequence.annotations.frame).tolist() == [0, 1, 2]
    assert sequence.detections.frame.tolist() == [0, 1]
    assert sequence.annotations.source.notes == ("frame 1 is the first image, frame_000000.jpg",)
    det.write_text("1,-1,5,2,30,40,0.9\n")
    with pytest.raises(
        InputError, match=r"det.txt: numbers its frames 1 to 1, .* 3 images.*0 \(frame 1 is frame_000001.jpg"
    ):
        _ = Sequence(folder).detections
    assert Sequence(folder, Reading("1")).detections.frame.tolist() == [0]
    assert Sequence(folder, Reading("0")).detections.frame.tolist() == [1]
    assert "does not fit" in Sequence(folder, Reading("0")).annotations.source.notes[0]
    (folder / "gt" / "gt.txt").write_text("1,1,5,2,30,40,1,1,1\n2,1,5,2,30,40,1,1,1\n")
    with pytest.raises(InputError, match=r"gt.txt: .*--first-frame 0 .* or --first-frame 1 "):
        _ = Sequence(folder).annotations
    (folder / "gt" / "labels.txt").write_text("person\n")  # of CVAT, which calls frame_000000 frame 1
    assert Sequence(folder).annotations.frame.tolist() == [0, 1]


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
    with pytest.raises(InputError, match="no such folder"):
        Sequence(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"give the sequences inside it, such as .*street"):
        Sequence(tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "walk.avi").write_bytes(b"")
    with pytest.raises(InputError, match=r"has no folder img1/.*ffmpeg -i .*walk.avi -q:v 2 .*empty/img1/%06d.jpg"):
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
    with pytest.raises(InputError, match=r"--classes bus: unknown class; .* pedestrian, person on vehicle, car"):
        sequence.of_classes(rows, ["bus"])


def test_classes_of_cvat(folder):
    """labels.txt names them; class numbers are its lines."""
    annotate(folder, "1,2,1", people=2, frames=3)
    (folder / "gt" / "labels.txt").write_text("dog\nPerson\n")
    assert len(Sequence(folder).people()) == 6
    (folder / "gt" / "labels.txt").write_text("dog\nworker\n")
    with pytest.raises(InputError, match=r"--classes is needed: .* has dog, worker"):
        Sequence(folder).people()
    sequence = Sequence(folder)
    assert sequence.of_classes(sequence.annotations, ["worker"])[0].all()
    add_row(folder / "gt" / "gt.txt", 1, 30, 0, 0, 50, 50, 1, 0, 1)
    with pytest.raises(InputError, match=r"gt.txt has a class 0, .* give numbers: --classes 0 2"):
        Sequence(folder).people(["worker"])
    assert Sequence(folder).people(["0"]).track.tolist() == [30]


def test_results_that_begin_late_may_count_from_0():
    """A tracker confirms its first track after a few frames; the files of a sequence count from 1 by custom."""
    frames, names = np.arange(5, 139), list(range(1, 151))
    assert first_number(frames, names) is None
    with pytest.raises(Undecided) as asked:
        first_number(frames, names, by_custom=False)
    assert asked.value.readings == {"0": 0, "1": None}
    assert first_number(frames, names, said="0", by_custom=False) == 0
    for only_by_name in (np.arange(1, 139), np.arange(5, 151)):
        assert first_number(only_by_name, names, by_custom=False) is None
