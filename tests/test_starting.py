"""How well starting weights tell the training identities apart decides how much of them is kept."""

import pytest
import torch
from conftest import call_script, make_class_folders

from appearance.data.layouts import Sample
from appearance.training import recipe, starting


def samples(*identities: int, cameras=None) -> list[Sample]:
    cameras = cameras or [-1] * len(identities)
    return [Sample(f"{n}.jpg", pid, camera) for n, (pid, camera) in enumerate(zip(identities, cameras, strict=True))]


def on_a_circle(*degrees: float) -> torch.Tensor:
    """(N, 2) unit rows."""
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_the_equal_error_rate_by_hand():
    people = samples(1, 1, 2, 2)
    assert starting.equal_error_rate(on_a_circle(0, 5, 90, 95), people) == 0
    # one identity 30 and 40 degrees apart, two 20, 50, 60 and 90: a threshold of 40 accepts one of four strangers
    assert starting.equal_error_rate(on_a_circle(0, 30, 50, 90), people) == 0.25
    assert starting.equal_error_rate(on_a_circle(0, 90), samples(1, 2)) is None
    assert starting.equal_error_rate(on_a_circle(0, 90), samples(1, 1)) is None


def test_vectors_that_know_nothing_have_an_equal_error_rate_of_one_half():
    rows = torch.nn.functional.normalize(torch.randn(300, 64, generator=torch.Generator().manual_seed(0)))
    assert starting.equal_error_rate(rows, samples(*(n % 30 for n in range(300)))) == pytest.approx(0.5, abs=0.02)


def test_pairs_of_two_cameras_count_where_there_are_enough():
    """Each camera has a direction of its own: within one the identities are told apart, across two they are not."""
    identities, cameras = [n % 12 for n in range(48)], [n // 24 for n in range(48)]
    degrees = [100 * camera + 5 * pid for pid, camera in zip(identities, cameras, strict=True)]
    people = samples(*identities, cameras=cameras)
    assert starting.equal_error_rate(on_a_circle(*degrees), people) > 0.5
    assert starting.equal_error_rate(on_a_circle(*degrees[:24]), people[:24]) == 0  # one camera is all there is


def test_some_of_each_identity():
    many = samples(*(n % 3 for n in range(3000)))
    chosen = starting.some_of_each(many)
    assert len(chosen) == starting.IMAGES
    assert [sum(one.pid == pid for one in chosen) for pid in range(3)] == [200] * 3
    alone = samples(*range(1000), *range(1000))
    assert len(starting.some_of_each(alone)) == 2000


def test_the_share_that_is_kept_falls_with_the_error():
    assert [recipe.trust(error) for error in (0.1, 0.2, 0.3, 0.4)] == [1, 1, 0, 0]
    assert recipe.trust(0.25) == pytest.approx(0.5)


@pytest.mark.parametrize("known", [True, False])
def test_a_run_keeps_the_start_only_where_it_knows_the_identities(tmp_path, known):
    """Four people in colours of their own; or all in one colour, so that any weights take them for one."""
    data = make_class_folders(tmp_path / "people", identities=4, images=12)
    if not known:
        paths = sorted(data.rglob("*.jpg"))
        for number, path in enumerate(paths[12:]):
            path.write_bytes(paths[number % 12].read_bytes())
    flags = ["--data-dir", "people", "--epochs", 1, "--workers", 1, "--device", "cpu", "--amp", "fp32"]
    done = call_script("train.py", *flags, "--weights", "drawn", cwd=tmp_path)
    assert done.code == 0, done.stderr
    told = " ".join(done.stdout.split())
    kept = "saved weights are 58% starting + 42% trained (few identities, which the starting weights recognise"
    assert (kept in told) == known
    assert ("note: the starting weights do not recognise these identities" in told) != known
    saved = torch.load(tmp_path / "checkpoint" / "last.pth", weights_only=True)
    assert saved["recipe"]["keep_start"] == (0.58 if known else 0.0)
