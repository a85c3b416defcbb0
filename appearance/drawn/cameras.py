"""Synthetic cameras, each with a place, lighting and image defects, and the person crops taken by them.

This file makes re-identification hard: cameras change colours and sharpness, objects occlude people, boxes are badly
placed. `sample.py` uses it for datasets, `examples/scene.py` for moving scenes.
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from appearance.drawn import furniture
from appearance.drawn.figures import Light, draw_person
from appearance.drawn.people import Identity
from appearance.drawn.places import Place, draw_place
from appearance.drawn.poses import Pose
from appearance.drawn.solids import Eye
from appearance.drawn.variety import EVERYTHING, Variety

WIDTH, HEIGHT = 64, 128  # pixels of a crop
TALL = 160  # height in pixels at which a crop is rendered, before camera effects
CAMERA_STREAM, PLACE_STREAM = 90, 91  # first part of the stream keys; `sample.py` uses smaller numbers


def stream(seed: int, *key: int) -> np.random.Generator:
    """A random generator for one object, by its key: independent of process and order of calls."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, *key))))


@dataclass(frozen=True)
class Camera:
    """Mounting, light and image properties of a camera."""

    seed: int
    number: int  # from 1, as in the file names
    tilt: float  # see Variety, as for all fields without a comment
    nearness: float
    exposure: float
    gains: tuple[float, float, float]  # white balance: red, green, blue
    contrast: float
    haze: float
    saturation: float
    night: bool
    sun: "tuple[float, float] | None"  # shadow offset right and down, per unit of height; None: no shadows
    light: tuple[float, float, float]  # direction to the light: right, up, towards the camera
    shading: float
    sharpness: float
    noise: float
    quality: int  # JPEG quality
    resolution: float  # typical height of a box in pixels

    @classmethod
    def random(cls, seed: int, number: int, variety: Variety = EVERYTHING) -> "Camera":
        rng = stream(seed, CAMERA_STREAM, number)
        chance = rng.random
        night = chance() < variety.night
        cast = rng.normal(0, rng.uniform(*variety.cast), 3) + np.array((0.02, 0, -0.02)) * (variety.cast[1] > 0)
        angle = rng.uniform(-math.pi, math.pi)
        sun = (rng.uniform(0.2, 1.2) * math.cos(angle), 0.35 * math.sin(angle)) if chance() < variety.sun else None
        low, high = variety.resolution
        away = -math.cos(angle) if sun else rng.uniform(-0.6, 0.6)
        return cls(
            seed=seed,
            number=number,
            tilt=float(rng.uniform(*variety.tilt)),
            nearness=float(rng.uniform(*variety.nearness)),
            exposure=float(rng.uniform(*variety.exposure)) * (0.62 if night else 1.0),
            gains=tuple(1 + cast * (2 if night else 1)),
            contrast=float(rng.uniform(*variety.contrast)),
            haze=float(rng.uniform(*variety.haze)),
            saturation=float(rng.uniform(*variety.saturation)),
            night=night,
            sun=sun,
            light=(away, float(rng.uniform(0.2, 0.9)), float(rng.uniform(0.3, 1.0))),
            shading=float(rng.uniform(*variety.shading)),
            sharpness=float(rng.uniform(*variety.sharpness)),
            noise=float(rng.uniform(*variety.noise)) * (1.8 if night else 1.0),
            quality=int(rng.uniform(*variety.quality)),
            resolution=float(high - (high - low) * rng.random() ** 1.7),
        )

    def place(self) -> Place:
        """The camera's empty place, always the same."""
        return place_of(self.seed, self.number, self.tilt)

    def develop(self, image: Image.Image, rng: np.random.Generator, flicker: float = 1.0) -> Image.Image:
        """Apply this camera's sharpness, colours and noise to a rendered RGB image; same size.

        Args:
            flicker: factor on the exposure of this image.
        """
        if self.sharpness < 0:
            image = image.filter(ImageFilter.BoxBlur(-1.2 * self.sharpness * image.width / WIDTH))
        elif self.sharpness > 0:
            image = Image.blend(image.filter(ImageFilter.BoxBlur(1)), image, 1 + self.sharpness)
        pixels = np.asarray(image).astype(np.float32)  # (H, W, 3)
        gains = np.array(self.gains, np.float32) * np.float32(self.exposure * flicker)
        grey = pixels @ np.array((0.3, 0.55, 0.15), np.float32)
        pixels *= np.float32(self.saturation)
        pixels += (np.float32(1 - self.saturation) * grey)[..., None]
        pixels *= gains * np.float32(self.contrast * (1 - self.haze))
        pixels += np.float32(95 * (1 - self.contrast) * (1 - self.haze) + 150 * self.haze)
        if self.noise:
            grain = rng.standard_normal(pixels.shape, dtype=np.float32)
            pixels += grain * np.float32(self.noise)
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@functools.lru_cache(maxsize=8)  # 0.05 s per place: draw the images of one camera together
def place_of(seed: int, number: int, tilt: float) -> Place:
    return draw_place(stream(seed, PLACE_STREAM, number), tilt)


@dataclass(frozen=True)
class Framing:
    """Position of a person in a box. `fill` and `dy` are fractions of the box's height, `dx` of its width."""

    fill: float  # height of the person; above 1 the box is too tight
    dx: float  # offset of the body's centre line from the box's centre
    dy: float  # the soles below the lower edge (negative: above)

    @classmethod
    def random(cls, rng: np.random.Generator, variety: Variety = EVERYTHING) -> "Framing":
        fill, shift = rng.uniform(*variety.size), rng.uniform(*variety.shift)
        dx, dy = rng.normal(0, shift), -(1 - fill) / 2 + 0.5 * rng.normal(0, shift)
        if rng.random() < variety.cut:
            kind = rng.random()
            if kind < 0.35:  # too loose
                fill, dy = rng.uniform(0.62, 0.8), -rng.uniform(0.03, 0.16)
            elif kind < 0.6:  # too tight
                fill, dy = rng.uniform(1.05, 1.35), rng.uniform(0.01, 0.25)
            elif kind < 0.8:  # shifted sideways, or at the frame's border
                dx = rng.choice([-1, 1]) * rng.uniform(0.15, 0.35)
            else:  # without the feet
                dy = rng.uniform(0.08, 0.3)
        return cls(float(fill), float(dx), float(dy))

    @classmethod
    def piece(cls, rng: np.random.Generator) -> "Framing":
        """A junk box: a part of a person, much too large or half outside."""
        fill, dx, dy = rng.uniform(1.9, 3.0), rng.uniform(-0.5, 0.5), rng.uniform(0.1, 1.6)
        if rng.random() < 0.4:
            fill, dx, dy = rng.uniform(0.8, 1.1), rng.choice([-1, 1]) * rng.uniform(0.45, 0.62), rng.uniform(-0.3, 0.5)
        return cls(float(fill), float(dx), float(dy))


@dataclass(frozen=True)
class Appearance:
    """A person in one image."""

    identity: Identity
    pose: Pose
    heading: float  # radians, see Eye
    umbrella: bool = False


def passer_by(rng: np.random.Generator, variety: Variety) -> Appearance:
    """A random person who is not in the dataset."""
    pose = Pose.random(rng, rng.uniform(0, 2 * math.pi), variety)
    return Appearance(Identity.random(rng, variety), pose, float(rng.uniform(*variety.heading)))


def put(canvas: Image.Image, person: Appearance, camera: Camera, framing: Framing, rng, variety: Variety):
    """Draw a person into `canvas` (RGB, in place), with shadow, bicycle and umbrella."""
    width, height = canvas.size
    tilt = camera.tilt
    unit = height * framing.fill / (math.cos(tilt) + 0.16 * math.sin(tilt))
    x, y = width * (0.5 + framing.dx), height * (1 + framing.dy) - 0.07 * unit * math.sin(tilt)
    eye = Eye(person.heading, tilt, camera.nearness, unit * 0.985, x, y)
    light = Light(camera.light, camera.shading, float(rng.uniform(*variety.folds)), int(rng.integers(256)))
    pixels, colour = draw_person(person.identity, person.pose, eye, canvas.size, light)

    draw = ImageDraw.Draw(canvas, "RGBA")
    rx, ry = unit * 0.13, unit * (0.02 + 0.08 * math.sin(tilt))
    for grow in (1.2, 0.8):
        draw.ellipse([x - grow * rx, y - grow * ry, x + grow * rx, y + grow * ry], fill=(12, 12, 16, 70))
    if camera.sun and len(pixels):
        right, down = camera.sun
        down += 0.02
        mask = np.zeros(width * height, np.uint8)
        mask[pixels] = 110
        # A point h above the feet casts its shadow h * right beside and h * down below them.
        inverse = (1, -right / down, right / down * y, 0, -1 / down, y + y / down)
        shadow = Image.fromarray(mask.reshape(height, width)).transform(canvas.size, Image.Transform.AFFINE, inverse)
        canvas.paste((18, 18, 24), (0, 0), shadow)
    if person.pose.rides:
        turn = math.sin(person.heading)
        furniture.bicycle(draw, x, y, unit * 0.95, rng, person.identity.bicycle, turn)
    flat = np.array(canvas).reshape(-1, 3)
    flat[pixels] = colour.clip(0, 255)
    canvas.paste(Image.fromarray(flat.reshape(height, width, 3)))
    if person.umbrella:
        furniture.umbrella(ImageDraw.Draw(canvas), x, y - unit * math.cos(tilt), unit, rng, person.identity.umbrella)


def occlude(canvas: Image.Image, rng: np.random.Generator):
    """Draw an object in front of the person, in place; it stands at the box's lower edge or below."""
    width, height = canvas.size
    thing = furniture.LOW_THINGS[int(rng.integers(len(furniture.LOW_THINGS)))]
    ground, x = height * rng.uniform(0.97, 1.3), width * (0.5 + rng.choice([-1, 1]) * rng.uniform(0.1, 0.7))
    thing(ImageDraw.Draw(canvas), x, ground, height * rng.uniform(0.6, 1.0), rng)


def darken(canvas: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Darken a part of the box, as the shadow of a building does, with a soft or sharp edge."""
    width, height = canvas.size
    angle, edge = rng.uniform(0, 2 * math.pi), rng.uniform(0.03, 0.6)
    x, y = np.arange(width) / width - 0.5, np.arange(height)[:, None] / height - 0.5
    depth = ((x * math.cos(angle) + y * math.sin(angle) + rng.uniform(-0.3, 0.3)) / edge + 0.5).clip(0, 1)
    factor = 1 - rng.uniform(0.2, 0.6) * depth
    return Image.fromarray((np.asarray(canvas) * factor[..., None].astype(np.float32)).astype(np.uint8))


def smear(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Horizontal motion blur over up to a tenth of the width."""
    reach = max(1, round(rng.uniform(0.01, 0.03) * image.width))
    pixels = np.asarray(image).astype(np.uint16)
    total = sum(np.roll(pixels, step, axis=1) for step in range(-reach, reach + 1))
    return Image.fromarray((total // (2 * reach + 1)).astype(np.uint8))


def photograph(
    person: "Appearance | None",
    camera: Camera,
    rng: np.random.Generator,
    framing: Framing,
    variety: Variety = EVERYTHING,
) -> Image.Image:
    """A crop by `camera` as a WIDTH x HEIGHT RGB image. `person` None: background only."""
    chance = rng.random
    canvas = window(camera.place(), framing, float(rng.uniform(*variety.aspect)), rng)
    if chance() < variety.behind:
        small = framing.fill * rng.uniform(0.4, 0.75)
        away = Framing(small, rng.uniform(-0.6, 0.6), min(framing.dy, 0) - rng.uniform(0.05, 0.3))
        put(canvas, passer_by(rng, variety), camera, away, rng, variety)
    people = [] if person is None else [(framing, person)]
    if chance() < variety.company:
        dx = framing.dx + float(rng.choice([-1, 1]) * rng.uniform(0.35, 0.7))
        other = Framing(framing.fill * rng.uniform(0.88, 1.08), dx, framing.dy + rng.uniform(-0.06, 0.04))
        people.append((other, passer_by(rng, variety)))
    for where, somebody in sorted(people, key=lambda pair: pair[0].dy):  # farther people first
        put(canvas, somebody, camera, where, rng, variety)
    if chance() < variety.occlusion:
        occlude(canvas, rng)
    if chance() < variety.shade:
        canvas = darken(canvas, rng)
    low, high = variety.resolution
    tall = round(float(np.clip(camera.resolution * rng.uniform(0.7, 1.2), low, min(high, HEIGHT))))
    canvas = canvas.resize((round(tall / 2), tall), Image.Resampling.BOX)
    if chance() < variety.motion:
        canvas = smear(canvas, rng)
    image = camera.develop(canvas, rng, float(rng.uniform(*variety.flicker)))
    return image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) if image.size != (WIDTH, HEIGHT) else image


def window(place: Place, framing: Framing, aspect: float, rng: np.random.Generator) -> Image.Image:
    """The background of a box: a random part of the place, at the scale of the person. TALL pixels high, RGB."""
    width, height = place.picture.size
    row = rng.uniform(place.edge + 4, height)
    tall = min(place.unit(row) / min(framing.fill, 1.2), height - 1)
    wide = tall * aspect
    top = min(max(0.0, row - framing.dy * tall - tall), height - tall)
    left = rng.uniform(0, width - wide)
    size, part = (round(TALL * aspect), TALL), (left, top, left + wide, top + tall)
    return place.picture.resize(size, Image.Resampling.BILINEAR, part)
