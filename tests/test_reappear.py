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
    with pytest.raises(InputError, match=r"--gap 801: .* the longest time .* is 800 frames"):
        reappear.rank(BY_HAND, 801)


def test_unknown_times():
    data = BY_HAND | {"gt": BY_HAND["gt"].clone()}
    data["gt"][0] = -1
    results, _, lines = reappear.rank(data, 1)
    assert summary(results)["rank1"] == 0
    assert lines == ["1 of 8 gallery images have no camera or frame: left out"]
    with pytest.raises(InputError, match="no query name tells them"):
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
    assert group["title"] == "same camera, a person again at least 200 frames later"
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
    assert_one_line_error(done, "--gap 999", "the longest time")
    done = call_script("evaluate.py", "--protocol", "reappear", "--gap", 5, "--rerank", cwd=tmp_path)
    assert_one_line_error(done, "--rerank", "reappear")
    done = call_script("evaluate.py", "--gap", 5, cwd=tmp_path)
    assert_one_line_error(done, "--gap", "--protocol reappear")
