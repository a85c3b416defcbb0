"""Ranking metrics: by hand, against the references' numbers, and against a slow evaluator on random cases."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import call_script

import evaluate
from appearance.cli import InputError
from appearance.measure import features_file, metrics, protocols

DATA = Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "expected.json").read_text())
KEYS = ("qf", "ql", "qc", "gf", "gl", "gc")


def rank(distances, ql, qc, gl, gc, **kwargs):
    """Metrics of a distance matrix given as lists."""
    arrays = (torch.tensor(value) for value in (ql, qc, gl, gc))
    return metrics.summary(metrics.rank_distances(torch.tensor(distances), *arrays, **kwargs))


def unit(rows):
    return torch.nn.functional.normalize(torch.as_tensor(rows, dtype=torch.float32))


def arguments(*argv):
    return evaluate.get_args_parser().parse_args([str(arg) for arg in argv])


def slow_metrics(scores, ql, qc, gl, gc):
    """One query and one image at a time, straight from the definitions; scores (Nq, Ng), higher is better."""
    firsts, aps, trapezoids, inps = [], [], [], []
    for q in range(len(ql)):
        images = [
            g
            for g in range(len(gl))
            if gl[g] != -1 and not (gl[g] == ql[q] and gc[g] == qc[q] and qc[q] != -1 and gc[g] != -1)
        ]
        # best first; of equal scores the wrong ones first
        images.sort(key=lambda g: (-scores[q][g], gl[g] == ql[q]))
        ranks = [i + 1 for i, g in enumerate(images) if gl[g] == ql[q]]
        if not ranks:
            continue
        firsts.append(ranks[0])
        aps.append(np.mean([(k + 1) / r for k, r in enumerate(ranks)]))
        before = [k / (r - 1) if r > 1 else 1.0 for k, r in enumerate(ranks)]
        trapezoids.append(np.mean([((k + 1) / r + b) / 2 for k, (r, b) in enumerate(zip(ranks, before, strict=True))]))
        inps.append(len(ranks) / ranks[-1])
    return firsts, aps, trapezoids, inps


# ----------------------------------------------------------------------------------------------------- by hand


def test_hits_at_ranks_one_and_three():
    found = rank([[0.1, 0.2, 0.3, 0.4]], [5], [1], [5, 6, 5, 7], [2, 2, 3, 2])
    assert found["mAP"] == pytest.approx((1 + 2 / 3) / 2)  # 0.8333
    assert found["mAP_trapezoid"] == pytest.approx(0.7916666667)
    assert found["mINP"] == pytest.approx(2 / 3)
    assert (found["rank1"], found["valid_queries"], found["queries"], found["gallery"]) == (1.0, 1, 1, 4)


def test_same_camera_images_junk_and_distractors():
    #           same person, same camera | junk | distractor | right, other camera | wrong | right
    labels, cameras = [5, -1, 0, 5, 6, 5], [1, 2, 2, 2, 1, 3]
    found = rank([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5]], [5], [1], labels, cameras)
    # left: distractor (1), right (2), wrong (3), right (4)
    assert found["cmc"][:3] == [0.0, 1.0, 1.0]
    assert found["mAP"] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert found["mAP_trapezoid"] == pytest.approx(((1 / 2 + 0) / 2 + (2 / 4 + 1 / 3) / 2) / 2)
    assert found["mINP"] == pytest.approx(2 / 4)
    assert found["gallery"] == 5  # without junk


def test_the_unknown_camera_turns_the_rule_off_for_its_image_only():
    distances, ql, gl = [[0.1, 0.2, 0.3]], [5], [5, 6, 5]
    assert rank(distances, ql, [1], gl, [1, 1, 2])["rank1"] == 0.0
    assert rank(distances, ql, [1], gl, [-1, 1, 2])["rank1"] == 1.0
    assert rank(distances, ql, [-1], gl, [-1, 1, 2])["rank1"] == 1.0


def test_queries_without_a_correct_image_are_not_counted():
    found = rank([[0.1, 0.2], [0.2, 0.1], [0.1, 0.2]], [5, 6, 9], [1, 1, 1], [5, 6], [2, 1])
    assert (found["valid_queries"], found["queries"], found["rank1"], found["mAP"]) == (1, 3, 1.0, 1.0)


def test_correct_images_come_after_the_wrong_ones_that_tie_with_them():
    found = rank([[0.5] * 10], [5], [1], [5, 5] + [6] * 8, [2] * 10)
    assert found["cmc"][7:9] == [0.0, 1.0]
    assert found["mAP"] == pytest.approx((1 / 9 + 2 / 10) / 2)


def test_a_constant_feature_scores_low():
    rows = unit(np.random.default_rng(0).normal(size=(1, 128)))
    gl = torch.arange(1000) // 10
    found = evaluate.rank_metrics(
        rows.expand(100, -1), torch.arange(100), torch.zeros(100), rows.expand(1000, -1), gl, torch.ones(1000)
    )
    assert found["rank1"] == 0.0
    assert found["mAP"] < 0.01


def test_no_valid_query_says_why():
    with pytest.raises(InputError, match="none of the 2 query identities appears in the gallery"):
        rank([[0.1], [0.1]], [1, 2], [1, 1], [3], [1])
    with pytest.raises(InputError, match=r"only in the query's own camera.*--protocol no-camera"):
        rank([[0.1], [0.1]], [1, 2], [1, 1], [2], [1])


def test_a_gallery_of_junk_alone_and_a_camera_that_saw_only_junk():
    data = features_file.check(random_features())
    with pytest.raises(InputError, match=r"none of the 60 query identities appears in the gallery \(0 images\)"):
        evaluate.rank_metrics(*(torch.full((500,), -1) if key == "gl" else data[key] for key in KEYS))
    data["gl"][data["gc"] == 3] = -1
    parts = metrics.breakdown(data, metrics.rank_queries(data))
    assert {pair["gallery_camera"] for pair in parts["camera_pairs"]} == {1, 2}


# ------------------------------------------------------------------------------------- references and property


@pytest.mark.parametrize("name", EXPECTED)
def test_equal_to_torchreid_and_fastreid(name):
    with np.load(DATA / f"{name}.npz") as case:
        found = evaluate.rank_metrics(*(case[key] for key in KEYS))
    assert {key: found[key] for key in EXPECTED[name]["plain"]} == pytest.approx(EXPECTED[name]["plain"], abs=1e-6)


@pytest.mark.parametrize("seed", range(100))
def test_equal_to_the_slow_evaluator(seed):
    random = np.random.default_rng(seed)
    queries, images, people = random.integers(1, 12), random.integers(1, 60), random.integers(1, 8)
    ql, gl = random.integers(1, people + 1, queries), random.integers(-1, people + 1, images)
    qc, gc = random.integers(-1, 3, queries), random.integers(-1, 3, images)
    levels = random.choice([3, 20, 10**6])  # few levels: many ties
    distances = (random.integers(0, levels, (queries, images)) / levels).astype(np.float32)
    firsts, aps, trapezoids, inps = slow_metrics(-distances, ql, qc, gl, gc)
    results = metrics.rank_distances(distances, ql, qc, gl, gc, memory=int(random.choice([256, 1 << 30])))
    if not firsts:
        with pytest.raises(InputError):
            metrics.summary(results)
        return
    found = metrics.summary(results)
    cmc = [np.mean([first <= k for first in firsts]) for k in range(1, 51)]
    assert found["cmc"] == pytest.approx(cmc, abs=1e-12)
    assert found["mAP"] == pytest.approx(np.mean(aps), abs=1e-12)
    assert found["mAP_trapezoid"] == pytest.approx(np.mean(trapezoids), abs=1e-12)
    assert found["mINP"] == pytest.approx(np.mean(inps), abs=1e-12)
    assert found["valid_queries"] == len(firsts)


def random_features(seed=0, queries=60, images=500, size=16, people=20):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(people + 1, size))
    ql, gl = random.integers(1, people + 1, queries), random.integers(-1, people + 1, images)
    return {
        "qf": unit(centres[ql] + random.normal(size=(queries, size))),
        "ql": torch.from_numpy(ql),
        "qc": torch.from_numpy(random.integers(1, 4, queries)),
        "gf": unit(centres[gl] + random.normal(size=(images, size))),
        "gl": torch.from_numpy(gl),
        "gc": torch.from_numpy(random.integers(1, 4, images)),
    }


def test_memory_limit_and_many_correct_images_change_nothing(monkeypatch):
    data = random_features()
    whole = evaluate.rank_metrics(*(data[key] for key in KEYS))
    assert evaluate.rank_metrics(*(data[key] for key in KEYS), memory=4000) == whole
    monkeypatch.setattr(metrics, "SORT_ABOVE", 2)
    assert evaluate.rank_metrics(*(data[key] for key in KEYS)) == whole
    monkeypatch.setattr(metrics, "SORT_ABOVE", 512)
    monkeypatch.setattr(metrics, "COUNTED_AT_ONCE", 100)
    assert evaluate.rank_metrics(*(data[key] for key in KEYS)) == whole


def test_arrays_lists_of_rows_and_the_precision_setting_change_nothing():
    data = random_features()
    whole = evaluate.rank_metrics(*(data[key] for key in KEYS))
    assert evaluate.rank_metrics(*(data[key].numpy() for key in KEYS)) == whole
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert evaluate.rank_metrics(*(data[key] for key in KEYS)) == whole
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


# --------------------------------------------------------------------------------------------------- protocols


def full(data):
    return features_file.check(data)


def test_multi_query_averages_one_identity_and_camera():
    data = full(
        {
            "qf": unit([[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
            "ql": torch.tensor([7, 7, 7]),
            "qc": torch.tensor([1, 1, 2]),
            "gf": unit([[1, 1, 0]]),
            "gl": torch.tensor([7]),
        }
    )
    out, lines = protocols.apply("multi-query", data)
    assert out["qf"].tolist() == [pytest.approx([0.5**0.5, 0.5**0.5, 0]), [0, 0, 1]]
    assert (out["ql"].tolist(), out["qc"].tolist()) == ([7, 7], [1, 2])
    assert lines == ["3 queries averaged to 2, one per identity and camera"]


def test_mars_images_are_averaged_by_tracklet():
    names = ["0001C1T0001F001.jpg", "0001C1T0001F002.jpg", "0001C2T0001F001.jpg"]
    data = full(
        {
            "qf": unit([[1, 0]]),
            "ql": torch.tensor([1]),
            "gf": unit([[1, 0], [0, 1], [1, 0]]),
            "gl": torch.tensor([1, 1, 1]),
            "gc": torch.tensor([1, 1, 2]),
            "g_paths": [f"bbox_test/0001/{name}" for name in names],
        }
    )
    out, lines = protocols.apply("mars", data)
    assert out["gf"][0].tolist() == pytest.approx([0.5**0.5, 0.5**0.5])
    assert (out["gc"].tolist(), len(out["g_paths"]), len(out["qf"])) == ([1, 2], 2, 1)
    assert lines == ["3 gallery images averaged to 2 tracklets"]


def test_no_camera_counts_same_camera_images():
    data = full(random_features())
    open_rule, _ = protocols.apply("no-camera", data)
    assert metrics.summary(metrics.rank_queries(open_rule))["mAP"] != metrics.summary(metrics.rank_queries(data))["mAP"]
    assert (open_rule["qc"] == -1).all()


def test_breakdown_adds_up():
    data = full(random_features())
    results = metrics.rank_queries(data)
    whole, parts = metrics.summary(results), metrics.breakdown(data, results)
    people = parts["identities"]
    assert sum(row["queries"] for row in people) == whole["valid_queries"]
    assert sum(row["mAP"] * row["queries"] for row in people) / whole["valid_queries"] == pytest.approx(whole["mAP"])
    assert sum(row["rank1"] * row["queries"] for row in people) / whole["valid_queries"] == pytest.approx(
        whole["rank1"]
    )
    pairs = {(row["query_camera"], row["gallery_camera"]): row for row in parts["camera_pairs"]}
    assert sorted(pairs) == [(q, g) for q in (1, 2, 3) for g in (1, 2, 3) if q != g]
    # one pair by hand: the queries of camera 1 against the gallery of camera 2 alone
    queries, images = data["qc"] == 1, data["gc"] == 2
    one = evaluate.rank_metrics(
        *(data[key][queries] for key in ("qf", "ql", "qc")), *(data[key][images] for key in ("gf", "gl", "gc"))
    )
    assert pairs[1, 2]["mAP"] == pytest.approx(one["mAP"])
    assert pairs[1, 2]["queries"] == one["valid_queries"]


def test_ranked_list_shows_what_the_metrics_count():
    data = full(
        {
            "qf": unit([[1.0, 0]]),
            "ql": torch.tensor([5]),
            "qc": torch.tensor([1]),
            "gf": unit([[1, 0], [1, 0.1], [1, 0.2], [1, 0.5], [0, 1]]),
            "gl": torch.tensor([5, -1, 6, 5, 7]),
            "gc": torch.tensor([1, 2, 2, 2, 2]),
        }
    )
    found = metrics.ranked_list(data, 0)
    assert [(hit["row"], hit["correct"]) for hit in found] == [(2, False), (3, True), (4, False)]
    assert found[1]["distance"] == pytest.approx(1 - 1 / 1.25**0.5, abs=1e-6)


# ------------------------------------------------------------------------------------------------ command line


def test_command_line(tmp_path):
    features_file.save(tmp_path / "features.pth", random_features())
    done = call_script("evaluate.py", "--json", "metrics.json", "--rerank", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert done.stderr == ""
    written = json.loads((tmp_path / "metrics.json").read_text())
    data = random_features()
    plain = evaluate.rank_metrics(*(data[key] for key in KEYS))
    assert {key: written[key] for key in plain} == plain
    assert set(plain) <= set(written["rerank"])
    assert f"{100 * plain['mAP']:.2f}" in done.stdout
    assert (tmp_path / "cmc.png").read_bytes().startswith(b"\x89PNG")


def test_several_runs_share_one_table_and_one_json(tmp_path, capsys):
    for name, seed in (("a", 0), ("b", 1)):
        features_file.save(tmp_path / f"{name}.pth", random_features(seed))
    paths = [tmp_path / "a.pth", tmp_path / "b.pth"]
    evaluate.main(arguments(*paths, "--labels", "first", "second", "--json", tmp_path / "m.json"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith(("first", "second"))] == ["first", "second"]
    assert list(json.loads((tmp_path / "m.json").read_text())["runs"]) == ["first", "second"]
    with pytest.raises(InputError, match="--labels: 1 names for 2 features files"):
        evaluate.main(arguments(*paths, "--labels", "first"))


def test_columns_never_run_together(capsys):
    curve = [{"gap": 10**n, "rank1": 1.0, "mAP": 1.0, "queries": 10**9} for n in range(9)]
    found = {"curve": curve, "max_dist": None}
    evaluate.print_curve("", found)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [len(row) for row in rows] == [10] * 4
    assert rows[0][-1] == "100,000,000"
    keys = ("rank1", "rank5", "rank10", "rank20", "mAP", "mINP", "queries", "valid_queries", "gallery", "identities")
    metrics = dict.fromkeys(keys, 1.0) | {"valid_queries": 1234567890, "gallery": 12345678901, "identities": 5}
    metrics |= {"rank1_interval": [0, 1]}
    evaluate.print_table({"a": metrics, "a_long_name_of_a_run_" * 4: metrics})
    lines = capsys.readouterr().out.splitlines()
    assert [len(line.split()) for line in lines] == [8, 9, 5, 9, 5]
    assert len({line.index("100.00") for line in (lines[1], lines[3])}) == 1


def test_pictures_are_called_by_the_labels(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        features_file.save(tmp_path / folder / "features.pth", random_features())
    files = ["one/features.pth", "two/features.pth"]
    done = call_script("evaluate.py", *files, "--labels", "before", "../after: 7 %", cwd=tmp_path)
    assert done.code == 0, done.stderr
    done = call_script("evaluate.py", *files, "--calibrate", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "one/features " in done.stdout  # the shortest names that differ
    names = {path.name for path in (tmp_path / "one").iterdir()} - {"features.pth"}
    unnamed = {f"one_features-two_features_{end}.png" for end in ("cmc", "distances1", "distances2")}
    assert names == {"before-.._after_7__cmc.png", *unnamed}
    assert evaluate._pictures_of(["features.pth"], ["mine"]) == ""
    assert evaluate._pictures_of(["a.pth"], ["a"]) == "a_"
    assert evaluate._pictures_of(["a.pth", "b.npz"], ["a", "b"]) == "a-b_"
    assert len(evaluate._pictures_of(["a.pth"], ["李" * 300]).encode()) <= 101


@pytest.mark.parametrize(
    ("flag", "value", "other"),
    [
        ("--k1", 5, "--rerank"),
        ("--k2", 5, "--rerank"),
        ("--lambda", 0.1, "--rerank"),
        ("--gap", 5, "--protocol reappear"),
        ("--window", 5, "--calibrate or --protocol reappear"),
        ("--false-match-rate", 0.1, "--calibrate or --protocol reappear"),
    ],
)
def test_flags_that_would_change_nothing_are_refused(flag, value, other):
    with pytest.raises(InputError, match=f"{flag}: has no effect without {other}"):
        evaluate.main(arguments("none.pth", flag, value))
    for one in other.split(" or "):
        with pytest.raises(InputError, match="no such features file"):
            evaluate.main(arguments("none.pth", flag, value, *one.split()))


def test_old_file_without_cameras_works_and_says_so(tmp_path, capsys):
    data = random_features()
    torch.save({key: data[key] for key in ("qf", "ql", "gf", "gl")}, tmp_path / "old.pth")
    evaluate.main(arguments(tmp_path / "old.pth"))
    assert "cameras are unknown, so same-camera images count" in capsys.readouterr().out


def test_calibrate_and_report_on_images_that_are_gone(tmp_path, capsys):
    data = random_features()
    data |= {"q_paths": [f"q{i}.jpg" for i in range(60)], "g_paths": [f"g{i}.jpg" for i in range(500)]}
    features_file.save(tmp_path / "f.pth", data)
    report = tmp_path / "report"
    evaluate.main(arguments(tmp_path / "f.pth", "--calibrate", "--report", report, "--json", tmp_path / "m.json"))
    out = capsys.readouterr().out
    assert "max_dist" in out
    assert "images of the ranked lists are blank" in out
    page = (report / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")  # self-contained: no outside links
    assert page.count("prefers-color-scheme: dark") >= 5
    names = {path.name for path in report.iterdir()}
    assert names == {"report.html", "cmc.png", "distances.png", "best.jpg", "worst.jpg", "random.jpg", "map.png"}
    written = json.loads((tmp_path / "m.json").read_text())
    assert written["calibration"]["based_on"] == "camera"
    assert f"{written['calibration']['max_dist']:.4f}" in page


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--protocol", "market"], "--protocol"),
        (["--k1", "0"], "--k1"),
        (["--lambda", "2"], "--lambda"),
        (["--memory", "0"], "--memory"),
        (["--false-match-rate", "x"], "--false-match-rate"),
    ],
)
def test_usage_errors_are_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        arguments(*argv)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
