"""Objects in a scene: bicycles, cars, poles, plants, benches, drawn behind or in front of people.

Each function takes (draw, x, ground, unit, rng): the object's centre and ground line in pixels, and the height of a
person there in pixels.
"""

import math

import numpy as np
from PIL import ImageDraw

from appearance.drawn.cloth import BRIGHT, MUTED, dye


def ink(colour, factor=1.0) -> tuple[int, int, int]:
    return tuple(int(min(255.0, max(0.0, value * factor))) for value in colour)


def grey(rng: np.random.Generator, low=30, high=190, tint=6.0) -> tuple[int, int, int]:
    return ink(rng.uniform(low, high) + rng.normal(0, tint, 3))


def bicycle(draw: ImageDraw.ImageDraw, x, ground, unit, rng, colour=None, turn=None):
    """`turn`: 1 or -1: side view, heading right or left; 0: front view; None: random."""
    colour = ink(colour or dye(rng, MUTED | BRIGHT))
    turn = rng.uniform(-1, 1) if turn is None else turn
    wheel, base = 0.19 * unit, 0.31 * unit * turn
    thin = max(1, round(0.014 * unit))
    for end in (-1, 1):
        across = max(wheel * abs(turn), 0.02 * unit)
        cx, cy = x + end * base, ground - wheel
        draw.ellipse([cx - across, cy - wheel, cx + across, cy + wheel], outline=(28, 28, 30), width=thin + 1)
    hub, pedals = (x - base, ground - wheel), (x - 0.05 * base, ground - 0.16 * unit)
    saddle, bar, fork = (x - 0.35 * base, ground - 0.5 * unit), (x + 0.7 * base, ground - 0.58 * unit), x + base
    draw.line([hub, pedals, saddle, hub], fill=colour, width=thin)
    draw.line([saddle, (bar[0], bar[1] + 0.1 * unit), pedals], fill=colour, width=thin)
    draw.line([bar, (fork, ground - wheel)], fill=colour, width=thin)
    wide = 0.1 * unit
    draw.line([bar[0] - wide, bar[1], bar[0] + wide, bar[1]], fill=(40, 40, 42), width=thin + 1)
    seat = 0.05 * unit
    draw.line([saddle[0] - seat, saddle[1], saddle[0] + seat, saddle[1]], fill=(25, 25, 25), width=thin * 3)
    if rng.random() < 0.4:  # a basket
        box = [bar[0] - 0.09 * unit, bar[1] + 0.02 * unit, bar[0] + 0.09 * unit, bar[1] + 0.16 * unit]
        draw.rectangle(box, outline=grey(rng), width=thin)


def car(draw: ImageDraw.ImageDraw, x, ground, unit, rng):
    paint = ink(dye(rng, MUTED if rng.random() < 0.8 else BRIGHT))
    half, tall = unit * rng.uniform(0.9, 1.3), unit * rng.uniform(0.75, 0.95)
    roof = half * rng.uniform(0.55, 0.75)
    draw.ellipse([x - half, ground - 0.06 * unit, x + half, ground + 0.08 * unit], fill=(30, 30, 32))
    draw.rounded_rectangle([x - roof, ground - tall, x + roof, ground - 0.3 * unit], 0.16 * unit, fill=paint)
    glass = [x - 0.88 * roof, ground - 0.93 * tall, x + 0.88 * roof, ground - 0.55 * tall]
    draw.rounded_rectangle(glass, 0.1 * unit, fill=(50, 58, 66))
    draw.rounded_rectangle([x - half, ground - 0.56 * tall, x + half, ground - 0.1 * unit], 0.12 * unit, fill=paint)
    for end in (-0.6, 0.6):
        cx, r = x + end * half, 0.17 * unit
        draw.ellipse([cx - r, ground - 2 * r, cx + r, ground], fill=(24, 24, 26))
        draw.ellipse([cx - r / 2, ground - 1.5 * r, cx + r / 2, ground - r / 2], fill=(130, 130, 134))


def pole(draw: ImageDraw.ImageDraw, x, ground, unit, rng):
    half, tone = unit * rng.uniform(0.012, 0.07), grey(rng)
    top = ground - unit * rng.uniform(0.6, 3)
    draw.rectangle([x - half, top, x + half, ground], fill=tone)
    draw.rectangle([x - half, top, x - half / 3, ground], fill=ink(tone, 1.35))
    if rng.random() < 0.3:
        width = unit * rng.uniform(0.1, 0.25)
        box = [x - width, ground - 1.3 * unit, x + width, ground - 1.3 * unit + 1.6 * width]
        draw.rectangle(box, fill=ink(dye(rng, BRIGHT)))


def plant(draw: ImageDraw.ImageDraw, x, ground, unit, rng):
    tall, wide = unit * rng.uniform(0.2, 0.8), unit * rng.uniform(0.15, 0.6)
    green = np.array((rng.uniform(40, 95), rng.uniform(70, 120), rng.uniform(30, 70)))
    for _ in range(int(rng.integers(25, 60))):
        r = unit * rng.uniform(0.02, 0.09)
        px, py = x + rng.normal(0, 0.5) * wide, ground - rng.uniform(0, 1) * tall
        draw.ellipse([px - r, py - r, px + r, py + r], fill=ink(green, rng.uniform(0.6, 1.3)))


def railing(draw: ImageDraw.ImageDraw, x, ground, unit, rng):
    half, tall, tone = unit * rng.uniform(0.5, 1.5), unit * rng.uniform(0.35, 0.6), grey(rng, 50, 220)
    thin = max(1, round(unit * rng.uniform(0.012, 0.03)))
    for height in np.linspace(0.25, 1, int(rng.integers(2, 4))):
        draw.line([x - half, ground - tall * height, x + half, ground - tall * height], fill=tone, width=thin)
    for post in np.arange(x - half, x + half + 1, unit * rng.uniform(0.12, 0.7)):
        draw.line([post, ground - tall, post, ground], fill=tone, width=thin)


def box(draw: ImageDraw.ImageDraw, x, ground, unit, rng):
    """A box-shaped object, such as a bin, crate or pillar."""
    half, tall = unit * rng.uniform(0.06, 0.4), unit * rng.uniform(0.25, 0.65)
    tone = grey(rng) if rng.random() < 0.7 else ink(dye(rng, BRIGHT))
    draw.rectangle([x - half, ground - tall, x + half, ground], fill=tone)
    draw.rectangle([x - half, ground - tall, x + half, ground - 0.85 * tall], fill=ink(tone, 1.3))
    if rng.random() < 0.5:
        draw.rectangle([x + half * 0.3, ground - tall, x + half, ground], fill=ink(tone, 0.7))


def bench(draw: ImageDraw.ImageDraw, x, ground, unit, rng):
    half, tone = unit * rng.uniform(0.25, 0.6), grey(rng, 40, 160, 12)
    for height, thick in ((0.26, 0.03), (0.42, 0.04), (0.5, 0.04)):
        draw.rectangle([x - half, ground - (height + thick) * unit, x + half, ground - height * unit], fill=tone)
    for leg in (-0.8, 0.8):
        draw.line([x + leg * half, ground - 0.5 * unit, x + leg * half, ground], fill=ink(tone, 0.6), width=2)


def umbrella(draw: ImageDraw.ImageDraw, x, top, unit, rng, colour):
    """An umbrella over a head whose crown is at row `top`."""
    half, tall = 0.3 * unit, 0.16 * unit
    draw.line([x + 0.08 * unit, top - 0.1 * unit, x + 0.08 * unit, top + 0.35 * unit], fill=(60, 60, 62), width=2)
    arc = [(x + half * math.cos(a), top + 0.02 * unit - tall * math.sin(a)) for a in np.linspace(0, math.pi, 16)]
    draw.polygon(arc, fill=ink(colour))
    rim = top + 0.02 * unit
    draw.polygon([arc[4], arc[8], (x - 0.05 * unit, rim), (x + 0.18 * unit, rim)], fill=ink(colour, 0.8))


THINGS = (bicycle, bicycle, car, pole, plant, railing, box, bench)
LOW_THINGS = (bicycle, pole, plant, railing, box)  # objects that do not hide a whole person
