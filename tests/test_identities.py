"""Identity 0 is a person where a query has it and a distractor elsewhere, for every part of the collection alike."""

import numpy as np
import pytest
import torch
from conftest import call_script, make_market, paint

import evaluate
from appearance import identities
from appearance.data import check, layouts, provenance
from appearance.data.layouts import Sample
from appearance.measure import calibrate, features_file, metrics, protocols


def market(root, rows) -> layouts.ReIDData:
    """A Market-1501 tree of small images: rows of (folder, identity, camera)."""
    for number, (folder, pid, camera) in enumerate(rows):
        paint(root / folder / f"{pid:04d}_c{camera}s1_{100 * number:06d}_00.jpg", seed=number)
    return layouts.find(root)


def features(rows, size=8) -> dict:
    """A checked features dict of random vectors: rows of (side, identity, camera)."""
    data, random = {}, np.random.default_rng(0)
    for side in "qg":
        labels, cameras = np.array([row[1:] for row in rows if row[0] == side]).T
        vectors = torch.from_numpy(random.normal(size=(len(labels), size))).float()
        data |= {side + "f": torch.nn.functional.normalize(vectors), side + "l": labels, side + "c": cameras}
    return features_file.check(data)


def test_the_rule():
    assert identities.nobody([3, 5]) == {-1, 0}
    assert identities.nobody([3, 0]) == identities.nobody([0, -1]) == {-1}
    labels = torch.tensor([-1, 0, 3])
    assert identities.are_people(labels, torch.tensor([3])).tolist() == [False, False, True]
    assert identities.are_people(labels, torch.tensor([3, 0])).tolist() == [False, True, True]


def test_check_counts_the_person_called_0(tmp_path):
    """8 queries, 4 of them of person 0: each has an answer, as evaluate.py counts."""
    rows = [("query", pid, 1 + n % 2) for pid in (0, 7) for n in range(4)]
    rows += [("bounding_box_test", pid, 1 + n % 2) for pid in (0, 7) for n in range(4)]
    rows += [("bounding_box_train", pid, 1 + n % 2) for pid in (3, 4) for n in range(2)]
    data = market(tmp_path, rows)
    assert check.unmatched_queries(data.query, data.gallery) == []
    assert [problem.text for problem in check.find_problems(data)] == []
    query, gallery = check.summary(data).splitlines()[3:]
    assert query.split() == ["query", "2", "8", "2"]
    assert gallery.split() == ["gallery", "2", "8", "2"]


def test_only_person_0_is_asked_for(tmp_path):
    """Other people of the gallery are seen by one camera each: that no reason to leave the protocol."""
    rows = [("q", 0, 1), ("q", 0, 2), ("g", 0, 1), ("g", 0, 2), ("g", 1, 1), ("g", 2, 2)]
    data = features(rows)
    assert protocols.fitting("market1501", data) == ("market1501", None, [])
    features_file.save(tmp_path / "features.pth", data)
    done = call_script("evaluate.py", cwd=tmp_path)
    assert (done.code, done.stderr) == (0, "")
    assert "1 person" in done.stdout


@pytest.mark.parametrize("seed", range(40))
def test_check_and_evaluate_count_the_same_queries(seed):
    random = np.random.default_rng(seed)
    query, gallery = (
        [
            Sample(f"{side}{n}.jpg", int(pid), int(camera))
            for n, (pid, camera) in enumerate(random.integers([-1, 1], [3, 3 + seed % 2], (count, 2)))
        ]
        for side, count in (("q", 5), ("g", 8))
    )
    rows = [(side, s.pid, s.camera) for side, samples in (("q", query), ("g", gallery)) for s in samples]
    data = features(rows)
    name, _, _ = protocols.fitting("market1501", data)
    assert (name == "no-camera") == check.one_camera(
        s for s in query + gallery if s.pid not in identities.nobody(q.pid for q in query)
    )
    found = metrics.rank_queries(protocols.apply(name, data)[0])["correct"] > 0
    lost = check.unmatched_queries(query, gallery)
    assert [s for s, valid in zip(query, found.tolist(), strict=True) if not valid] == lost


def test_distractors_stay_distractors(tmp_path):
    """Market-1501's own: 0000 in the gallery alone."""
    data = layouts.find(make_market(tmp_path))
    assert check.summary(data).splitlines()[-1].endswith("and 1 distractors, 1 junk")
    assert {s.pid for s in data.tested()} == {5, 6, 7}
    whole = layouts.merged([data, layouts.find(make_market(tmp_path / "other"))])
    assert [s.path for s in whole.tested()] == [s.path for s in data.tested()]
    assert sorted(s.pid for s in whole.gallery)[:2] == [identities.JUNK, identities.DISTRACTOR]


def test_person_0_among_the_training_images(tmp_path):
    """`train.py` trains on person 0, so `check` counts it; the gallery's 0000 are still distractors."""
    rows = [("bounding_box_train", pid, 1 + n) for pid in (0, 1, 2) for n in range(2)]
    rows += [("query", 7, 1), ("bounding_box_test", 7, 2), ("bounding_box_test", 0, 2)]
    data = market(tmp_path, rows)
    train, _, gallery = check.summary(data).splitlines()[2:]
    assert train.split() == ["train", "3", "6", "2"]
    assert gallery.split() == ["gallery", "1", "1", "1", "and", "1", "distractors"]
    assert not [problem for problem in check.find_problems(data) if "both train" in problem.text]
    whole = layouts.merged([data])
    assert len(whole.train_pids()) == 3
    assert [s.pid for s in whole.gallery if "0000_" in s.path] == [identities.DISTRACTOR]
    assert identities.DISTRACTOR not in whole.train_pids()


def test_person_0_in_train_and_test_is_named(tmp_path):
    rows = [("bounding_box_train", pid, 1 + n) for pid in (0, 1) for n in range(2)]
    rows += [("query", 0, 1), ("bounding_box_test", 0, 2), ("query", 7, 1), ("bounding_box_test", 7, 2)]
    data = market(tmp_path, rows)
    (text,) = (problem.text for problem in check.find_problems(data))
    assert text == "1 identity in both train and query/gallery: 0000; move each to one side"
    met = provenance.people_met(provenance.describe(data), ["0000", "0001"], data)
    assert met == {0}


def test_mars_trains_on_person_0(tmp_path):
    for pid in ("0000", "0001", "00-1"):
        for camera in (1, 2):
            paint(tmp_path / "bbox_train" / pid / f"{pid}C{camera}T0001F001.jpg")
    assert layouts.find(tmp_path).train_pids() == [0, 1]


@pytest.mark.parametrize("name", ["0", "00", "0000"])
def test_class_folders_called_0_are_people(tmp_path, name):
    for person in (name, "7"):
        for split, camera in (("query", 1), ("gallery", 2)):
            paint(tmp_path / split / person / f"x_cam{camera}_1.jpg")
    paint(tmp_path / "gallery" / "-1" / "x_cam2_1.jpg")
    data = layouts.find(tmp_path)
    assert {data.names[s.pid] for s in data.tested()} == {name, "7"}
    assert check.unmatched_queries(data.query, data.gallery) == []


def test_calibration_takes_person_0_for_a_person_and_leaves_junk_out():
    rows = [("q", pid, 1) for pid in (0, 1, 2, -1, -1)] + [("g", pid, 1) for pid in (0, 0, 1, 2, -1)]
    found = calibrate.calibrate(features(rows))
    group = found["groups"]["all"]
    assert (found["identities"], group["same_pairs"], group["different_pairs"]) == (3, 3 + 1 + 1, 21 - 5)
    rows = [("q", pid, 1) for pid in (1, 2)] + [("g", pid, 1) for pid in (0, 0, 1, 2)]
    found = calibrate.calibrate(features(rows))
    group = found["groups"]["all"]
    assert (found["identities"], group["same_pairs"], group["different_pairs"]) == (2, 2, 4 + 8)


def test_rank_metrics_counts_person_0():
    data = features([("q", 0, 1), ("q", 5, 1), ("g", 0, 2), ("g", 5, 2)])
    found = evaluate.rank_metrics(*(data[key] for key in ("qf", "ql", "qc", "gf", "gl", "gc")))
    assert (found["valid_queries"], found["identities"]) == (2, 2)
