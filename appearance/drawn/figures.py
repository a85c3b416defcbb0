"""Render a person: solids for body, clothes and bags, painted, folded and lit."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from appearance.drawn.cloth import Cloth
from appearance.drawn.people import Identity
from appearance.drawn.poses import Joints, Pose, joints
from appearance.drawn.solids import Eye, Solid, render


@dataclass(frozen=True)
class Light:
    """Light on a body, and the folds of its clothes."""

    direction: tuple[float, float, float] = (-0.4, 0.6, 0.7)  # to the light: right, up, towards the camera
    strength: float = 0.5  # of the shading: 0 flat, 1 black on the unlit side
    folds: float = 0.25  # depth of the folds, in brightness
    crease: int = 0  # selects the folds, which change from image to image


class Wardrobe:
    """The solids of a person and the paints of their materials."""

    def __init__(self):
        self.solids: list[Solid] = []
        self.paints = []  # an RGB colour, or a function (azimuth, height) -> (n, 3) colours
        self.folds: list[float] = []  # per paint: 1 folds as cloth, 0 smooth

    def material(self, paint, folds=1.0) -> int:
        """Add a paint (a colour, a Cloth or a function); returns its number."""
        if isinstance(paint, Cloth):
            plain = paint.pattern == "plain" and paint.print is None
            paint = paint.colour if plain else paint.paint
        self.paints.append(paint)
        self.folds.append(folds)
        return len(self.paints) - 1

    def add(self, material, low, high, breadth, depth=None, cap=1.0, square=False):
        depth = None if depth is None else tuple(depth)
        self.solids.append(Solid(material, low, high, tuple(breadth), depth, cap, square))


def between(a, b, share):
    """The point at the fraction `share` of the way from a to b."""
    return tuple(p + (q - p) * share for p, q in zip(a, b, strict=True))


def dress(identity: Identity, pose: Pose) -> Wardrobe:
    """All solids and paints of a person."""
    wardrobe, frame = Wardrobe(), joints(identity, pose)
    skin = wardrobe.material(identity.skin, 0.15)
    lower = wardrobe.material(identity.top if identity.dress else identity.lower_cloth)
    legs(wardrobe, identity, frame, skin, lower)
    hips(wardrobe, identity, frame, lower)
    trunk(wardrobe, identity, frame, skin)
    arms(wardrobe, identity, frame, skin)
    head(wardrobe, identity, pose, frame)
    if identity.bag and (identity.bag == "backpack" or not pose.rides):
        bag(wardrobe, identity, frame)
    return wardrobe


def legs(wardrobe: Wardrobe, identity: Identity, frame: Joints, skin: int, cloth: int):
    """Add bare legs, trousers or shorts, and shoes."""
    shoe = wardrobe.material(identity.shoes, 0.2)
    sock = wardrobe.material(identity.socks, 0.2) if identity.socks else skin
    build = 0.35 + 0.65 * identity.build
    thigh, calf, thin = 0.051 * build, 0.036 * build, 0.021
    bare = identity.lower == "skirt" or identity.lower_hem > 0.05
    for hip, knee, ankle, toe in zip(frame.hip, frame.knee, frame.ankle, frame.toe, strict=True):
        heel = (ankle[0], ankle[1] - 0.016, ankle[2] - 0.014)
        wardrobe.add(shoe, heel, toe, (0.023, 0.02))
        if identity.boots:
            wardrobe.add(shoe, ankle, between(ankle, knee, 0.5), (0.026, 0.036))
        if bare:
            wardrobe.add(skin, ankle, knee, (thin, calf * 1.05, calf))
            wardrobe.add(skin, knee, hip, (calf, thigh))
            wardrobe.add(sock, heel, ankle, (0.021, 0.024))
        if identity.lower == "skirt":
            continue
        slack = identity.loose * (0.3 if identity.lower == "tights" else 1.0) + 0.003
        if identity.lower_hem > 0.25:  # to above or about the knee
            share = min(0.9, (hip[1] - identity.lower_hem) / 0.26)
            end = between(hip, knee, share)
            wide = thigh + (calf - thigh) * share + slack * 1.3 + 0.006
            wardrobe.add(cloth, end, hip, (wide, thigh + slack), cap=0.35)
        else:
            share = min(1.0, max(0.3, (identity.lower_hem - 0.035) / 0.2))
            end = between(ankle, knee, share) if identity.lower_hem > 0.05 else ankle
            wardrobe.add(cloth, end, knee, (thin + slack + 0.006, calf + slack), cap=0.6)
            wardrobe.add(cloth, knee, hip, (calf + slack, thigh + slack * 0.8))


def hips(wardrobe: Wardrobe, identity: Identity, frame: Joints, cloth: int):
    """Add the skirt, as wide as the step, or the seat of the trousers."""
    waist, build = frame.waist, identity.build
    a, b = 0.088 * build * identity.hips, 0.062 * (0.4 + 0.6 * build)
    if identity.lower == "skirt":
        reach = [abs(z) for *_, z in (*frame.knee, *(frame.ankle if identity.lower_hem < 0.25 else ()))]
        spread = 0.9 * max(reach)
        drop = waist[1] - identity.legs
        low, wide = (0.0, identity.lower_hem + drop, 0.0), identity.flare
        wardrobe.add(
            cloth,
            low,
            (0.0, waist[1] + 0.1, 0.0),
            (a * wide + 0.015, a * (0.6 + 0.4 * wide) + 0.008, a * 0.98, a * 0.85),
            (b * wide + 0.015 + spread, b * (0.6 + 0.4 * wide) + 0.012 + spread * 0.5, b * 1.15, b),
            cap=0.12,
            square=True,
        )
    else:
        wardrobe.add(cloth, (0.0, waist[1] - 0.03, 0.0), (0.0, waist[1] + 0.06, 0.0), (a, a), (b, b * 0.95), cap=0.5)


def trunk(wardrobe: Wardrobe, identity: Identity, frame: Joints, skin: int):
    """Add the upper body with top and jacket; straps are painted on."""
    build = identity.build
    thick = 0.4 + 0.6 * build
    lean = math.tan(frame.lean)
    up = frame.waist[1] - identity.legs

    def at(height):  # on the leaning axis
        return 0.0, height + up, (height - identity.legs) * lean

    def garment(cloth, hem, slack, cap):
        swell = 0.022 * identity.belly
        shoulders, chest = 0.094 * (0.45 + 0.55 * build), 0.096 * build
        waist, hips = 0.080 * build + 0.5 * swell, 0.086 * build * identity.hips
        breadth = np.interp(
            np.linspace(hem, 0.835, 9), [0.2, 0.44, 0.52, 0.62, 0.72, 0.785, 0.815, 0.835],
            [hips * 1.15, hips * 1.06, hips, waist, chest, shoulders, shoulders * 0.72, 0.04],
        )  # fmt: skip
        depth = np.interp(
            np.linspace(hem, 0.835, 9), [0.2, 0.5, 0.6, 0.72, 0.79, 0.835],
            [0.082 * thick, 0.074 * thick, 0.06 * thick + swell, 0.066 * thick, 0.05 * thick, 0.034],
        )  # fmt: skip
        taper = np.linspace(1, 0.25, 9)
        material = wardrobe.material(straps(identity, cloth))
        wardrobe.add(material, at(hem), at(0.835), breadth + slack * taper, depth + slack * taper, cap, square=True)

    top = identity.top
    garment(top, 0.5 if identity.dress else identity.hem, 0.004 + 0.6 * identity.loose, 0.12)
    if identity.jacket is not None:
        inner, outer, opening = top, identity.jacket, identity.opening

        def jacket(azimuth, height):
            colour = outer.paint(azimuth, height)
            if opening:
                open_here = np.abs(azimuth) < opening * (0.25 + 1.4 * (height - 0.4))
                colour[open_here] = inner.paint(azimuth[open_here], height[open_here])
            else:
                colour[np.abs(azimuth) < 0.05] *= 0.6  # the zip
            return colour

        garment(jacket, identity.jacket_hem, 0.014 + 0.6 * identity.loose, 0.15)
    wardrobe.add(skin, at(0.80), at(0.875), (0.034 * thick, 0.03 * thick))
    if identity.collar:
        collar = wardrobe.material(identity.jacket.colour if identity.jacket else top.colour)
        wardrobe.add(collar, at(0.815), at(0.845), (0.05, 0.04), (0.045, 0.036), 0.3)


def straps(identity: Identity, cloth):
    """The paint of a top, with neckline, belt and the straps of a bag."""
    paint = cloth.paint if isinstance(cloth, Cloth) else cloth
    bag, side, colour = identity.bag, identity.bag_side, np.array(identity.bag_cloth.colour, np.float32) * 0.85
    neck = None if identity.collar or not isinstance(cloth, Cloth) else np.array(identity.skin, np.float32) * 0.95

    def painted(azimuth, height):
        result = paint(azimuth, height)
        if neck is not None:
            result[(np.abs(azimuth) < 0.9) & (height > 0.845 - 0.04 * np.cos(azimuth * 1.2))] = neck
        if identity.dress and identity.belt:
            result[np.abs(height - 0.6) < 0.012] = identity.belt
        if bag == "backpack":
            result[(np.abs(np.abs(azimuth) - 0.75) < 0.14) & (height > 0.64)] = colour
        elif bag == "shoulder":
            slope = 0.66 - side * 0.16 * np.sin(azimuth)  # from one shoulder to the other hip, and round the back
            result[np.abs(height - slope) < 0.016] = colour
        return result

    return painted


def arms(wardrobe: Wardrobe, identity: Identity, frame: Joints, skin: int):
    """Add arms, sleeves of the outer garment, and hands."""
    thick = 0.5 + 0.5 * identity.build
    over = identity.jacket
    length = 1.0 if over is not None else identity.sleeves
    colour = identity.sleeve if over is None and identity.sleeve else (over or identity.top)
    if isinstance(colour, Cloth):  # no print on an arm
        colour = Cloth(colour.colour, colour.second, colour.pattern, colour.period, colour.duty)
    sleeve = wardrobe.material(colour)
    slack = 0.004 + 0.35 * identity.loose + (0.006 if over is not None else 0.0)
    for shoulder, elbow, hand in zip(frame.shoulder, frame.elbow, frame.hand, strict=True):
        wardrobe.add(skin, hand, between(hand, elbow, -0.2), (0.021, 0.017))
        if length < 1:
            wardrobe.add(skin, hand, elbow, (0.017 * thick, 0.024 * thick))
            wardrobe.add(skin, elbow, shoulder, (0.024 * thick, 0.024 * thick))
        if length > 0.5:
            end = between(elbow, hand, min(0.92, 2 * length - 1))
            wardrobe.add(sleeve, end, elbow, (0.02 * thick + slack, 0.026 * thick + slack), cap=0.5)
        if length > 0:
            share = min(1.0, 2 * length)
            end = between(shoulder, elbow, share)
            wide = (0.031 - 0.006 * share) * thick + slack + (0.006 if share < 1 else 0)
            wardrobe.add(sleeve, end, shoulder, (wide, 0.029 * thick + slack), cap=0.6 if share < 1 else 0.9)


def head(wardrobe: Wardrobe, identity: Identity, pose: Pose, frame: Joints):
    """Add the head with a painted face, hair, hat and hood."""
    size = 1.72 / identity.stature * 0.5 + 0.5  # heads differ less than statures
    lean = math.sin(frame.lean) * 0.5
    up = frame.waist[1] - identity.legs - 0.32 * (1 - math.cos(frame.lean))
    forward = (0.82 - identity.legs) * math.tan(frame.lean) + 0.012

    def at(height, ahead=0.0):
        height = 0.865 + (height - 0.865) * size
        depth = forward + ahead * math.cos(pose.turn) + (height - 0.865) * lean
        return ahead * math.sin(pose.turn), height + up, depth

    turn, hair = pose.turn, identity.hair
    style, tint = identity.hair_style, np.array(identity.skin, np.float32)
    bare = style == "bald" or identity.hat == "hood"

    def face(azimuth, height):
        azimuth, height = np.abs(azimuth + turn), (height - up - 0.865) / size + 0.865
        colour = np.empty((len(height), 3), np.float32)
        colour[:] = identity.skin
        colour[(azimuth < 0.4) & (np.abs(height - 0.893) < 0.004)] = tint * (0.75, 0.6, 0.6)
        if identity.beard:
            colour[(azimuth < 1.3) & (height < 0.905) & (height > 0.8)] = hair
        if identity.mask:
            colour[(azimuth < 1.1) & (height < 0.92)] = (205, 215, 225)
        eyes = (np.abs(azimuth - 0.42) < 0.2) & (np.abs(height - 0.932) < 0.006)
        colour[eyes] = tint * 0.35
        if identity.glasses:
            rim = 0.011 if identity.glasses == "dark" else 0.005
            colour[(azimuth < 1.5) & (np.abs(height - 0.932) < rim)] = (26, 26, 28)
        if not bare:
            colour[(azimuth > 1.35) & (height > 0.9)] = hair
            colour[height > 0.968 - 0.02 * azimuth] = hair
        return colour

    number = wardrobe.material(face, 0.1)
    wardrobe.add(
        number, at(0.893), at(0.953),
        np.array((0.03, 0.041, 0.044, 0.042)) * size, np.array((0.036, 0.05, 0.054, 0.05)) * size,
    )  # fmt: skip
    curl = wardrobe.material(hair, 0.5)
    if style != "bald":
        volume = {"full": 1.2, "long": 1.08, "short": 1.04}.get(style, 1.02) * size
        wardrobe.add(
            curl, at(0.935, -0.014), at(0.957, -0.010),
            np.array((0.044, 0.045)) * volume, np.array((0.046, 0.05)) * volume,
        )  # fmt: skip
        if style == "long":
            wardrobe.add(
                curl, at(0.80, -0.045), at(0.94, -0.02),
                np.array((0.05, 0.056, 0.046)) * size, np.array((0.018, 0.03, 0.04)) * size,
            )  # fmt: skip
        elif style == "ponytail":
            wardrobe.add(curl, at(0.83, -0.075), at(0.955, -0.06), (0.012, 0.022))
        elif style == "bun":
            wardrobe.add(curl, at(0.962, -0.06), at(0.967, -0.06), (0.024, 0.024))
    if identity.hat:
        hat = wardrobe.material(identity.hat_colour, 0.3)
        ball = np.array((0.048, 0.046)) * size
        if identity.hat == "cap":
            wardrobe.add(hat, at(0.957, -0.006), at(0.968, -0.006), ball, ball * 1.12, 0.8)
            wardrobe.add(hat, at(0.957, 0.03), at(0.953, 0.075), (0.034, 0.028), (0.012, 0.01), 0.4)
        elif identity.hat == "hat":
            wardrobe.add(hat, at(0.955), at(0.985), ball, ball * 1.15, 0.4)
            wardrobe.add(hat, at(0.953), at(0.958), (0.085, 0.085), cap=0.15)
        elif identity.hat == "wool":
            wardrobe.add(hat, at(0.95, -0.006), at(0.966, -0.006), ball * 1.04, ball * 1.2)
        else:  # a hood
            hood = wardrobe.material((identity.jacket or identity.top).colour)
            wardrobe.add(hood, at(0.86, -0.02), at(0.957, -0.02), (0.056, 0.054), (0.05, 0.056))
    elif identity.jacket is not None and identity.opening:  # a hood or collar, down
        hood = wardrobe.material(identity.jacket.colour)
        wardrobe.add(hood, at(0.82, -0.055), at(0.845, -0.05), (0.06, 0.05), (0.03, 0.025), 0.6)


def bag(wardrobe: Wardrobe, identity: Identity, frame: Joints):
    """Add the bag; its straps are painted on the top."""
    cloth, size, side = wardrobe.material(identity.bag_cloth, 0.5), identity.bag_size, identity.bag_side
    thick = 0.4 + 0.6 * identity.build
    up, lean = frame.waist[1] - identity.legs, math.tan(frame.lean)
    hand = frame.hand[0 if side < 0 else 1]
    if identity.bag == "backpack":
        low, high = 0.79 - 0.19 * size, 0.79
        away = -(0.066 * thick + 0.035 * size)
        wardrobe.add(
            cloth, (0.0, low + up, away + (low - 0.5) * lean), (0.0, high + up, away + (high - 0.5) * lean),
            np.array((0.07, 0.078, 0.06)) * size, np.array((0.05, 0.052, 0.036)) * size, 0.35,
        )  # fmt: skip
    elif identity.bag == "shoulder":
        x = side * (0.1 * identity.build + 0.012)
        wardrobe.add(
            cloth, (x, 0.53 + up - 0.1 * size, -0.01), (x, 0.53 + up, -0.01),
            np.array((0.03, 0.026)) * size, np.array((0.075, 0.065)) * size, 0.25,
        )  # fmt: skip
    elif identity.bag == "suitcase":
        foot = (hand[0], 0.05, hand[2] - 0.22)
        wardrobe.add(cloth, foot, (foot[0], 0.3 * size, foot[2] - 0.02), (0.07, 0.07), (0.045, 0.045), 0.2)
        rod = wardrobe.material((90, 90, 92), 0.0)
        wardrobe.add(rod, (foot[0], 0.3, foot[2]), hand, (0.006, 0.006))
    else:
        tall, wide = (0.11, 0.062) if identity.bag == "hand" else (0.16, 0.05)
        x, y, z = hand
        shape = (wide * size, wide * size * (0.85 if identity.bag == "hand" else 0.5), 0.008)
        wardrobe.add(
            cloth, (x, y - (tall + 0.06) * size, z), (x, y - 0.02, z), np.array(shape) * 0.55, shape, 0.2
        )  # fmt: skip


@functools.lru_cache(maxsize=1)
def creases() -> np.ndarray:
    """The folds of all clothes: (256, 256) periodic smooth noise with standard deviation 1."""
    rng = np.random.default_rng(1)
    y, x = np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256), indexing="ij")
    frequency = np.hypot(2.2 * x + 1.2 * y, 0.9 * y - 0.5 * x)  # elongated and slanting
    spectrum = np.fft.fft2(rng.standard_normal((256, 256))) * np.exp(-((frequency * 9) ** 2)) * (frequency > 0.01)
    noise = np.fft.ifft2(spectrum).real
    return (noise / noise.std()).astype(np.float32)


def draw_person(
    identity: Identity, pose: Pose, eye: Eye, size: tuple[int, int], light: Light = Light()
) -> tuple[np.ndarray, np.ndarray]:
    """Render a person into an image of `size` (width, height).

    Returns:
        (n,) int positions of the covered pixels in the flattened image, and (n, 3) float32 colours, 0 to 255 or above.
    """
    wardrobe = dress(identity, pose)
    length = math.sqrt(sum(value * value for value in light.direction))
    surface = render(wardrobe.solids, eye, size, tuple(value / length for value in light.direction))
    flat = np.array([(0, 0, 0) if callable(paint) else paint for paint in wardrobe.paints], np.float32)
    colour = flat[surface.material]
    for number, paint in enumerate(wardrobe.paints):
        if callable(paint):
            where = np.flatnonzero(surface.material == number)
            if len(where):
                colour[where] = paint(wrapped(surface.azimuth[where]), surface.height[where])
    folds = np.array(wardrobe.folds, np.float32)[surface.material] * np.float32(light.folds)
    across = (surface.azimuth * 24 + 37 * surface.material).astype(np.int32) + light.crease
    down = (surface.height * 300).astype(np.int32)
    bright = np.float32(1 + 0.25 * light.strength) * (1 - light.strength * (0.5 - 0.5 * surface.light))
    bright += folds * 0.4 * creases()[down & 255, across & 255]
    bright -= np.float32(0.1) * (1 - surface.height)
    colour *= bright[:, None]
    return surface.pixels, colour


def wrapped(angle: np.ndarray) -> np.ndarray:
    """Angles wrapped to -pi to pi."""
    return np.remainder(angle + np.float32(math.pi), np.float32(2 * math.pi)) - np.float32(math.pi)


def figure(identity: Identity, pose: Pose, heading: float, height: int) -> Image.Image:
    """One person on a transparent RGBA image of (0.8 * height, height) pixels, seen from eye level."""
    size = (round(0.8 * height), height)
    eye = Eye(heading, 0.0, 0.0, height * 0.985, size[0] / 2, height - 0.5)
    pixels, colour = draw_person(identity, pose, eye, size)
    sheet = np.zeros((size[0] * size[1], 4), np.uint8)
    sheet[pixels, :3] = colour.clip(0, 255)
    sheet[pixels, 3] = 255
    return Image.fromarray(sheet.reshape(size[1], size[0], 4))
