"""How sure a figure is: intervals against known values, by hand, and what people are told of them."""

import json

import numpy as np
import pytest
import torch
from conftest import call_script

import evaluate
from appearance.cli import InputError
from appearance.measure import calibrate, features_file, intervals, metrics


def arguments(*argv):
    return evaluate.get_args_parser().parse_args([str(arg) for arg in argv])


def people_found_with_chances(people: int, generator) -> tuple:
    """(distances, ql, qc, gl, gc) of people each of whom is found first with a chance of their own, else second.

    The chance is the square root of a uniform number, 2/3 on average: so is rank-1, and mAP is (1 + 2/3) / 2.
    """
    number = torch.arange(people)
    ql = number.repeat_interleave(torch.randint(1, 7, (people,), generator=generator))
    chance = torch.rand(people, generator=generator).sqrt()
    found = torch.rand(len(ql), generator=generator) < chance[ql]
    distances = torch.full((len(ql), people), 0.9)
    distances[torch.arange(len(ql)), ql] = 0.5
    distances[torch.arange(len(ql)), (ql + 1) % people] = torch.where(found, 0.9, 0.1)
    return distances, ql, torch.zeros_like(ql), number, torch.ones_like(number)


def clouds(people: int, noise: float, generator, cameras: int = 3, images: int = 12) -> dict:
    """A checked features dict of people around random centres."""
    centres = torch.randn(people, 16, generator=generator)
    labels = torch.arange(people).repeat_interleave(images)
    rows = centres[labels] + noise * torch.randn(len(labels), 16, generator=generator)
    rows = torch.nn.functional.normalize(rows)
    query = torch.arange(len(labels)) % 4 == 0
    camera = torch.arange(len(labels)) % cameras
    parts = {"q": query, "g": ~query}
    return features_file.check(
        {
            side + key: value[rows_of]
            for side, rows_of in parts.items()
            for key, value in zip("flc", (rows, labels + 1, camera), strict=True)
        }
    )


def test_intervals_of_the_threshold_hold_the_true_one():
    generator = torch.Generator().manual_seed(0)
    truth = calibrate.calibrate(clouds(400, 0.5, generator), 0.05)["max_dist"]
    held = 0
    for seed in range(40):
        low, high = calibrate.calibrate(clouds(30, 0.5, generator), 0.05, seed=seed)["max_dist_interval"]
        held += low <= truth <= high
    assert held >= 34


def test_equally_good_networks_rarely_differ_beyond_chance_and_a_better_one_does():
    generator = torch.Generator().manual_seed(0)
    alarms = 0
    for _ in range(100):
        one, other = (metrics.rank_distances(*people_found_with_chances(40, generator)) for _ in range(2))
        same = min(len(one["ap"]), len(other["ap"]))
        cut = [{**r, **{k: r[k][:same] for k in ("ap", "first", "correct", "identity")}} for r in (one, other)]
        alarms += metrics.difference(*cut)["mAP_beyond_chance"]
    assert alarms <= 11
    good, poor = (clouds(40, noise, torch.Generator().manual_seed(1)) for noise in (0.6, 1.2))
    found = metrics.difference(metrics.rank_queries(good), metrics.rank_queries(poor))
    assert found["mAP"] > 0.1
    assert found["mAP_beyond_chance"]
    assert found["mAP_interval"][0] < found["mAP"] < found["mAP_interval"][1]
    assert (found["queries"], found["identities"]) == (120, 40)


def test_pairing_sees_what_two_intervals_do_not():
    """Everybody's AP rises by 0.02: far less than people differ, and yet no chance."""
    random = torch.Generator().manual_seed(0)
    ap = 0.2 + 0.6 * torch.rand(100, generator=random, dtype=torch.float64)
    common = {"correct": torch.ones(100), "first": torch.ones(100), "identity": torch.arange(100)}
    before, after = common | {"ap": ap}, common | {"ap": ap + 0.02}
    found = metrics.difference(after, before)
    assert found["mAP"] == pytest.approx(0.02)
    assert found["mAP_beyond_chance"]
    assert not found["rank1_beyond_chance"]
    separate = [intervals.of_means(common["identity"], one["ap"][:, None])[0] for one in (before, after)]
    assert separate[0][1] > separate[1][0]


def test_the_images_of_one_person_do_not_count_as_people():
    values = torch.tensor([0.0, 1.0]).repeat(20)[:, None]  # 40 queries
    alone = intervals.of_means(torch.arange(40), values)[0]
    of_eight = intervals.of_means(torch.arange(40) // 5, (torch.arange(40) // 5 % 2)[:, None])[0]
    assert alone[1] - alone[0] == pytest.approx(2 * 1.96 * (0.25 / 40) ** 0.5, rel=0.15)
    assert of_eight[1] - of_eight[0] > 2 * (alone[1] - alone[0])


def test_six_people_who_were_all_found_are_no_certainty():
    low, high = intervals.of_means(torch.arange(6), torch.ones(6, 1))[0].tolist()
    assert high == 1
    assert 0.3 < low < 0.8
    low, high = intervals.of_means(torch.arange(3000), torch.ones(3000, 1))[0].tolist()
    assert low > 0.998


def students_t(labels, values):
    """Interval of the mean by Student's t over people who have a query each."""
    t = {5: 2.776, 10: 2.262, 25: 2.064, 50: 2.010}[len(values)]
    half = t * values.std() / len(values) ** 0.5
    return values.mean() - half, values.mean() + half


def test_25_people_of_a_low_map_are_as_sure_as_students_t_says():
    """None of them has an AP above 0.3, so one of 1 is out of the question."""
    random = np.random.default_rng(0)
    ap = torch.from_numpy(random.beta(2.5, 17.5, 25))
    ap *= 0.125 / ap.mean()
    low, high = intervals.of_means(torch.arange(25), ap[:, None])[0].tolist()
    wanted = students_t(torch.arange(25), ap)
    assert low < 0.125 < high
    assert high - low < 1.25 * (wanted[1] - wanted[0])
    assert high < 0.18


@pytest.mark.parametrize("mean", [0.125, 0.5, 0.9])
@pytest.mark.parametrize("people", [5, 10, 25, 50])
def test_intervals_of_few_people_hold_the_true_map(people, mean):
    """AP of people who differ much (a beta distribution of concentration 4), 1 to 6 queries each."""
    random, held, widths = np.random.default_rng(0), 0, []
    for _ in range(300):
        labels = torch.arange(people).repeat_interleave(torch.from_numpy(random.integers(1, 7, people)))
        ap = torch.from_numpy(random.beta(4 * mean, 4 - 4 * mean, people))[labels]
        low, high = intervals.of_means(labels, ap[:, None])[0].tolist()
        held += low <= mean <= high
        widths.append(high - low)
    assert held >= 0.92 * 300
    deviation = (mean * (1 - mean) / 5 / people) ** 0.5  # of the mean of so many people
    assert people == 5 or np.mean(widths) < 6 * deviation


@pytest.mark.parametrize("people", [1, 2, 6, 25])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_none_found(people, share):
    low, high = intervals.of_means(torch.arange(people), torch.full((people, 1), share))[0].tolist()
    assert 0 <= low <= share <= high <= 1
    assert high - low == pytest.approx({1: 1.0, 2: 0.99, 6: 0.56, 25: 0.15}[people], abs=0.01)


def test_a_person_of_many_queries_counts_once():
    """Of 10 people one has 91 of the 100 queries: the mean is that person's, and little is known of others."""
    labels = torch.cat([torch.zeros(91), torch.arange(1, 10)]).long()
    ap = torch.where(labels == 0, 0.9, 0.3)[:, None]
    assert intervals.of_means(labels, ap)[0, 0] < 0.4


# ------------------------------------------------------------------------------------------------- what people are told


def test_table_json_and_report_hold_the_intervals(tmp_path, capsys):
    for name, noise in (("good", 0.6), ("poor", 1.2)):
        features_file.save(tmp_path / f"{name}.pth", clouds(40, noise, torch.Generator().manual_seed(1)))
    files = [tmp_path / "poor.pth", tmp_path / "good.pth"]
    evaluate.main(arguments(*files, "--json", tmp_path / "m.json", "--report", tmp_path / "report", "--calibrate"))
    out, written = capsys.readouterr().out, json.loads((tmp_path / "m.json").read_text())
    page = (tmp_path / "report" / "report.html").read_text()
    poor = written["runs"]["poor"]
    low, high = (100 * end for end in poor["mAP_interval"])
    assert low < 100 * poor["mAP"] < high
    assert f"{low:.1f}-{high:.1f}" in out
    assert "(40 people)" in out
    assert f"{low:.1f} to {high:.1f}" in page
    (found,) = written["differences"]
    assert (found["run"], found["against"], found["mAP_beyond_chance"]) == ("good", "poor", True)
    assert f"mAP {100 * found['mAP']:+.2f}" in out
    assert f"{100 * found['mAP']:+.2f}" in page
    low, high = poor["calibration"]["max_dist_interval"]
    assert low <= poor["calibration"]["max_dist"] <= high
    assert f"{low:.4f} to {high:.4f}" in out
    assert f"{low:.4f} to {high:.4f}" in page


def test_runs_on_other_queries_are_not_compared(tmp_path, capsys):
    for name, people in (("one", 20), ("two", 21)):
        features_file.save(tmp_path / f"{name}.pth", clouds(people, 0.6, torch.Generator().manual_seed(1)))
    evaluate.main(arguments(tmp_path / "one.pth", tmp_path / "two.pth", "--json", tmp_path / "m.json"))
    assert "has other queries than" in capsys.readouterr().out
    assert json.loads((tmp_path / "m.json").read_text())["differences"] == []


def test_runs_without_a_common_valid_query_say_so():
    one, other = (
        {"correct": torch.tensor(correct), "ap": torch.ones(2), "first": torch.ones(2), "identity": torch.arange(2)}
        for correct in ([1, 0], [0, 1])
    )
    with pytest.raises(InputError, match="in both"):
        metrics.difference(one, other)


def test_calibrate_says_when_it_cannot_be_relied_on():
    def warnings(data, **options):
        return calibrate.calibrate(data, **options)["warnings"]

    def generator():
        return torch.Generator().manual_seed(0)

    assert warnings(clouds(40, 0.4, generator())) == []
    assert ["too few pairs" in warning for warning in warnings(clouds(24, 0.2, generator(), images=2, cameras=1))] == [
        True
    ]
    few_people = warnings(clouds(5, 0.2, generator(), images=60, cameras=1))
    assert len(few_people) == 1
    assert "too few people: 5" in few_people[0]
    overlapping = warnings(clouds(40, 5, generator()))
    assert len(overlapping) == 1
    assert "no threshold works" in overlapping[0]
    known = warnings(clouds(40, 0.4, generator()) | {"meta": {"identities_trained_on": 38}})
    assert len(known) == 1
    assert "trained on 38 of these 40 people" in known[0]


def test_two_people_tell_nothing_of_the_thresholds_interval(tmp_path):
    features_file.save(tmp_path / "features.pth", clouds(2, 0.4, torch.Generator().manual_seed(0)))
    done = call_script("evaluate.py", "--calibrate", "--report", "report", "--json", "m.json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "interval over people" not in done.stdout
    assert json.loads((tmp_path / "m.json").read_text())["calibration"]["max_dist_interval"] is None


def test_warnings_are_printed(tmp_path):
    data = clouds(40, 5, torch.Generator().manual_seed(0)) | {"meta": {"identities_trained_on": 38}}
    features_file.save(tmp_path / "f.npz", data)
    done = call_script("evaluate.py", "f.npz", "--calibrate", "--report", "report", cwd=tmp_path)
    assert done.code == 0, done.stderr
    assert "warning: no threshold works" in done.stdout
    assert "was trained on 38 of the test identities" in done.stdout
    assert "no threshold works" in (tmp_path / "report" / "report.html").read_text()
