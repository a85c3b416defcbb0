"""The people of the sample dataset: what makes an identity, and how a person of it looks from four sides.

An identity is body shape, skin, hair, clothes (colour and pattern), shoes and bag. Clothing colours are few and shared,
so that colour alone does not name a person. Nothing here knows of datasets or cameras; a person is drawn at any size.
"""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageOps

Rgb = tuple[int, int, int]

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


# ------------------------------------------------------------------------------------------------ drawing one person

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
