"""The tracker's threshold: against all pairs counted one by one, and by hand."""

import json
import re

import numpy as np
import pytest
import torch
from conftest import call_script

from appearance.cli import InputError
from appearance.measure import calibrate, features_file, pairs, tracks


def at_angles(degrees):
    radians = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([radians.cos(), radians.sin()], 1).float()


def random_data(seed, queries=40, images=160, people=8):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(people + 1, 6))
    ql, gl = random.integers(1, people + 1, queries), random.integers(-1, people + 1, images)

    def rows(labels):
        return torch.nn.functional.normalize(torch.from_numpy(centres[labels] + random.normal(size=(len(labels), 6))))

    return features_file.check(
        {
            "qf": rows(ql).float(),
            "gf": rows(gl).float(),
            "ql": ql,
            "gl": gl,
            "qc": random.integers(-1, 3, queries),
            "gc": random.integers(-1, 3, images),
            "qt": random.integers(-1, 300, queries),
            "gt": random.integers(-1, 300, images),
        }
    )


def slow_pairs(data, window):
    """{group: (distances of same-identity pairs, of different-identity pairs)}, pair by pair."""
    labels, cameras, times = (torch.cat([data["q" + k], data["g" + k]]).tolist() for k in "lct")
    rows = torch.cat([data["qf"], data["gf"]]).double()
    found = {name: ([], []) for name in ("tracker", "camera", "all")}
    for i in range(len(labels)):
        for j in range(i):
            if -1 in (labels[i], labels[j]) or labels[i] == labels[j] == 0:
                continue
            groups = ["all"]
            if cameras[i] == cameras[j] != -1:
                groups.append("camera")
                if min(times[i], times[j]) >= 0 and abs(times[i] - times[j]) <= window:
                    groups.append("tracker")
            distance = 1 - float(rows[i] @ rows[j])
            for group in groups:
                found[group][labels[i] != labels[j]].append(distance)
    return {name: tuple(map(np.array, pairs)) for name, pairs in found.items()}


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_counting_pair_by_pair(seed):
    data = random_data(seed)
    found = calibrate.calibrate(data, false_match_rate=0.05, window=50)
    for name, (same, different) in slow_pairs(data, 50).items():
        group = found["groups"][name]
        assert (group["same_pairs"], group["different_pairs"]) == (len(same), len(different))
        # the threshold is exact to one bin: at it the rate holds, one bin further it does not
        assert (different < group["threshold"]).mean() == pytest.approx(group["false_matches"], abs=2 / len(different))
        assert group["false_matches"] <= 0.05 < (different < group["threshold"] + 2e-4).mean() + 1 / len(different)
        assert (same < group["threshold"]).mean() == pytest.approx(group["kept"], abs=2 / len(same))
        edges = np.sort(np.concatenate([same, different]))
        gap = [abs((different < t).mean() - (same >= t).mean()) for t in edges]
        best = edges[int(np.argmin(gap))]
        rate = ((different < best).mean() + (same >= best).mean()) / 2
        assert group["equal_error_rate"] == pytest.approx(rate, abs=0.01)


def test_by_hand():
    # two people at right angles, two images each 10 degrees apart: same pairs at 1 - cos 10, different from 1 - cos 80
    data = features_file.check(
        {"qf": at_angles([0.0, 90.0]), "ql": [1, 2], "gf": at_angles([10.0, 100.0]), "gl": [1, 2]}
    )
    found = calibrate.calibrate(data, false_match_rate=0.0)
    assert found["based_on"] == "all"
    assert list(found["groups"]) == ["all"]  # no cameras, no times
    assert found["max_dist"] == pytest.approx(1 - np.cos(np.deg2rad(80)), abs=2e-4)
    assert (found["kept"], found["groups"]["all"]["equal_error_rate"]) == (1.0, 0.0)
    assert (found["groups"]["all"]["same_pairs"], found["groups"]["all"]["different_pairs"]) == (2, 4)


def test_a_sample_of_a_large_set_is_close(monkeypatch):
    data = random_data(0, queries=100, images=900)
    whole = calibrate.calibrate(data, 0.05)
    monkeypatch.setattr(pairs, "PAIRS", 300_000)
    part = calibrate.calibrate(data, 0.05)
    assert part["groups"]["all"]["different_pairs"] < whole["groups"]["all"]["different_pairs"]
    assert part["groups"]["all"]["threshold"] == pytest.approx(whole["groups"]["all"]["threshold"], abs=0.03)


def test_one_identity_cannot_be_calibrated():
    data = features_file.check({"qf": at_angles([0.0]), "ql": [1], "gf": at_angles([1.0, 2.0]), "gl": [1, 1]})
    with pytest.raises(InputError, match="images of another"):
        calibrate.calibrate(data)


# -- images and tracks


def slow_tracks(data, window, apart):
    """Distances to the own track and to strangers' (those of about the same time, all), image by image."""
    labels, cameras, times = (torch.cat([data["q" + k], data["g" + k]]).tolist() for k in "lct")
    rows = torch.cat([data["qf"], data["gf"]]).double()
    known = [i for i in range(len(labels)) if labels[i] >= 0 and cameras[i] >= 0 and times[i] >= 0]
    found = []
    for i in sorted((i for i in known if labels[i]), key=lambda i: (labels[i], cameras[i], times[i])):
        before = found[-1][-1] if found else None
        goes_on = before is not None and (labels[i], cameras[i]) == (labels[before], cameras[before])
        if not (goes_on and times[i] - times[before] <= window):
            found.append([])
        found[-1].append(i)
    own, together, strangers = [], [], []
    for i in known:
        for track in found:
            if cameras[track[0]] != cameras[i]:
                continue
            if labels[track[0]] == labels[i]:
                track = [j for j in track if abs(times[i] - times[j]) >= apart] if i in track else []
                own += [min(1 - float(rows[i] @ rows[j]) for j in track)] if track else []
                continue
            strangers.append(min(1 - float(rows[i] @ rows[j]) for j in track))
            if times[track[0]] - window <= times[i] <= times[track[-1]] + window:
                together.append(strangers[-1])
    return map(np.array, (own, together, strangers))


@pytest.mark.parametrize("enough", [True, False])
def test_equal_to_comparing_image_by_image(enough, monkeypatch):
    data = random_data(0)
    own, together, strangers = slow_tracks(data, 20, 10)
    assert 0 < len(together) < len(strangers)
    monkeypatch.setattr(tracks, "ENOUGH", len(together) + (not enough))
    group = calibrate.calibrate(data, 0.05, window=20)["groups"]["track"]
    different = together if enough else strangers
    assert (group["same_pairs"], group["different_pairs"]) == (len(own), len(different))
    assert (different < group["threshold"]).mean() == pytest.approx(group["false_matches"], abs=2 / len(different))
    assert group["false_matches"] <= 0.05 < (different < group["threshold"] + 2e-4).mean() + 1 / len(different)
    assert (own < group["threshold"]).mean() == pytest.approx(group["kept"], abs=2 / len(own))
    assert ("within 20 frames" in group["title"]) == enough


def walk(people=12, images=10, numbers=1):
    """People of one camera, an image each 20 frames: nine alike, the last a little like the next person.

    Distances: 0 within the nine, 0.3 from the last one to the next person's nine, 1 between all others. With several
    `numbers` a person goes by another one after each `images` images, 1,000 frames later.
    """
    rows = torch.zeros(people, images, 2 * people)
    for person in range(people):
        rows[person, :-1, person] = 1
        rows[person, -1, (person + 1) % people], rows[person, -1, people + person] = 0.7, (1 - 0.7**2) ** 0.5
    rows = rows.flatten(0, 1).repeat(numbers, 1)
    labels = torch.arange(1, numbers * people + 1).repeat_interleave(images)
    times = torch.arange(images).mul(20).repeat(numbers * people) + 1000 * (labels - 1).div(
        people, rounding_mode="floor"
    )
    columns = {"f": rows, "l": labels, "t": times, "c": torch.ones_like(labels)}
    return features_file.check({s + k: rows[n::2] for k, rows in columns.items() for n, s in enumerate("qg")})


def test_tracks_by_hand():
    """The nearest image of a track counts: few pairs of strangers are near, but many tracks of strangers."""
    groups = calibrate.calibrate(walk(), 0.05)["groups"]
    assert groups["tracker"]["threshold"] == pytest.approx(1, abs=2e-4)  # 108 of 6,600 pairs are nearer
    assert groups["track"]["threshold"] == pytest.approx(0.3, abs=2e-4)  # 120 of 1,320 images and tracks
    found = calibrate.calibrate(walk())
    assert (found["based_on"], found["false_match_rate"]) == ("track", 0.02)
    assert (found["max_dist"], found["kept"]) == (pytest.approx(0.3, abs=2e-4), pytest.approx(0.9))
    assert found["groups"]["track"]["same_pairs"] == 120
    assert calibrate.calibrate(walk(), gap=100)["groups"]["track"]["same_pairs"] == 120  # the last is 100 frames away
    assert calibrate.calibrate(walk(), gap=101)["groups"]["track"]["same_pairs"] == 96


def test_one_person_under_two_numbers_is_no_stranger():
    """As in tracks without labels: who is not seen together may be one person."""
    once, twice = calibrate.calibrate(walk()), calibrate.calibrate(walk(numbers=2))
    assert twice["max_dist"] == once["max_dist"]
    assert twice["groups"]["track"]["equal_error_rate"] == once["groups"]["track"]["equal_error_rate"]
    assert twice["groups"]["camera"]["equal_error_rate"] > once["groups"]["camera"]["equal_error_rate"]


def test_tracks_end_after_a_break_and_a_hundred_images():
    def cut(labels, cameras, times, window=50):
        columns = map(np.array, (labels, cameras, times))
        return tracks.cut(*columns, np.array(labels) == 0, window).tolist()

    assert cut([2, 1, 1, 1, 0, 1], [1, 1, 1, 2, 1, -1], [0, 70, 20, 20, 0, 0]) == [2, 0, 0, 1, -1, -1]
    assert cut([1, 1], [1, 1], [0, 51]) == [0, 1]
    assert np.bincount(cut([1] * 250, [1] * 250, range(250))).tolist() == [100, 100, 50]


# -- vectors that lie close together


def around_one_direction(spread, people=40, images=8, size=8):
    """People whose vectors are one direction and a little of their own: between two people a distance of about
    `size * spread ** 2`, within one a hundredth of it."""
    random = np.random.default_rng(0)
    own = random.normal(size=(people, 1, size)) + 0.1 * random.normal(size=(people, images, size))
    rows = (np.eye(size)[0] + spread * own).reshape(-1, size)
    rows = torch.nn.functional.normalize(torch.from_numpy(rows), dim=1).float()
    labels = torch.arange(1, people + 1).repeat_interleave(images)
    columns = {"f": rows, "l": labels, "t": 20 * torch.arange(images).repeat(people), "c": torch.ones_like(labels)}
    return features_file.check({s + k: column[n::2] for k, column in columns.items() for n, s in enumerate("qg")})


@pytest.mark.parametrize("spread", [0.3, 0.004, 0.0004])
def test_steps_follow_the_data(spread):
    data = around_one_direction(spread)
    found = calibrate.calibrate(data, 0.01)
    rows, labels = (torch.cat([data["q" + key], data["g" + key]]) for key in "fl")
    rows = torch.nn.functional.normalize(rows.double())
    distance = (rows[:, None] - rows).square().sum(2) / 2
    first, second = torch.ones_like(distance).triu(1).nonzero(as_tuple=True)
    distance, same = distance[first, second], labels[first] == labels[second]
    group = found["groups"]["all"]
    different = distance[~same].sort().values
    wanted = different[int(0.01 * len(different))].item()  # below it lie as many as may be accepted
    assert group["threshold"] == pytest.approx(wanted, rel=1e-3)
    assert group["false_matches"] == pytest.approx(0.01, abs=1e-4)
    assert group["kept"] == (distance[same] < group["threshold"]).double().mean()
    assert group["equal_error_rate"] < 0.01
    assert found["based_on"] == "track"
    assert found["kept"] == 1
    low, high = found["max_dist_interval"]
    assert 0 < low < found["max_dist"] < high < distance.max()
    bars = np.array(found["groups"]["all"]["different_histogram"])
    assert (bars > 0).sum() > 40
    assert found["bar_width"] * len(bars) < distance.max()
    assert found["warnings"] == []


def test_what_is_printed_has_digits_enough(tmp_path):
    features_file.save(tmp_path / "features.pth", around_one_direction(0.004))
    done = call_script("evaluate.py", "--calibrate", "--report", "report", "--json", "m.json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    found = json.loads((tmp_path / "m.json").read_text())["calibration"]
    printed = re.search(r"max_dist (\S+)", done.stdout)[1]
    assert float(printed) == pytest.approx(found["max_dist"], rel=0.005)
    assert "warning" not in done.stdout
    low, high = map(float, re.search(r"interval over people: (\S+) to (\S+)", done.stdout).groups())
    assert [low, high] == pytest.approx(found["max_dist_interval"], rel=0.005)
    thresholds = [float(text) for text in re.findall(r"threshold (\S+),", done.stdout)]
    assert thresholds == pytest.approx([group["threshold"] for group in found["groups"].values()], rel=0.005)
    assert f"max_dist = {printed}" in (tmp_path / "report" / "report.html").read_text()


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        (0.2069394, "0.2069"),
        (0.0123456, "0.0123"),
        (0.00123456, "0.00123"),
        (0.0000098765, "0.00000988"),
        (1.25, "1.2500"),
        (0.0, "0.0000"),
        (1e-14, "0.0000"),  # two copies of one image
    ],
)
def test_digits(distance, text):
    assert calibrate.in_digits(distance) == text
