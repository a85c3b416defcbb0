"""Recognised after a gap: by hand, against plain Python, and through evaluate.py."""

import json

import pytest
import torch
from conftest import assert_one_line_error, call_script

from appearance.cli import InputError
from appearance.measure import features_file, protocols, reappear
from appearance.measure.calibrate import calibrate
from appearance.measure.metrics import ranked_list, summary


def features(queries, gallery, directions: int = 4) -> dict:
    """Rows of (angle in degrees, identity, camera, time)."""
    data = {}
    for side, rows in (("q", queries), ("g", gallery)):
        angle, label, camera, time = torch.tensor(rows, dtype=torch.float64).T
        data[side + "f"] = torch.stack([angle.deg2rad().cos(), angle.deg2rad().sin()], 1).float()
        data |= {side + "l": label.long(), side + "c": camera.long(), side + "t": time.long()}
    return features_file.check(data)


BY_HAND = features(
    [(0, 1, 1, 100)],
    [
        (1, 1, 1, 101),  # the next frame: an easy match
        (30, 1, 1, 200),
        (60, 1, 1, 900),
        (20, 2, 1, 100),  # another person at the same time
        (50, 3, 1, 5000),
        (5, 2, 2, 100),  # another camera, of which nothing counts
        (6, 1, 2, 900),
        (7, -1, 1, 300),  # junk
    ],
)


@pytest.mark.parametrize(
    ("gap", "rank1", "precision"),
    [
        (0, 1, (1 + 2 / 3 + 3 / 5) / 3),
        (1, 1, (1 + 2 / 3 + 3 / 5) / 3),
        (2, 0, (1 / 2 + 2 / 4) / 2),
        (100, 0, (1 / 2 + 2 / 4) / 2),
        (101, 0, 1 / 3),
        (800, 0, 1 / 3),
    ],
)
def test_by_hand(gap, rank1, precision):
    results, curve, lines = reappear.rank(BY_HAND, gap)
    found = summary(results)
    assert (found["rank1"], found["valid_queries"]) == (rank1, 1)
    assert found["mAP"] == pytest.approx(precision)
    assert lines == []
    assert {"gap": gap, "rank1": rank1, "mAP": pytest.approx(precision), "queries": 1} in curve
    assert [point["gap"] for point in curve] == sorted({gap, 1, 2, 5, 10, 20, 50, 100, 200, 500})


def test_nobody_is_away_so_long():
    with pytest.raises(InputError, match=r"--gap 801: nobody reappears .* largest possible gap is 800"):
        reappear.rank(BY_HAND, 801)


def test_unknown_times():
    data = BY_HAND | {"gt": BY_HAND["gt"].clone()}
    data["gt"][0] = -1
    results, _, lines = reappear.rank(data, 1)
    assert summary(results)["rank1"] == 0
    assert lines == ["1 of 8 gallery images are ignored: no camera or frame in their file names"]
    with pytest.raises(InputError, match="no query image has them"):
        reappear.rank(data | {"qt": torch.tensor([-1])}, 1)


@pytest.fixture(scope="module")
def random_features():
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(13, 16, generator=generator)
    data = {}
    for side, count in (("q", 70), ("g", 400)):
        label = torch.randint(1, 13, (count,), generator=generator)
        rows = people[label] + 1.2 * torch.randn(count, 16, generator=generator)
        data |= {side + "f": torch.nn.functional.normalize(rows), side + "l": label}
        data[side + "c"] = torch.randint(1, 3, (count,), generator=generator)
        data[side + "t"] = torch.randint(0, 300, (count,), generator=generator)
    return features_file.check(data)


def plain(data: dict, gap: int) -> tuple[float, float]:
    """Rank-1 and mAP image by image."""
    first, precisions = [], []
    for query, scores in enumerate((data["qf"] @ data["gf"].T).tolist()):
        ranked = []
        for image, score in enumerate(scores):
            if data["gc"][image] == data["qc"][query]:
                own = bool(data["gl"][image] == data["ql"][query])
                if not own or abs(data["gt"][image] - data["qt"][query]) >= gap:
                    ranked.append((-score, own))
        hits = [rank for rank, (_, own) in enumerate(sorted(ranked), start=1) if own]
        if hits:
            first.append(hits[0] == 1)
            precisions.append(sum(k / rank for k, rank in enumerate(hits, start=1)) / len(hits))
    return sum(first) / len(first), sum(precisions) / len(precisions)


@pytest.mark.parametrize("gap", [1, 50, 250])
def test_against_plain_python(random_features, gap):
    results, curve, _ = reappear.rank(random_features, gap)
    found = summary(results)
    assert (found["rank1"], found["mAP"]) == pytest.approx(plain(random_features, gap))
    for point in curve:
        assert (point["rank1"], point["mAP"]) == pytest.approx(plain(random_features, point["gap"]))


def test_ranked_lists_follow_the_gap():
    rows = [hit["row"] for hit in ranked_list(BY_HAND | {"gap": 150}, 0)]
    assert rows == [3, 4, 2]


def test_threshold_of_the_gap(random_features):
    """Same pairs at least so far apart, different ones at any time; by the sum over all pairs."""
    group = calibrate(random_features, gap=200)["groups"]["reappear"]
    label, camera, time = (torch.cat([random_features["q" + key], random_features["g" + key]]) for key in "lct")
    upper = torch.ones(470, 470).triu(1).bool() & (camera[:, None] == camera)
    same = label[:, None] == label
    apart = (time[:, None] - time).abs() >= 200
    assert group["same_pairs"] == int((upper & same & apart).sum())
    assert group["different_pairs"] == int((upper & ~same).sum())
    assert group["title"] == "same camera, same person at least 200 frames apart"
    assert "reappear" not in calibrate(random_features)["groups"]


# -- what training shows


def test_as_far_as_the_data_allow():
    """One camera: after a gap that half of the queries reach; without times any image; two cameras: as ever."""
    queries = [(0, 1, 1, 0), (90, 2, 1, 0)]
    gallery = [(80, 1, 1, 1), (10, 1, 1, 30), (5, 2, 1, 1), (85, 2, 1, 9)]
    data = features(queries, gallery)
    found = protocols.metrics(data)  # they come back after 30 and 9 frames: half of them after 10
    assert (found["valid_queries"], found["mAP"]) == (1, pytest.approx(1 / 2))
    found = protocols.metrics(data | {"qt": torch.full((2,), -1)})
    assert (found["valid_queries"], found["mAP"]) == (2, pytest.approx(((1 / 2 + 2 / 3) / 2 + (1 + 2 / 4) / 2) / 2))
    other = data | {"gc": torch.tensor([2, 1, 2, 1])}
    assert protocols.metrics(other)["mAP"] == pytest.approx((1 / 2 + 1 / 3) / 2)


# -- exactly so many frames later


def test_exactly_by_hand():
    queries = [(0, 1, 1, 60), (90, 2, 1, 60), (0, 3, 1, 60), (0, 1, 1, 61), (0, 1, 2, 120), (45, 1, 3, 60)]
    gallery = [(10, 1, 1, 90), (20, 2, 1, 90), (0, 1, 2, 150), (44, 2, 3, 90), (44, 1, 3, 90), (0, -1, 1, 90)]
    data, results, lines = reappear.at_exactly(features(queries, gallery), 30, 60)
    found = summary(results)
    # person 1 is nearest; 2 is nearest; 1 of camera 3 ties with another, who counts as nearer
    assert (found["valid_queries"], found["rank1"], found["mAP"]) == (3, 2 / 3, (1 + 1 + 1 / 2) / 3)
    assert data["ql"].tolist() == [1, 2, 1]
    assert lines == [
        "1 images are not queries: only one person is in view 30 frames later",
        "1 images are not queries: the person is not in view 30 frames later",
    ]
    rows = [hit["row"] for hit in ranked_list(data | {"exactly": 30}, 0)]
    assert [int(data["gl"][row]) for row in rows] == [1, 2]
    with pytest.raises(InputError, match="exactly 31 frames"):
        reappear.at_exactly(features(queries, gallery), 31, 60)
    with pytest.raises(InputError, match="identity 1 has two images in camera 1, frame 60"):
        reappear.at_exactly(features([*queries, queries[0]], gallery), 30, 60)


def by_reid(data: dict, gap: int, every: int):
    """What the package reid answers for the same crops, which it knows by their names."""
    pytest.importorskip("reid", reason="pip install reid")
    import numpy as np
    from reid.data.reassociation import _build_reassociation_candidates
    from reid.data.splits import ReIDSplit
    from reid.eval.metrics import _compute_reid_metrics, distance_matrix

    label, camera, time, rows = (torch.cat([data["q" + key], data["g" + key]]).numpy() for key in "lctf")
    paths = [f"s{c}_{one}/s{c}_{when}.jpg" for one, c, when in zip(label, camera, time, strict=True)]
    split = ReIDSplit(paths, label.astype(np.int32), camera.astype(np.int32))
    query, gallery, mask, _ = _build_reassociation_candidates(split, gap_frames=gap, query_stride=every)
    row = {path: number for number, path in enumerate(paths)}
    vectors = [rows[[row[path] for path in side.image_paths]] for side in (query, gallery)]
    ids = (query.pids, gallery.pids, query.camids, gallery.camids)
    found = _compute_reid_metrics(distance_matrix(*vectors), *ids, candidate_mask=mask, exclude_same_pid_camid=False)
    return found.rank1 / 100, found.mean_average_precision / 100, found.num_queries


@pytest.fixture(scope="module")
def walks():
    """People of two cameras, most of them in most frames; every one in a frame once."""
    generator = torch.Generator().manual_seed(1)
    rows = [(label, camera, time) for camera in (1, 2) for time in range(200) for label in range(1, 9)]
    rows = torch.tensor(rows)[torch.rand(len(rows), generator=generator) < 0.8]
    people = torch.randn(9, 16, generator=generator)
    vectors = people[rows[:, 0]] + 1.5 * torch.randn(len(rows), 16, generator=generator)
    vectors = torch.nn.functional.normalize(vectors)
    sides = {"q": slice(0, None, 3), "g": torch.arange(len(rows)) % 3 > 0}
    data = {}
    for side, part in sides.items():
        data |= {side + "f": vectors[part]} | {side + key: rows[part, n] for n, key in enumerate("lct")}
    return features_file.check(data)


OF_REID = {(30, 60): (0.3448275862, 0.5729885057, 29), (7, 10): (0.4271356784, 0.6276501555, 199)}  # version 0.1.0rc1


@pytest.mark.parametrize(("gap", "every"), OF_REID)
def test_equal_to_the_package_reid(walks, gap, every):
    found = summary(reappear.at_exactly(walks, gap, every)[1])
    assert (found["rank1"], found["mAP"], found["valid_queries"]) == pytest.approx(OF_REID[gap, every])


@pytest.mark.parametrize(("gap", "every"), OF_REID)
def test_equal_to_the_package_itself(walks, gap, every):
    assert by_reid(walks, gap, every) == pytest.approx(OF_REID[gap, every])


def test_evaluate_exactly(tmp_path, walks):
    features_file.save(tmp_path / "features.pth", walks)
    flags = ("--protocol", "reappear", "--exact", "--json", "m.json", "--report", "report")
    done = call_script("evaluate.py", *flags, cwd=tmp_path)
    assert done.code == 0, done.stderr
    metrics = json.loads((tmp_path / "m.json").read_text())
    found = summary(reappear.at_exactly(walks, 30, 60)[1])
    assert metrics["exact"] == {"gap": 30, "every": 60, "rank1": found["rank1"], "MRR": found["mAP"]}
    assert f"rank-1 {found['rank1']:.2%}, MRR {found['mAP']:.2%} ({found['valid_queries']} queries" in done.stdout
    assert_one_line_error(call_script("evaluate.py", "--exact", cwd=tmp_path), "--exact: needs --protocol reappear")
    wrong = call_script("evaluate.py", "--protocol", "reappear", "--every", 5, cwd=tmp_path)
    assert_one_line_error(wrong, "--every: has no effect without --exact")


# -- evaluate.py


def test_evaluate(tmp_path, random_features):
    features_file.save(tmp_path / "features.pth", random_features)
    done = call_script(
        *("evaluate.py", "--protocol", "reappear", "--gap", 200, "--json", "metrics.json", "--report", "report"),
        cwd=tmp_path,
    )
    assert done.code == 0, done.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    rank1, precision = plain(random_features, 200)
    assert (metrics["rank1"], metrics["mAP"]) == pytest.approx((rank1, precision))
    found = metrics["reappear"]
    assert found["gap"] == 200
    point = {"gap": 200, "rank1": metrics["rank1"], "mAP": metrics["mAP"], "queries": metrics["valid_queries"]}
    assert point in found["curve"]
    assert found["max_dist"] == calibrate(random_features, gap=200)["groups"]["track"]["threshold"]
    assert f"{100 * rank1:.2f}" in done.stdout
    assert f"max_dist {found['max_dist']:.4f}" in done.stdout
    assert (tmp_path / "reappear.png").is_file()
    assert "reappear.png" in done.stdout


def test_evaluate_explains(tmp_path, random_features):
    features_file.save(tmp_path / "features.pth", random_features)
    done = call_script("evaluate.py", "--protocol", "reappear", "--gap", 999, cwd=tmp_path)
    assert_one_line_error(done, "--gap 999", "the largest possible gap is")
    done = call_script("evaluate.py", "--protocol", "reappear", "--gap", 5, "--rerank", cwd=tmp_path)
    assert_one_line_error(done, "--rerank", "reappear")
    done = call_script("evaluate.py", "--gap", 5, cwd=tmp_path)
    assert_one_line_error(done, "--gap", "--protocol reappear")
