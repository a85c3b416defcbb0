"""Drawn people, places and cameras: geometry by hand, and what each setting does."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest

from appearance.drawn import figures, places, sample
from appearance.drawn.cameras import Appearance, Camera, Framing, photograph, stream
from appearance.drawn.cloth import Cloth
from appearance.drawn.people import Identity
from appearance.drawn.poses import Pose, joints
from appearance.drawn.solids import Eye, Solid, render
from appearance.drawn.variety import EVERYTHING, PLAIN, Variety

FRONT, RIGHT, BACK = 0.0, math.pi / 2, math.pi
NOTHING = EVERYTHING.without(*(setting.name for setting in fields(Variety)))


def person(number=3, **changes):
    return replace(Identity.random(stream(number)), **changes)


def taken(camera, identity, variety=NOTHING, heading=FRONT, seed=5):
    """A box as (128, 64, 3) int."""
    seen = Appearance(identity, Pose(), heading)
    return np.asarray(photograph(seen, camera, stream(seed), Framing(0.93, 0, -0.03), variety)).astype(int)


# -- solids


@pytest.mark.parametrize(("heading", "half"), [(FRONT, 20), (RIGHT, 10), (BACK, 20), (math.pi / 4, 15.8)])
def test_an_elliptic_column_is_as_broad_as_geometry_says(heading, half):
    column = Solid(0, (0, 0.1, 0), (0, 0.9, 0), (0.2, 0.2), (0.1, 0.1), cap=0.1)
    surface = render([column], Eye(heading, 0, 0, 100, 50, 100), (100, 100), (0, 0, 1))
    row = surface.pixels[surface.pixels // 100 == 50] % 100
    assert len(row) == pytest.approx(2 * half, abs=1.5)
    azimuth = surface.azimuth[surface.pixels // 100 == 50]
    # What faces the camera is the front, the right side, the back; a slanting ellipse faces it with another part.
    if heading != math.pi / 4:
        assert abs(np.angle(np.exp(1j * (azimuth[len(row) // 2] - heading)))) < 0.1


def test_what_is_nearer_hides_what_is_behind():
    near, far = Solid(1, (0, 0.5, 0.3), (0, 0.6, 0.3), (0.1, 0.1)), Solid(2, (0, 0.5, 0), (0, 0.6, 0), (0.2, 0.2))
    eye = Eye(FRONT, 0, 0, 100, 50, 100)
    for order in ([near, far], [far, near]):
        surface = render(order, eye, (100, 100), (0, 0, 1))
        seen = dict(zip(surface.pixels.tolist(), surface.material.tolist(), strict=True))
        assert seen[45 * 100 + 50] == 1
        assert seen[45 * 100 + 65] == 2
    behind = render([near, far], Eye(BACK, 0, 0, 100, 50, 100), (100, 100), (0, 0, 1))
    assert set(behind.material) == {2}


def test_the_head_is_larger_than_the_feet_from_above_and_smaller_from_below():
    head, feet = Solid(1, (0, 0.9, 0), (0, 0.9, 0), (0.05, 0.05)), Solid(2, (0, 0.1, 0), (0, 0.1, 0), (0.05, 0.05))
    level = render([head, feet], Eye(FRONT, 0, 0, 200, 100, 200), (200, 250), (0, 0, 1))
    above = render([head, feet], Eye(FRONT, 0.5, 0.4, 200, 100, 200), (200, 250), (0, 0, 1))
    assert (level.material == 1).sum() == pytest.approx((level.material == 2).sum(), rel=0.05)
    assert (level.material == 1).sum() == pytest.approx(math.pi * 10**2, rel=0.05)
    below = render([head, feet], Eye(FRONT, -0.3, 0.4, 200, 100, 200), (200, 250), (0, 0, 1))
    assert (above.material == 1).sum() > 1.2 * (above.material == 2).sum()
    assert (below.material == 1).sum() < 0.9 * (below.material == 2).sum()


# -- people


@pytest.mark.parametrize("heading", [FRONT, RIGHT, BACK, -RIGHT])
def test_a_person_fills_the_sheet_from_crown_to_sole(heading):
    identity = person(hat=None, hair_style="short", bag=None)
    for height in (64, 300):
        sheet = figures.figure(identity, Pose(0.4), heading, height)
        assert (sheet.mode, sheet.height) == ("RGBA", height)
        left, top, right, bottom = sheet.getbbox()
        assert top <= 0.05 * height
        assert bottom >= 0.96 * height
        assert 0 < left < right < sheet.width  # nothing is cut off at the sides


def test_bones_keep_their_length_and_a_foot_stands_on_the_ground_in_every_phase():
    identity = person()
    lengths = []
    for phase in np.linspace(0, 2 * math.pi, 9):
        frame = joints(identity, Pose(phase, stride=1.0))
        lengths.append([math.dist(a, b) for a, b in zip(frame.hip + frame.knee, frame.knee + frame.ankle, strict=True)])
        assert min(ankle[1] for ankle in frame.ankle) == pytest.approx(0.035, abs=0.03)
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], (9, 4)), rtol=0.02)
    apart = [abs(a[2] - b[2]) for a, b in [joints(identity, Pose(math.pi / 2, stride=1.0)).ankle]]
    assert apart[0] > 0.25


def test_a_print_is_seen_from_in_front_and_not_from_behind():
    ink = np.full((16, 16, 4), (250, 0, 0, 1), np.float32)
    top = Cloth((10, 10, 200), (0, 0, 0), print=ink, where=(0.0, 0.7, 0.5, 0.06))
    identity = person(top=top, jacket=None, bag=None, dress=False)
    red = {}
    for heading in (FRONT, BACK):
        pixels = np.asarray(figures.figure(identity, Pose(), heading, 200)).astype(int)
        red[heading] = ((pixels[..., 0] > 120) & (pixels[..., 2] < 40) & (pixels[..., 3] > 0)).sum()
    assert red[FRONT] > 100
    assert red[BACK] < 10


def test_hoops_are_level_and_stripes_upright():
    azimuth, height = np.meshgrid(np.linspace(-1, 1, 50), np.linspace(0.5, 0.8, 60))
    for pattern, axis in (("hoops", 1), ("stripes", 0)):
        cloth = Cloth((0, 0, 0), (200, 200, 200), pattern, 0.06, 0.5)
        colour = cloth.paint(azimuth.ravel(), height.ravel())[:, 0].reshape(azimuth.shape)
        assert colour.std(axis=axis).max() == 0
        assert 60 < colour.mean() < 140


def test_light_from_one_side_makes_that_side_bright():
    identity = person(top=Cloth((120, 120, 120), (0, 0, 0)), jacket=None)
    eye = Eye(FRONT, 0, 0, 200, 80, 210)
    means = []
    for side in (-1, 1):
        light = figures.Light((side, 0.2, 0.3), strength=0.8, folds=0.0)
        pixels, colour = figures.draw_person(identity, Pose(), eye, (160, 220), light)
        right = pixels % 160 > 85
        means.append(colour[right].mean() - colour[~right].mean())
    assert means[0] < 0 < means[1]


def test_the_colours_of_richer_drawings():
    plain, rich = EVERYTHING, replace(EVERYTHING, second=(0.5, 0.5), vivid=(2.0, 2.0), skin=(0.8, 0.8))
    one, other = (Identity.random(stream(3), variety) for variety in (plain, rich))
    assert other.skin == pytest.approx([0.8 * value for value in one.skin])
    assert (other.stature, other.top.pattern, other.shoes) == (one.stature, one.top.pattern, one.shoes)
    grey = sum(one.top.colour) / 3
    assert other.top.colour == pytest.approx([min(250, max(8, grey + 2 * (value - grey))) for value in one.top.colour])


def test_settings_that_came_later_leave_the_pictures_of_the_sample_as_they_are():
    one = sample.plan(identities=4)[5]
    assert (one.variety.second, one.variety.vivid, one.variety.skin) == ((1, 1), (1, 1), (1, 1))
    darker = replace(one, variety=replace(one.variety, skin=(0.5, 0.5)))
    plain, other = (np.asarray(shot.draw()).astype(int) for shot in (one, darker))
    changed = np.abs(plain - other).max(axis=2) > 0
    assert 0.005 < changed.mean() < 0.6  # no random number was used up: all but the skin is the same
    assert plain[changed].mean() > other[changed].mean() + 10


def test_changed_is_the_same_person_with_less_on():
    changed = [person(jacket=Cloth((0, 0, 0), (1, 1, 1)), bag="hand").changed(stream(n)) for n in range(40)]
    assert {one.jacket is None for one in changed} == {True, False}
    assert {one.bag for one in changed} == {"hand", None}
    assert {(one.stature, one.skin, one.top.colour) for one in changed} == {
        (person().stature, person().skin, person().top.colour)
    }


def test_dressed_as_takes_the_clothes_and_leaves_the_body():
    one, other = person(1), person(2)
    twin = one.dressed_as(other)
    assert (twin.top, twin.lower_cloth, twin.jacket) == (other.top, other.lower_cloth, other.jacket)
    assert (twin.stature, twin.hair, twin.shoes, twin.bag) == (one.stature, one.hair, one.shoes, one.bag)


# -- places and cameras


def test_places_differ_by_seed_and_people_are_larger_in_front():
    first, again, other = (places.draw_place(stream(seed), 0.2) for seed in (1, 1, 2))
    assert first.picture.size == (places.WIDTH, places.HEIGHT)
    assert np.array_equal(first.picture, again.picture)
    assert np.abs(np.asarray(first.picture).astype(int) - np.asarray(other.picture)).mean() > 10
    assert first.unit(places.HEIGHT) > first.unit(first.edge) > 40


def test_exposure_and_white_balance_of_a_camera_are_in_its_pictures():
    camera, identity = Camera.random(0, 1, NOTHING), person()
    plain = taken(camera, identity)
    darker = taken(replace(camera, exposure=0.5), identity)
    red = taken(replace(camera, gains=(1.2, 1.0, 1.0)), identity)
    assert darker.mean() == pytest.approx(plain.mean() / 2, rel=0.05)
    assert np.abs(red - plain)[..., 1:].max() == 0
    assert red[..., 0].mean() > 1.1 * plain[..., 0].mean()


def test_low_resolution_and_softness_take_detail_away():
    def detail(picture):
        return np.abs(np.diff(picture.mean(axis=2), axis=1)).mean()

    camera, identity = Camera.random(0, 1, NOTHING), person()
    plain = detail(taken(camera, identity))
    assert detail(taken(camera, identity, replace(NOTHING, resolution=(26, 26)))) < 0.6 * plain
    assert detail(taken(replace(camera, sharpness=-1.0), identity)) < 0.9 * plain
    assert detail(taken(replace(camera, sharpness=1.0), identity)) > 1.1 * plain


@pytest.mark.parametrize("name", ["occlusion", "company", "behind", "shade", "motion"])
def test_a_chance_of_one_changes_the_picture(name):
    camera, identity = Camera.random(0, 1, NOTHING), person()
    changed = taken(camera, identity, replace(NOTHING, **{name: 1.0}))
    assert np.abs(changed - taken(camera, identity)).max() > 30


def test_without_takes_out_what_it_names_and_knows_no_other():
    assert EVERYTHING.without("noise", "bag") == replace(EVERYTHING, noise=(0.0, 0.0), bag=0.0)
    assert EVERYTHING.without("exposure").exposure == (1.0, 1.0)
    assert set(PLAIN) <= {setting.name for setting in fields(Variety)}
    with pytest.raises(KeyError):
        EVERYTHING.without("nose")
