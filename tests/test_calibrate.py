"""The tracker's threshold: against all pairs counted one by one, and by hand."""

import numpy as np
import pytest
import torch

from appearance.cli import InputError
from appearance.measure import calibrate, features_file, pairs


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
    with pytest.raises(InputError, match="only one identity"):
        calibrate.calibrate(data)
