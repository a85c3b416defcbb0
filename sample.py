"""The built-in sample dataset: pedestrians in six cameras, drawn with numpy and pillow, so that nothing is downloaded.

    python sample.py                                        # 144 identities into data/sample
    python sample.py --identities 1501 --out data/big       # as many identities as Market-1501
    python sample.py --contact-sheet sheet.png              # and a picture of some of the images

The folder has the layout of Market-1501 (64 x 128 JPEG files, width x height):

    bounding_box_train/0002_c1s1_000451_03.jpg    identity 2, camera 1, sequence 1, frame 451, box 3 of that frame
    query/                                        one image per test identity and camera
    bounding_box_test/                            the gallery; -1_c... is junk (ignored), 0000_c... are distractors

An identity is body shape, skin, hair, clothes (colour and pattern), shoes and bag. Everything else is there to make the
identity hard to see: the cameras change colours and sharpness, people turn and walk, things stand in front of them, and
boxes are badly cut. Clothing colours are few and shared, so that colour alone does not name a person.

The same seed gives the same bytes on one machine, however many processes draw: each image has a random stream of its
own, keyed by (seed, what, identity, index). `Identity`, `draw_person` and `Camera` know nothing of re-identification
and work at any size, e.g. to draw a moving scene for a tracker.
"""

import functools
import itertools
import json
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps
from tqdm import tqdm

import cli

VERSION = 2  # raise it when the same parameters no longer give the same pictures
DEFAULT_IDENTITIES = 144
MANY_IDENTITIES = 1000  # from here on half of the identities are for testing, as in Market-1501; below, a third
WIDTH, HEIGHT = 64, 128  # pixels of an image
SUPERSAMPLE = 2  # everything is drawn this much larger and averaged down, which smooths the edges
MARKER = "sample.json"  # in the root: which parameters drew this folder
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
FOLDERS = [TRAIN, QUERY, GALLERY]
JUNK, DISTRACTOR = -1, 0  # the identities that Market-1501 gives to the two kinds of gallery images without an owner

Rgb = tuple[int, int, int]


def stream(seed: int, *key: int) -> np.random.Generator:
    """The random stream of one thing, the same in whichever process and order it is asked for."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *key))))


# What a stream is for: the first part of its key.
IDENTITY_STREAM, ROUTE_STREAM, IMAGE_STREAM, STRANGER_STREAM, SCENE_STREAM = range(5)


# --------------------------------------------------------------------------------------------------------- identities

SKINS = [(250, 215, 190), (232, 184, 148), (196, 140, 100), (141, 92, 62), (88, 58, 42)]
HAIRS = [(28, 24, 22), (70, 46, 30), (122, 80, 44), (208, 172, 100), (160, 158, 155), (140, 50, 28)]
CLOTHES = [
    (32, 33, 38),  # black
    (120, 122, 126),  # grey
    (232, 230, 224),  # white
    (38, 52, 96),  # navy
    (70, 120, 190),  # blue
    (176, 40, 44),  # red
    (52, 104, 66),  # green
    (196, 172, 128),  # beige
    (222, 184, 60),  # yellow
    (120, 70, 120),  # purple
]
LOWER_CLOTHES = [(30, 31, 36), (42, 54, 92), (84, 106, 140), (110, 108, 104), (176, 156, 120), (96, 72, 54)]
SHOES = [(24, 24, 26), (235, 235, 235), (110, 70, 42), (176, 40, 44)]
PATTERNS = ["plain", "hoops", "stripes", "checks", "dots", "logo", "two-tone", "band", "diagonal", "open"]
HAIR_STYLES = ["bald", "short", "long", "bun", "ponytail", "cap"]


@dataclass(frozen=True)
class Cloth:
    """What a garment is made of; lengths are fractions of the body height."""

    pattern: str  # one of PATTERNS
    colour: Rgb
    second: Rgb  # the pattern's other colour
    period: float  # of stripes, checks and dots


@dataclass(frozen=True)
class Identity:
    """What stays with a person from camera to camera."""

    stature: float  # metres; on a picture it shows as the size of the head relative to the body
    build: float  # breadth relative to an average person of that stature
    hips: float  # breadth of the hips relative to the shoulders
    skin: Rgb
    hair_style: str  # one of HAIR_STYLES
    hair: Rgb
    beard: bool
    cap: Rgb
    top: Cloth
    sleeves: str  # "long" or "short"
    hem: float  # where the top ends, as a fraction of the body height from the crown
    lower: str  # "trousers", "shorts" or "skirt"
    lower_cloth: Cloth
    shoes: Rgb
    bag: str  # "none", "backpack", "shoulder" or "hand"
    bag_colour: Rgb
    bag_side: int  # +1: the person's right, -1: the left

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Identity":
        def pick(options, weights=None):
            return options[rng.choice(len(options), p=weights)]

        def dye(colours):  # no two dyes are quite the same
            colour = np.array(pick(colours)) + rng.integers(-10, 11) + rng.integers(-5, 6, 3)
            return tuple(int(c) for c in np.clip(colour, 0, 255))

        def other(colours, first):  # a second colour that can be told from the first
            while True:
                second = dye(colours)
                if sum(abs(a - b) for a, b in zip(first, second, strict=True)) > 170:
                    return second

        colour, lower_colour = dye(CLOTHES), dye(LOWER_CLOTHES)
        return cls(
            stature=float(rng.uniform(1.52, 1.95)),
            build=float(rng.uniform(0.82, 1.28)),
            hips=float(rng.uniform(0.72, 0.98)),
            skin=dye(SKINS),
            hair_style=pick(HAIR_STYLES, [0.08, 0.32, 0.22, 0.1, 0.12, 0.16]),
            hair=dye(HAIRS),
            beard=bool(rng.random() < 0.15),
            cap=dye(CLOTHES),
            top=Cloth(pick(PATTERNS), colour, other(CLOTHES, colour), float(rng.uniform(0.05, 0.085))),
            sleeves=pick(["long", "short"], [0.55, 0.45]),
            hem=float(pick([0.53, 0.55, 0.66], [0.4, 0.35, 0.25])),
            lower=pick(["trousers", "shorts", "skirt"], [0.58, 0.22, 0.2]),
            lower_cloth=Cloth(
                pick(["plain", "checks", "stripes", "seam"], [0.6, 0.12, 0.12, 0.16]),
                lower_colour,
                other(CLOTHES, lower_colour),
                float(rng.uniform(0.04, 0.06)),
            ),
            shoes=dye(SHOES),
            bag=pick(["none", "backpack", "shoulder", "hand"], [0.34, 0.28, 0.2, 0.18]),
            bag_colour=dye(CLOTHES),
            bag_side=int(pick([-1, 1])),
        )


# ------------------------------------------------------------------------------------------------- drawing one person

VIEWS = ["front", "back", "left", "right"]  # what the camera sees; left and right: the way the person walks
SHEET_WIDTH = 0.8  # width of a person's sheet over its height: room for a stride and a bag


class Sheet:
    """A transparent RGBA sheet drawn on in body units: x from the centre line, y from the crown (0) to the ground (1).

    A fill is a colour or, for cloth, an RGB image as large as the sheet that shows through the shape.
    """

    def __init__(self, height_px: int):
        self.unit = height_px
        self.size = (round(SHEET_WIDTH * height_px), height_px)
        self.image = Image.new("RGBA", self.size, (0, 0, 0, 0))

    def at(self, points) -> list[tuple[float, float]]:
        """Body units to pixels."""
        return [(self.size[0] / 2 + x * self.unit, y * self.unit) for x, y in points]

    def fill(self, paint, shape):
        """Let `shape(draw)` draw a mask, and put `paint` where it is white."""
        mask = Image.new("L", self.size)
        shape(ImageDraw.Draw(mask))
        box = mask.getbbox()
        if box is None:
            return
        self.image.paste(paint.crop(box) if isinstance(paint, Image.Image) else paint, box, mask.crop(box))

    def polygon(self, paint, points):
        self.fill(paint, lambda draw: draw.polygon(self.at(points), fill=255))

    def ellipse(self, paint, x, y, rx, ry):
        box = self.at([(x - rx, y - ry), (x + rx, y + ry)])
        self.fill(paint, lambda draw: draw.ellipse([*box[0], *box[1]], fill=255))

    def limb(self, paint, joints, widths):
        """A rounded strip through the joints, as wide at each joint as `widths` says."""

        def shape(draw):
            ends = [(x, y, width * self.unit / 2) for (x, y), width in zip(self.at(joints), widths, strict=True)]
            for x, y, r in ends:
                draw.ellipse([x - r, y - r, x + r, y + r], fill=255)
            for (x0, y0, r0), (x1, y1, r1) in itertools.pairwise(ends):
                length = math.hypot(x1 - x0, y1 - y0) or 1
                nx, ny = (y1 - y0) / length, (x0 - x1) / length  # the unit vector across the bone
                side = [(x0 + nx * r0, y0 + ny * r0), (x1 + nx * r1, y1 + ny * r1)]
                other = [(x1 - nx * r1, y1 - ny * r1), (x0 - nx * r0, y0 - ny * r0)]
                draw.polygon(side + other, fill=255)

        self.fill(paint, shape)


def shade(paint, factor: float):
    """A darker (factor < 1) or lighter paint: a colour or an image."""
    if factor == 1:
        return paint
    if isinstance(paint, Image.Image):
        return paint.point([min(255, int(value * factor)) for value in range(256)] * 3)
    return tuple(min(255, int(value * factor)) for value in paint)


@functools.lru_cache(maxsize=8)  # a person wears the same cloth on several limbs
def weave(cloth: Cloth, view: str, size: tuple[int, int], unit: int):
    """The paint of a garment: an RGB image of `size`, patterned in body units around the centre line, or a colour."""
    y, x = np.ogrid[0 : size[1], 0 : size[0]]  # a column and a row
    x, y = (x - size[0] / 2) / unit, y / unit
    half = cloth.period / 2
    sideways = view in ("left", "right")
    second = {
        "hoops": lambda: (y // half) % 2 == 0,
        "stripes": lambda: ((x + half / 2) // half) % 2 == 0,
        "checks": lambda: ((x % cloth.period) < half * 0.6) | ((y % cloth.period) < half * 0.6),
        "dots": lambda: np.hypot(x % cloth.period - half, y % cloth.period - half) < half * 0.58,
        "logo": lambda: (np.hypot(x / 0.9, y - 0.3) < 0.052) & (not sideways),
        "two-tone": lambda: y > 0.35,
        "band": lambda: np.abs(y - 0.3) < 0.035,
        "diagonal": lambda: ((x + y) // (half * 1.4)) % 2 == 0,
        "open": lambda: (np.abs(x - 0.03 * (view == "right") + 0.03 * (view == "left")) < 0.025) & (view != "back"),
        "seam": lambda: np.abs(np.abs(x) - 0.062) < 0.012 if not sideways else np.abs(x) < 0.012,
    }.get(cloth.pattern)
    if second is None:
        return cloth.colour
    where = np.broadcast_to(second(), size[::-1]).astype(np.uint8) * 255
    image = Image.new("RGB", size, cloth.colour)
    image.paste(cloth.second, (0, 0), Image.fromarray(where))
    return image


def draw_person(identity: Identity, view: str, phase: float, height_px: int) -> Image.Image:
    """One pedestrian on a transparent RGBA sheet, `height_px` high and SHEET_WIDTH times as wide.

    The crown touches the top, the soles the bottom, and the body's centre line is the sheet's. `phase` is the place in
    the walking cycle in radians: two steps are 2 pi. Draw larger and reduce for smooth edges.
    """
    if view == "left":  # as seen from the right, with left and right hand exchanged
        twin = Identity(**{**vars(identity), "bag_side": -identity.bag_side})
        return ImageOps.mirror(draw_person(twin, "right", phase, height_px))
    sheet = Sheet(height_px)
    (draw_sideways if view == "right" else draw_upright)(sheet, identity, view, phase)
    return light(sheet.image)


def light(person: Image.Image) -> Image.Image:
    """Round the body off: darker towards the sides and the ground."""
    pixels = np.asarray(person).astype(np.float32)  # (H, W, 4)
    height, width = pixels.shape[:2]
    x = (np.arange(width, dtype=np.float32) - width / 2) / height
    y = np.arange(height, dtype=np.float32)[:, None] / height
    pixels[..., :3] *= (1.06 - 7.0 * (x + 0.03) ** 2 - 0.14 * y).clip(0.55, 1.1)[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@dataclass(frozen=True)
class Body:
    """The measures of an identity in body units (fractions of the stature)."""

    head: float  # half the height of the head
    chin: float
    shoulder: float  # heights, from the crown
    hip: float
    knee: float
    ankle: float
    breadth: float  # half the breadth of the shoulders
    hips: float  # half the breadth of the hips
    depth: float  # half the body's depth, seen from the side
    arm: float  # widths of limbs
    leg: float

    @classmethod
    def of(cls, identity: Identity) -> "Body":
        relative = 1.72 / identity.stature  # heads and limbs differ less than statures
        head = 0.07 * relative
        breadth = 0.112 * identity.build * relative
        return cls(
            head=head,
            chin=2 * head,
            shoulder=2 * head + 0.03,
            hip=0.52,
            knee=0.74,
            ankle=0.945,
            breadth=breadth,
            hips=breadth * identity.hips,
            depth=0.062 * identity.build * relative,
            arm=0.042 * identity.build * relative,
            leg=0.082 * identity.build * relative,
        )


def draw_leg(sheet, identity, body, view, joints, toe, dim):
    """A leg in its garment and shoe; `joints` are hip, knee, ankle, `toe` is the vector from ankle to toe."""
    hip, knee, ankle = joints
    widths = (body.leg, body.leg * 0.72, body.leg * 0.46)
    sole = (ankle[0], ankle[1] + 0.035)
    sheet.limb(shade(identity.shoes, dim), [sole, (sole[0] + toe[0], sole[1] + toe[1])], (0.038, 0.03))
    sheet.limb(shade(identity.skin, dim), joints, widths)
    sheet.limb(shade(identity.shoes, dim), [ankle, sole], (0.03, 0.036))
    cloth = shade(weave(identity.lower_cloth, view, sheet.size, sheet.unit), dim)
    if identity.lower == "trousers":
        sheet.limb(cloth, joints, (widths[0] * 1.08, widths[1] * 1.12, widths[2] * 1.3))
    elif identity.lower == "shorts":
        above = tuple(h + (k - h) * 0.85 for h, k in zip(hip, knee, strict=True))
        sheet.limb(cloth, [hip, above], (widths[0] * 1.15, widths[1] * 1.4))


def draw_arm(sheet, identity, body, top, joints, dim):
    """An arm with its sleeve; `joints` are shoulder, elbow, hand."""
    shoulder, elbow, hand = joints
    sheet.limb(shade(identity.skin, dim), joints, (body.arm, body.arm * 0.8, body.arm * 0.72))
    if identity.sleeves == "long":
        wrist = tuple(e + (h - e) * 0.82 for e, h in zip(elbow, hand, strict=True))
        sheet.limb(shade(top, dim), [shoulder, elbow, wrist], (body.arm * 1.2, body.arm * 1.05, body.arm * 0.9))
    else:
        above = tuple(s + (e - s) * 0.75 for s, e in zip(shoulder, elbow, strict=True))
        sheet.limb(shade(top, dim), [shoulder, above], (body.arm * 1.2, body.arm * 1.2))


def draw_handbag(sheet, identity, hand, dim):
    x, y = hand
    sheet.limb(shade(identity.bag_colour, 0.6 * dim), [(x - 0.02, y + 0.05), (x, y), (x + 0.02, y + 0.05)], (0.01,) * 3)
    sheet.polygon(
        shade(identity.bag_colour, dim),
        [(x - 0.04, y + 0.04), (x + 0.04, y + 0.04), (x + 0.052, y + 0.13), (x - 0.052, y + 0.13)],
    )


def draw_upright(sheet: Sheet, identity: Identity, view: str, phase: float):
    """The person from the front or from the back."""
    body = Body.of(identity)
    top = weave(identity.top, view, sheet.size, sheet.unit)
    right = -1 if view == "front" else 1  # on which side of the picture the person's right hand is
    bag_x = right * identity.bag_side
    swing = math.sin(phase)

    if identity.hair_style in ("long", "ponytail") and view == "front":  # hair that falls behind the shoulders
        width = 0.9 if identity.hair_style == "long" else 0.35
        sheet.ellipse(shade(identity.hair, 0.8), 0, body.chin, body.head * width, body.head * 1.1)
    for side in (-1, 1):
        lift = 0.045 * max(0.0, swing * side)  # the leg that swings is bent and its foot is off the ground
        hip = (side * body.hips * 0.5, body.hip)
        knee = (side * (body.hips * 0.5 + 0.004), body.knee - lift * 0.3)
        ankle = (side * body.hips * (0.42 - 0.15 * abs(swing)), body.ankle - lift)
        toe = (side * 0.012, 0.012 if view == "front" else 0.0)
        draw_leg(sheet, identity, body, view, [hip, knee, ankle], toe, 0.84 if lift else 1.0)
    cloth = weave(identity.lower_cloth, view, sheet.size, sheet.unit)
    if identity.lower == "skirt":
        flare = body.hips * 1.35 + 0.01
        sheet.polygon(
            cloth, [(-body.hips, 0.5), (body.hips, 0.5), (flare, body.knee - 0.03), (-flare, body.knee - 0.03)]
        )
    else:
        sheet.polygon(
            cloth, [(-body.hips, 0.49), (body.hips, 0.49), (body.hips * 0.98, 0.555), (-body.hips * 0.98, 0.555)]
        )

    hands = []
    for side in (-1, 1):
        reach = 0.02 * swing * side
        shoulder = (side * (body.breadth - body.arm * 0.35), body.shoulder + 0.022)
        elbow = (side * (body.breadth + 0.012), body.shoulder + 0.165)
        hand = (side * (body.breadth + 0.008), body.shoulder + 0.31 + reach)
        hands.append((side, hand))
        if side == bag_x and identity.bag == "hand":
            draw_handbag(sheet, identity, hand, 1.0)
        draw_arm(sheet, identity, body, top, [shoulder, elbow, hand], 0.86)

    sheet.limb(shade(identity.skin, 0.85), [(0, body.chin - 0.01), (0, body.shoulder + 0.012)], (0.042, 0.05))
    slope = body.shoulder - 0.008
    hem_x = body.hips * (1.12 if identity.hem > 0.6 else 1.04)
    torso = [
        (-0.028, slope - 0.008),
        (0.028, slope - 0.008),
        (body.breadth * 0.8, slope + 0.01),
        (body.breadth, slope + 0.04),
        (body.breadth * 0.88, 0.36),
        (body.hips * 0.95, 0.46),
        (hem_x, identity.hem),
    ]
    torso += [(-x, y) for x, y in reversed(torso[2:])]
    sheet.polygon(top, torso)
    if view == "front":
        sheet.polygon(shade(identity.skin, 0.9), [(-0.024, slope - 0.01), (0.024, slope - 0.01), (0, slope + 0.026)])

    if identity.bag == "backpack":
        if view == "back":
            w = body.breadth * 0.74
            sheet.limb(identity.bag_colour, [(0, slope + 0.075), (0, slope + 0.22)], (w * 1.9, w * 2.1))
            sheet.limb(shade(identity.bag_colour, 0.7), [(-w * 0.6, slope + 0.2), (w * 0.6, slope + 0.2)], (0.06, 0.06))
        else:
            for side in (-1, 1):
                strap = [(side * body.breadth * 0.55, slope + 0.004), (side * body.breadth * 0.68, slope + 0.17)]
                sheet.limb(shade(identity.bag_colour, 0.8), strap, (0.024, 0.02))
    elif identity.bag == "shoulder":
        strap = [(-bag_x * body.breadth * 0.5, slope + 0.002), (bag_x * body.hips, 0.46)]
        sheet.limb(shade(identity.bag_colour, 0.7), strap, (0.017, 0.017))
        x = bag_x * (body.hips + 0.02)
        sheet.polygon(identity.bag_colour, [(x - 0.055, 0.45), (x + 0.055, 0.45), (x + 0.055, 0.56), (x - 0.055, 0.56)])
        sheet.polygon(
            shade(identity.bag_colour, 0.75),
            [(x - 0.055, 0.45), (x + 0.055, 0.45), (x + 0.055, 0.49), (x - 0.055, 0.49)],
        )

    draw_head(sheet, identity, body, view)


def draw_sideways(sheet: Sheet, identity: Identity, view: str, phase: float):
    """The person walking to the right; the far limbs first."""
    body = Body.of(identity)
    top = weave(identity.top, view, sheet.size, sheet.unit)
    bag_is_near = identity.bag_side == 1  # walking to the right, the right hand is the near one

    def leg(phase, dim):
        angle = 0.42 * math.sin(phase)
        bend = 0.08 + 0.75 * max(0.0, math.cos(phase)) ** 2  # the knee bends while the leg swings forwards
        hip = (0.0, body.hip)
        knee = (hip[0] + 0.215 * math.sin(angle), hip[1] + 0.215 * math.cos(angle))
        ankle = (knee[0] + 0.215 * math.sin(angle - bend), knee[1] + 0.215 * math.cos(angle - bend))
        draw_leg(sheet, identity, body, view, [hip, knee, ankle], (0.055, 0.006), dim)

    def arm(phase, dim, bag):
        angle = 0.45 * math.sin(phase)
        shoulder = (-0.005, body.shoulder + 0.03)
        elbow = (shoulder[0] + 0.145 * math.sin(angle), shoulder[1] + 0.145 * math.cos(angle))
        hand = (elbow[0] + 0.145 * math.sin(angle + 0.35), elbow[1] + 0.145 * math.cos(angle + 0.35))
        if bag:
            draw_handbag(sheet, identity, hand, dim)
        draw_arm(sheet, identity, body, top, [shoulder, elbow, hand], dim)

    carries = identity.bag == "hand"
    arm(phase, 0.68, carries and not bag_is_near)
    leg(phase + math.pi, 0.74)
    leg(phase, 1.0)
    cloth = weave(identity.lower_cloth, view, sheet.size, sheet.unit)
    stride = 0.035 * abs(math.sin(phase))
    if identity.lower == "skirt":
        x, low = body.depth * 1.15 + 0.012 + stride, body.knee - 0.03
        sheet.polygon(cloth, [(-body.depth, 0.5), (body.depth, 0.5), (x, low), (-x, low)])
    sheet.limb(shade(identity.skin, 0.85), [(0.004, body.chin - 0.02), (-0.004, body.shoulder + 0.012)], (0.045, 0.05))
    slope, hem = body.shoulder - 0.01, body.depth * (1.1 if identity.hem > 0.6 else 1.0) + stride * (identity.hem > 0.6)
    sheet.polygon(
        top,
        [
            (-0.03, slope),
            (0.022, slope),
            (body.depth * 0.8, slope + 0.05),
            (body.depth * 1.05, 0.34),
            (body.depth, 0.46),
            (hem, identity.hem),
            (-hem, identity.hem),
            (-body.depth * 0.92, 0.44),
            (-body.depth * 1.05, slope + 0.07),
        ],
    )
    if identity.bag == "backpack":
        x = -body.depth * 1.05
        sheet.limb(identity.bag_colour, [(x - 0.03, slope + 0.07), (x - 0.04, slope + 0.22)], (0.075, 0.105))
        strap = [(x + 0.02, slope + 0.03), (body.depth * 0.35, slope + 0.08), (x + 0.02, slope + 0.2)]
        sheet.limb(shade(identity.bag_colour, 0.8), strap, (0.018,) * 3)
    elif identity.bag == "shoulder":
        sheet.limb(shade(identity.bag_colour, 0.7), [(-0.01, slope + 0.01), (0.0, 0.46)], (0.017, 0.017))
        if bag_is_near:
            sheet.polygon(identity.bag_colour, [(-0.06, 0.45), (0.06, 0.45), (0.06, 0.56), (-0.06, 0.56)])
            sheet.polygon(shade(identity.bag_colour, 0.75), [(-0.06, 0.45), (0.06, 0.45), (0.06, 0.49), (-0.06, 0.49)])
    arm(phase + math.pi, 0.88, carries and bag_is_near)
    draw_head(sheet, identity, body, view)


def draw_head(sheet: Sheet, identity: Identity, body: Body, view: str):
    """Head, hair and, where it is turned to the camera, the face."""
    r, style, hair, skin = body.head, identity.hair_style, identity.hair, identity.skin
    rx = r * (0.78 if view == "right" else 0.68)
    middle = r * 1.02
    if view == "right" and style in ("long", "ponytail"):
        length = 1.9 if style == "long" else 1.5
        sheet.limb(shade(hair, 0.85), [(-rx * 0.55, middle), (-rx * 0.95, r * (1 + length))], (rx * 1.1, rx * 0.5))
    sheet.ellipse(skin, 0, middle, rx, r)
    if view == "back":
        if style != "bald":
            sheet.ellipse(hair, 0, middle * 0.93, rx * 1.06, r * 0.93)
        if style == "long":
            sheet.limb(hair, [(0, middle), (0, r * 2.9)], (rx * 2.1, rx * 1.7))
        elif style == "ponytail":
            sheet.limb(shade(hair, 0.8), [(0, middle), (0, r * 3.0)], (rx * 0.7, rx * 0.5))
    elif style != "bald":
        # Hair covers the skull; the face is skin on top of it, lower and, from the side, further forward.
        sheet.ellipse(hair, -rx * 0.05, middle * 0.9, rx * 1.1, r * 0.92)
        if style == "long":
            sheet.limb(hair, [(-rx * 0.85, middle), (-rx * 0.9, r * 2.4)], (rx * 0.5, rx * 0.4))
            if view == "front":
                sheet.limb(hair, [(rx * 0.85, middle), (rx * 0.9, r * 2.4)], (rx * 0.5, rx * 0.4))
        if view == "front":
            sheet.ellipse(skin, 0, middle * 1.2, rx * 0.86, r * 0.78)
        else:
            sheet.ellipse(skin, rx * 0.36, middle * 1.2, rx * 0.66, r * 0.76)
    if style == "bun":
        sheet.ellipse(
            shade(hair, 0.85), *((-rx * 1.0, r * 0.5) if view == "right" else (0, r * 0.22)), r * 0.36, r * 0.34
        )
    if view in ("front", "right"):
        eyes = (-0.38, 0.38) if view == "front" else (0.62,)
        for eye in eyes:
            sheet.ellipse((30, 26, 26), rx * eye, r * 1.08, rx * 0.13, r * 0.08)
        if identity.beard:
            sheet.ellipse(shade(hair, 0.9), rx * (0 if view == "front" else 0.4), r * 1.66, rx * 0.6, r * 0.36)
        else:
            mouth = 0 if view == "front" else 0.68
            sheet.ellipse(shade(skin, 0.62), rx * mouth, r * 1.58, rx * 0.26, r * 0.06)
    if style == "cap":
        y = r * 0.62
        dome = [(rx * 1.12 * math.cos(a), y - r * 0.62 * math.sin(a)) for a in np.linspace(0, math.pi, 12)]
        sheet.polygon(identity.cap, dome)
        if view == "right":
            sheet.limb(shade(identity.cap, 0.75), [(rx * 0.5, y), (rx * 1.75, y + r * 0.1)], (r * 0.2, r * 0.12))
        elif view == "front":
            sheet.ellipse(shade(identity.cap, 0.7), 0, y, rx * 1.1, r * 0.16)
        else:
            sheet.ellipse(identity.cap, 0, y, rx * 1.12, r * 0.25)


# ------------------------------------------------------------------------------------------------------------ cameras


@dataclass(frozen=True)
class Camera:
    """Where a camera hangs and how it turns light into pixels."""

    number: int  # 1 to 6, as in the file names
    place: str  # one of PLACES: what is behind the people
    gains: tuple[float, float, float]  # white balance: red, green, blue
    exposure: float
    gamma: float
    saturation: float
    blur: float  # standard deviation in pixels of the 64 x 128 image
    noise: float  # standard deviation, pixel values 0 to 255
    quality: int  # of the JPEG file
    pitch: float  # breadth of people relative to their height: a steep view shortens them

    def backdrop(self) -> Image.Image:
        """The empty place as one wide RGB picture, the same at each call."""
        return backdrop(self.place, self.number)

    def develop(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """From the light of a scene to this camera's picture: colours, sharpness and noise; RGB of the same size."""
        image = image.filter(ImageFilter.GaussianBlur(self.blur * rng.uniform(0.7, 1.3)))
        pixels = np.asarray(image).astype(np.float32) / 255  # (H, W, 3)
        exposure = self.exposure * rng.uniform(0.82, 1.2)  # clouds, and automatic exposure
        pixels = pixels * (np.array(self.gains, np.float32) * np.float32(exposure) * rng.uniform(0.95, 1.05, 3))
        grey = pixels.mean(axis=2, keepdims=True)
        pixels = (grey + (pixels - grey) * self.saturation).clip(0, None) ** self.gamma * 255
        pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * self.noise
        return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


CAMERAS = [
    Camera(1, "street", (1.03, 1.00, 0.97), 1.00, 1.00, 1.00, 0.35, 3.0, 88, 1.00),
    Camera(2, "park", (0.93, 1.03, 0.94), 0.94, 1.06, 1.08, 0.50, 4.0, 80, 0.94),
    Camera(3, "plaza", (0.99, 1.01, 1.06), 1.16, 0.88, 0.90, 0.45, 3.0, 75, 1.08),
    Camera(4, "corridor", (1.13, 1.00, 0.84), 0.92, 0.97, 0.94, 0.60, 6.0, 70, 1.00),
    Camera(5, "crossing", (0.89, 0.98, 1.14), 0.97, 1.00, 0.92, 0.70, 4.0, 65, 1.05),
    Camera(6, "arcade", (1.05, 0.97, 1.01), 0.74, 0.95, 0.85, 0.55, 8.0, 72, 0.97),
]

BACKDROP_WIDTH, BACKDROP_HEIGHT = 1024, 384  # pixels, at the supersampled size


def speckle(image: Image.Image, rng: np.random.Generator, strength: float) -> Image.Image:
    """Uneven the colours at several scales, from stains to grain."""
    width, height = image.size
    total = np.zeros((height, width), np.float32)
    for cells in (6, 24, 96):
        noise = rng.normal(0, 1, (cells, cells * 3)).astype(np.float32)
        total += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    total += rng.normal(0, 0.6, (height, width))
    pixels = np.asarray(image).astype(np.float32) + strength * total[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def street(draw, width, height, rng):
    """A brick house with windows above a pavement and a kerb."""
    ground = int(height * 0.62)
    draw.rectangle([0, 0, width, ground], fill=(150, 96, 78))
    for row in range(0, ground, 12):
        draw.line([0, row, width, row], fill=(186, 160, 146), width=2)
        for x in range((row // 12 % 2) * 14, width, 28):
            draw.line([x, row, x, row + 12], fill=(186, 160, 146), width=2)
    for x in range(40, width, 190):
        draw.rectangle([x, 30, x + 84, 150], fill=(226, 222, 212))
        draw.rectangle([x + 8, 38, x + 76, 142], fill=(74, 92, 112))
        draw.line([x + 42, 38, x + 42, 142], fill=(226, 222, 212), width=6)
    draw.rectangle([0, ground, width, height], fill=(158, 154, 148))
    draw.rectangle([0, int(height * 0.86), width, height], fill=(92, 92, 96))
    draw.rectangle([0, int(height * 0.84), width, int(height * 0.87)], fill=(196, 192, 184))
    for x in range(-200, width, 90):
        draw.line([x, ground, x + 60, int(height * 0.84)], fill=(134, 130, 126), width=3)


def park(draw, width, height, rng):
    """Hedges and trees above a lawn with a sandy path."""
    ground = int(height * 0.5)
    draw.rectangle([0, 0, width, ground], fill=(128, 158, 150))
    for _ in range(260):
        x, y, r = rng.integers(0, width), rng.integers(0, ground), rng.integers(14, 44)
        green = int(rng.integers(70, 130))
        draw.ellipse([x - r, y - r, x + r, y + r], fill=(green - 30, green, green // 3))
    for x in rng.integers(0, width, 9):
        draw.rectangle([x, 0, x + 22, ground + 14], fill=(84, 62, 46))
    draw.rectangle([0, ground + 8, width, height], fill=(98, 136, 62))
    for _ in range(2500):
        x, y = rng.integers(0, width), rng.integers(ground, height)
        draw.line([x, y, x + int(rng.integers(-3, 4)), y - 9], fill=(70, int(rng.integers(100, 160)), 44), width=2)
    draw.polygon([(0, height * 0.8), (width, height * 0.72), (width, height * 0.9), (0, height)], fill=(190, 170, 130))


def plaza(draw, width, height, rng):
    """A glass front above bright tiles."""
    ground = int(height * 0.56)
    for x in range(0, width, 64):
        blue = int(rng.integers(120, 190))
        draw.rectangle([x, 0, x + 64, ground], fill=(blue - 30, blue - 6, blue))
        draw.polygon([(x, 40), (x + 64, 0), (x + 64, 26), (x, 66)], fill=(200, 212, 220))
    for x in range(0, width, 64):
        draw.rectangle([x - 4, 0, x + 4, ground], fill=(66, 70, 76))
    draw.rectangle([0, ground - 10, width, ground], fill=(80, 82, 84))
    draw.rectangle([0, ground, width, height], fill=(206, 200, 190))
    for x in range(-width, 2 * width, 70):
        draw.line([x, height, width / 2 + (x - width / 2) * 0.55, ground], fill=(160, 154, 146), width=3)
    for step in range(1, 7):
        y = ground + (height - ground) * (step / 6) ** 1.6
        draw.line([0, y, width, y], fill=(160, 154, 146), width=3)


def corridor(draw, width, height, rng):
    """Doors and notice boards under lamps, a polished floor."""
    ground = int(height * 0.66)
    draw.rectangle([0, 0, width, ground], fill=(206, 198, 176))
    draw.rectangle([0, int(height * 0.4), width, ground], fill=(150, 158, 146))
    for x in range(30, width, 250):
        draw.rectangle([x, 20, x + 92, ground], fill=(120, 82, 52))
        draw.rectangle([x + 8, 30, x + 84, ground - 4], fill=(158, 112, 72))
        draw.ellipse([x + 70, 150, x + 80, 160], fill=(220, 210, 160))
        draw.rectangle([x + 130, 50, x + 220, 130], fill=(70, 90, 70))
        for _ in range(7):
            px, py = x + 134 + int(rng.integers(0, 66)), 54 + int(rng.integers(0, 54))
            draw.rectangle([px, py, px + 18, py + 22], fill=tuple(int(c) for c in rng.integers(140, 256, 3)))
    draw.rectangle([0, ground, width, height], fill=(126, 118, 106))
    for x in range(60, width, 160):
        draw.polygon([(x, ground), (x + 60, ground), (x + 90, height), (x - 30, height)], fill=(168, 160, 144))
    draw.rectangle([0, ground - 6, width, ground + 4], fill=(70, 62, 54))


def crossing(draw, width, height, rng):
    """Parked cars behind a zebra crossing."""
    ground = int(height * 0.5)
    draw.rectangle([0, 0, width, ground], fill=(140, 146, 150))
    for x in range(0, width, 120):
        shade_of_wall = int(rng.integers(90, 190))
        draw.rectangle([x, 0, x + 120, ground - 30], fill=(shade_of_wall, shade_of_wall, shade_of_wall - 12))
    draw.rectangle([0, ground, width, height], fill=(84, 86, 92))
    for x in range(-20, width, 236):
        paint = tuple(int(c) for c in rng.integers(40, 220, 3))
        draw.rounded_rectangle([x + 40, ground - 80, x + 160, ground - 20], 22, fill=paint)
        draw.rounded_rectangle([x + 54, ground - 70, x + 146, ground - 36], 12, fill=(44, 54, 62))
        draw.rounded_rectangle([x, ground - 42, x + 204, ground + 14], 14, fill=paint)
        for wheel in (x + 42, x + 160):
            draw.ellipse([wheel - 20, ground - 8, wheel + 20, ground + 32], fill=(22, 22, 24))
    for x in range(0, width, 96):
        top, low = ground + 60, height
        draw.polygon([(x, low), (x + 52, low), (x + 40, top), (x + 6, top)], fill=(218, 218, 214))


def arcade(draw, width, height, rng):
    """Lit shop windows in the evening."""
    ground = int(height * 0.64)
    draw.rectangle([0, 0, width, ground], fill=(70, 62, 66))
    for x in range(10, width, 150):
        glow = tuple(int(c) for c in rng.integers(150, 256, 3))
        draw.rectangle([x, 60, x + 126, ground - 18], fill=glow)
        draw.rectangle([x, 20, x + 126, 50], fill=tuple(int(c) for c in rng.integers(30, 256, 3)))
        for _ in range(9):
            px, py = x + int(rng.integers(4, 100)), 70 + int(rng.integers(0, 110))
            draw.rectangle([px, py, px + 20, py + 34], fill=tuple(int(c) for c in rng.integers(20, 256, 3)))
    draw.rectangle([0, ground, width, height], fill=(112, 100, 96))
    for y in range(ground, height, 26):
        draw.line([0, y, width, y], fill=(84, 74, 72), width=3)
        for x in range((y // 26 % 2) * 26, width, 52):
            draw.line([x, y, x, y + 26], fill=(84, 74, 72), width=3)


PLACES = {"street": street, "park": park, "plaza": plaza, "corridor": corridor, "crossing": crossing, "arcade": arcade}


@functools.lru_cache(maxsize=16)
def backdrop(place: str, number: int) -> Image.Image:
    rng = stream(number, SCENE_STREAM)  # a place does not depend on the dataset's seed
    image = Image.new("RGB", (BACKDROP_WIDTH, BACKDROP_HEIGHT))
    PLACES[place](ImageDraw.Draw(image), BACKDROP_WIDTH, BACKDROP_HEIGHT, rng)
    return speckle(image, rng, 7.0)


# -------------------------------------------------------------------------------------------------- taking a picture


@dataclass(frozen=True)
class Framing:
    """How a person stands in a box: 1 is the box's height for `fill` and `dy`, its width for `dx`."""

    fill: float  # the person's height; above 1 the box is too tight
    dx: float  # the centre line's distance from the box's centre
    dy: float  # the soles' distance below the box's lower edge (negative: above)

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Framing":
        fill, dx, dy = rng.uniform(0.84, 0.97), rng.normal(0, 0.05), -rng.uniform(0.0, 0.04)
        mishap = rng.random()
        if mishap < 0.05:  # too loose
            fill, dy = rng.uniform(0.66, 0.78), -rng.uniform(0.03, 0.14)
        elif mishap < 0.10:  # too tight
            fill, dy = rng.uniform(1.04, 1.16), rng.uniform(0.01, 0.1)
        elif mishap < 0.15:  # beside the person, or the frame ends there
            dx = rng.choice([-1, 1]) * rng.uniform(0.16, 0.28)
        elif mishap < 0.19:  # without the feet
            dy = rng.uniform(0.08, 0.2)
        return cls(float(fill), float(dx), float(dy))

    @classmethod
    def piece(cls, rng: np.random.Generator) -> "Framing":
        """A box that no tracker should have cut: a part of a person, much too large or half outside."""
        fill, dx, dy = rng.uniform(1.9, 3.0), rng.uniform(-0.5, 0.5), rng.uniform(0.1, 1.6)
        if rng.random() < 0.4:
            fill, dx, dy = rng.uniform(0.8, 1.1), rng.choice([-1, 1]) * rng.uniform(0.45, 0.62), rng.uniform(-0.3, 0.5)
        return cls(float(fill), float(dx), float(dy))


def place(canvas: Image.Image, person: Image.Image, framing: Framing, pitch: float = 1.0):
    """Paste a person's sheet into the box, with the shadow under the feet."""
    width, height = canvas.size
    size = (max(1, round(person.width * pitch)), person.height)
    person = person.resize(size) if size != person.size else person
    x, y = round(width * (0.5 + framing.dx)), round(height * (1 + framing.dy))
    shadow = Image.new("L", canvas.size)
    rx, ry = person.height * 0.15, person.height * 0.022
    ImageDraw.Draw(shadow).ellipse([x - rx, y - 2 * ry, x + rx * 1.4, y + ry], fill=110)
    canvas.paste((20, 20, 24), (0, 0), shadow)
    canvas.paste(person, (x - person.width // 2, y - person.height), person)


def occlude(canvas: Image.Image, camera: Camera, rng: np.random.Generator):
    """Put something in front: a pole, a bush, a railing or a passer-by."""
    width, height = canvas.size
    draw = ImageDraw.Draw(canvas)
    kind = rng.choice(["pole", "bush", "railing", "passer-by"])
    if kind == "pole":
        x, w = rng.uniform(0.1, 0.9) * width, rng.uniform(0.06, 0.13) * width
        tone = int(rng.integers(50, 150))
        draw.rectangle([x - w / 2, 0, x + w / 2, height], fill=(tone, tone, tone + 4))
        draw.rectangle([x - w / 2, 0, x - w / 4, height], fill=(tone + 40,) * 3)
    elif kind == "bush":
        top = rng.uniform(0.66, 0.84) * height
        for _ in range(110):
            x, y, r = rng.uniform(0, width), rng.uniform(top, height), rng.uniform(3, 11)
            green = int(rng.integers(60, 130))
            draw.ellipse([x - r, y - r, x + r, y + r], fill=(green - 35, green, green // 3))
    elif kind == "railing":
        top = rng.uniform(0.62, 0.78) * height
        for y in (top, top + 0.1 * height):
            draw.rectangle([0, y, width, y + 5], fill=(190, 190, 186))
        for x in np.arange(rng.uniform(0, 30), width, 30):
            draw.rectangle([x, top, x + 4, height], fill=(150, 150, 148))
    else:
        view = str(rng.choice(VIEWS))
        person = draw_person(Identity.random(rng), view, rng.uniform(0, 6.28), round(height * rng.uniform(0.85, 1.1)))
        dx = float(rng.choice([-1, 1]) * rng.uniform(0.38, 0.6))
        place(canvas, person, Framing(1.0, dx, rng.uniform(0.02, 0.12)), camera.pitch)


def photograph(
    person: "tuple[Identity, str, float] | None", camera: Camera, rng: np.random.Generator, framing: Framing
) -> Image.Image:
    """One box of `camera` as a WIDTH x HEIGHT RGB image.

    `person` is (identity, view, phase), or None for a box of nothing but background.
    """
    width, height = WIDTH * SUPERSAMPLE, HEIGHT * SUPERSAMPLE
    x = int(rng.integers(0, BACKDROP_WIDTH - width))
    # The soles stand on the ground: the window looks lower or higher only a little.
    y = int(rng.integers(BACKDROP_HEIGHT - height - 70, BACKDROP_HEIGHT - height))
    canvas = camera.backdrop().crop((x, y, x + width, y + height))
    if rng.random() < 0.15:  # somebody further away
        far = draw_person(Identity.random(rng), str(rng.choice(VIEWS)), rng.uniform(0, 6.28), round(height * 0.55))
        place(canvas, far, Framing(0.55, float(rng.uniform(-0.6, 0.6)), -0.22), camera.pitch)
    if person is not None:
        identity, view, phase = person
        sheet = draw_person(identity, view, phase, round(height * framing.fill))
        place(canvas, sheet, framing, camera.pitch * float(rng.uniform(0.94, 1.06)))
        if rng.random() < 0.2:
            occlude(canvas, camera, rng)
    return camera.develop(canvas.reduce(SUPERSAMPLE), rng)


# -------------------------------------------------------------------------------------------------------- the dataset


@dataclass(frozen=True)
class Shot:
    """The plan of one image file; drawing it needs nothing else."""

    folder: str
    pid: int  # as in the file name
    camera: int
    frame: int
    box: int
    seed: int
    subject: "tuple[int, ...] | None"  # the key of the identity's stream; None: nobody
    view: str
    phase: float
    index: int  # of the image within its (folder, pid)

    @property
    def name(self) -> str:
        pid = str(JUNK) if self.pid == JUNK else f"{self.pid:04d}"
        return f"{pid}_c{self.camera}s{1 + self.frame // 100_000}_{self.frame:06d}_{self.box:02d}.jpg"

    def draw(self) -> Image.Image:
        rng = stream(self.seed, IMAGE_STREAM, FOLDERS.index(self.folder), self.pid + 1, self.index)
        framing = Framing.piece(rng) if self.pid == JUNK else Framing.random(rng)
        person = None
        if self.subject is not None:
            person = (Identity.random(stream(self.seed, *self.subject)), self.view, self.phase)
        return photograph(person, CAMERAS[self.camera - 1], rng, framing)


def is_test(pid: int, identities: int) -> bool:
    """Which identities are for testing: every third, or every second of a large dataset (750 of 1501)."""
    return pid % (2 if identities >= MANY_IDENTITIES else 3) == 0


def plan(identities: int = DEFAULT_IDENTITIES, seed: int = 0) -> list[Shot]:
    """Every image of the dataset: who is seen where, when, from which side."""
    shots = []
    tests = [pid for pid in range(1, identities + 1) if is_test(pid, identities)]
    for pid in range(1, identities + 1):
        shots += follow(pid, is_test(pid, identities), seed)
    shots += leftovers(DISTRACTOR, math.ceil(len(tests) * 1.25), tests, seed)
    shots += leftovers(JUNK, math.ceil(len(tests) * 0.62), tests, seed)
    return shots


def follow(pid: int, test: bool, seed: int) -> list[Shot]:
    """One person's way through some of the cameras, a few images in each.

    People enter one after the other; a visit's images are some frames apart and show one walk, seen from one side.
    """
    rng = stream(seed, ROUTE_STREAM, pid)
    frame = 40 * pid + int(rng.integers(0, 40))
    counts, shots = Counter(), []
    for camera in rng.permutation(len(CAMERAS))[: rng.integers(3, 5) if test else rng.integers(3, 7)] + 1:
        view, phase = str(rng.choice(VIEWS)), rng.uniform(0, 2 * math.pi)
        images = int(rng.integers(3, 6) if test else rng.integers(2, 4))
        query = int(rng.integers(images)) if test else -1
        for image in range(images):
            folder = QUERY if image == query else GALLERY if test else TRAIN
            box = int(rng.integers(1, 6))
            shots.append(
                Shot(folder, pid, int(camera), frame, box, seed, (IDENTITY_STREAM, pid), view, phase, counts[folder])
            )
            counts[folder] += 1
            step = int(rng.integers(3, 10))
            frame += step
            phase += 0.25 * step  # a walking cycle takes about 25 frames, a second
            if rng.random() < 0.12:
                view = str(rng.choice(VIEWS))
        frame += int(rng.integers(200, 900))  # the way to the next camera
    return shots


def leftovers(pid: int, count: int, tests: list[int], seed: int) -> list[Shot]:
    """Gallery images without an owner: badly cut pieces (junk), or walls and strangers (distractors)."""
    rng = stream(seed, ROUTE_STREAM, 10_000 - pid)
    shots = []
    for index in range(count):
        camera, box = int(rng.integers(1, len(CAMERAS) + 1)), int(rng.integers(1, 6))
        frame = 60 * index + int(rng.integers(0, 60))
        known = (IDENTITY_STREAM, int(rng.choice(tests)))
        subject = known if pid == JUNK else (STRANGER_STREAM, index)
        if rng.random() < (0.2 if pid == JUNK else 0.4):
            subject = None
        view, phase = str(rng.choice(VIEWS)), float(rng.uniform(0, 2 * math.pi))
        shots.append(Shot(GALLERY, pid, camera, frame, box, seed, subject, view, phase, index))
    return shots


def save(job: tuple[Shot, str]):
    """Draw one shot into its file below the folder (a top-level function, so that worker processes can call it)."""
    shot, root = job
    shot.draw().save(os.path.join(root, shot.folder, shot.name), quality=CAMERAS[shot.camera - 1].quality)


def draw_all(shots: list[Shot], root: Path, workers: int):
    """Draw every shot below `root`, with a progress bar."""
    for folder in FOLDERS:
        (root / folder).mkdir()
    jobs = [(shot, str(root)) for shot in shots]
    bar = functools.partial(tqdm, total=len(jobs), unit="image", leave=False)
    if workers <= 1:
        for job in bar(jobs):
            save(job)
        return
    # Forked workers start at once; elsewhere than on Linux forking is not safe or not there.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    # An interrupt (Ctrl-C) reaches every process: the workers leave it to this one, which ends them.
    with context.Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        for _ in bar(pool.imap_unordered(save, jobs, chunksize=16)):
            pass


def ensure(
    root="data/sample", seed: int = 0, identities: int = DEFAULT_IDENTITIES, workers: "int | None" = None
) -> Path:
    """The folder of the sample dataset with these parameters, drawn now unless it is already there.

    It is drawn beside its place and then moved there in one step, so that an interrupted run leaves no half dataset and
    two processes may ask at once. A folder with other content is never touched: InputError.
    """
    root = Path(root)
    if not 3 <= identities <= 9999:
        raise cli.InputError(f"--identities {identities}: give 3 to 9999, file names have four digits for them")
    if seed < 0:
        raise cli.InputError(f"--seed {seed}: give a number from 0 up")
    shots = plan(identities, seed)
    images = {folder: sum(shot.folder == folder for shot in shots) for folder in FOLDERS}
    marker = {"version": VERSION, "seed": seed, "identities": identities, "images": images}
    if is_drawn(root, marker):
        return root

    started = time.perf_counter()
    print(f"Drawing the sample dataset into {root} ({len(shots):,} images) ...", flush=True)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as folder:
            folder = Path(folder, "new")  # one level down, so that its permissions are the usual ones
            folder.mkdir()
            draw_all(shots, folder, workers or len(available_cores()))
            (folder / MARKER).write_text(json.dumps(marker, indent=1) + "\n")
            if root.is_dir() and not any(root.iterdir()):
                root.rmdir()
            try:
                os.replace(folder, root)
            except OSError:
                if not is_drawn(root, marker):  # else another process was faster: its dataset is the same
                    raise
    except OSError as error:
        raise cli.InputError(f"{root}: cannot write the sample dataset there: {error}") from error
    print(table(shots) + f"\n{time.perf_counter() - started:.1f} s", flush=True)
    return root


def available_cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def is_drawn(root: Path, marker: dict) -> bool:
    """True: the dataset of this marker is there. False: nothing is. Anything else in that place is an InputError."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = dict(json.loads((root / MARKER).read_text()))
    except (OSError, ValueError, TypeError):
        raise cli.InputError(f"{root}: exists and is not a sample dataset: name another folder") from None
    if found != marker:
        kept = ", ".join(f"{key} {found.get(key)}" for key in ("version", "seed", "identities"))
        wanted = ", ".join(f"{key} {marker[key]}" for key in ("version", "seed", "identities"))
        raise cli.InputError(f"{root}: is another sample ({kept}; not {wanted}): delete it or name another folder")
    for folder, count in marker["images"].items():
        present = len(list((root / folder).glob("*.jpg")))
        if present < count:
            raise cli.InputError(f"{root / folder}: only {present} of {count} images: delete {root} to draw it anew")
    return True


def table(shots: list[Shot]) -> str:
    """Images, identities and cameras of each folder."""
    lines = [f"{'':20} {'images':>7} {'identities':>11} {'cameras':>8}"]
    for folder in FOLDERS:
        there = [shot for shot in shots if shot.folder == folder]
        pids = {shot.pid for shot in there} - {JUNK, DISTRACTOR}
        cameras = {shot.camera for shot in there}
        lines.append(f"{folder:20} {len(there):7,} {len(pids):11,} {len(cameras):8}")
    extra = Counter(shot.pid for shot in shots)
    lines.append(f"in the gallery: {extra[DISTRACTOR]:,} distractors (0000), {extra[JUNK]:,} junk (-1)")
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------------- the picture


def contact_sheet(root, path, rows: int = 4):
    """A PNG of 2 x `rows` training identities of the dataset in `root`, each with one image of every camera."""
    seen = {}  # pid -> {camera: file}
    for file in sorted(Path(root, TRAIN).glob("*.jpg")):
        pid, camera = file.name.split("_")[:2]
        seen.setdefault(pid, {}).setdefault(int(camera[1]), file)
    pids = sorted(seen, key=lambda pid: (-len(seen[pid]), pid))[: 2 * rows]  # first those in most cameras

    gap, margin, head = 3, 34, 18
    block = margin + len(CAMERAS) * (WIDTH + gap)
    sheet = Image.new("RGB", (2 * block + 10, head + rows * (HEIGHT + gap)), (250, 250, 250))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for place, pid in enumerate(pids):
        left, top = block * (place % 2) + 4, head + (place // 2) * (HEIGHT + gap)
        draw.text((left, top + HEIGHT // 2 - 6), pid, fill=(60, 60, 60), font=font)
        for camera in range(1, len(CAMERAS) + 1):
            x = left + margin + (camera - 1) * (WIDTH + gap)
            draw.text((x + 12, 3), f"camera {camera}", fill=(60, 60, 60), font=font)
            if camera in seen[pid]:
                with Image.open(seen[pid][camera]) as image:
                    sheet.paste(image, (x, top))
    # 128 colours: a third of the bytes, and hardly a difference to the eye.
    sheet.quantize(128, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(prog="sample.py", description="Draw the sample dataset: pedestrians in six cameras.")
    parser.add_argument("--out", default="data/sample", metavar="DIR", help="folder to draw it into; it must be new")
    parser.add_argument(
        "--identities",
        type=int,
        default=DEFAULT_IDENTITIES,
        metavar="N",
        help="people in the dataset, 3 to 9999; every third one is for testing, from 1000 people on every second one "
        "(1501 give 751 to train on and 750 to test on, as Market-1501); a person has about 10 training images, or 3 "
        "queries and 10 gallery images",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed draws other people")
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that draw; 0: one per core; changes no pixel"
    )
    parser.add_argument("--contact-sheet", metavar="FILE", help="also save a picture of some of the images as PNG")
    return parser


def main(args):
    if args.workers < 0:
        raise cli.InputError(f"--workers {args.workers}: give 0 (one per core) or more")
    root = ensure(args.out, args.seed, args.identities, args.workers)
    if args.contact_sheet:
        try:
            contact_sheet(root, args.contact_sheet)
        except OSError as error:
            raise cli.InputError(f"--contact-sheet {args.contact_sheet}: cannot be written: {error}") from error


if __name__ == "__main__":
    cli.run(main, get_args_parser())
