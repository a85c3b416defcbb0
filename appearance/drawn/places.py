"""Backgrounds from a seed: ground in perspective, a wall behind it, and objects."""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from appearance.drawn import furniture
from appearance.drawn.furniture import grey, ink

WIDTH, HEIGHT = 640, 320  # pixels of a background


@dataclass(frozen=True)
class Place:
    """A background and the scale of people in it."""

    picture: Image.Image  # RGB
    edge: float  # row where the wall meets the ground
    far: float  # height in pixels of a person standing in row `edge`
    near: float  # height in pixels of a person standing in the lowest row

    def unit(self, row: float) -> float:
        """Height in pixels of a person whose feet are in `row`."""
        return self.far + (self.near - self.far) * (row - self.edge) / (self.picture.height - self.edge)


def noise(rng: np.random.Generator, width: int, height: int, cells: int) -> np.ndarray:
    """Smooth noise, (height, width) float, with features of width / cells pixels."""
    grid = rng.standard_normal((max(2, cells * height // width), cells)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC))


def tint(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """A random (3,) colour of a wall or ground: mostly grey, sometimes brick, wood, grass or paint."""
    colour = rng.uniform(low, high) + rng.normal(0, 4, 3)
    if rng.random() < 0.25:
        shade = rng.choice(3)
        colour = colour * np.array([(1.2, 0.85, 0.7), (0.85, 1.05, 0.65), (1.1, 1.0, 0.8)])[shade]
    return colour.astype(np.float32)


def tiles(rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Brightness factors at points x, y (metres) of a random texture: slabs, bricks, planks, stripes or none."""
    kind = rng.random()
    a, b = rng.uniform(0.15, 1.0), rng.uniform(0.15, 1.0)
    if kind < 0.2:
        b = a * rng.uniform(2, 6)
    joint, dark = rng.uniform(0.03, 0.09), rng.uniform(0.6, 1.25)
    row = np.floor(y / a)
    x = x + row % 2 * b / 2 * (rng.random() < 0.5)
    if kind < 0.72:
        each = np.sin(np.floor(x / b) * 12.9 + row * 78.2) * rng.uniform(0, 0.12)  # varies the brightness of tiles
        lines = (np.remainder(y, a) < joint * a) | (np.remainder(x, b) < joint * b)
        return np.where(lines, np.float32(dark), 1 + each).astype(np.float32)
    if kind < 0.8:  # a zebra crossing, or a striped wall
        return np.where(np.remainder(x, 2 * b) < b, np.float32(rng.uniform(1.2, 1.8)), np.float32(1))
    return np.ones(np.broadcast(x, y).shape, np.float32)


def windows(rng: np.random.Generator, draw: ImageDraw.ImageDraw, edge: float, unit: float, width: int):
    """Draw doors, windows, shop fronts and signs on the wall."""
    step, x = unit * rng.uniform(0.5, 2), -unit * rng.uniform(0, 1)
    high, low = edge - unit * rng.uniform(0.9, 2.2), edge - unit * (0 if rng.random() < 0.5 else rng.uniform(0.2, 0.6))
    glass = grey(rng, 15, 90) if rng.random() < 0.65 else grey(rng, 120, 240, 15)
    frame = grey(rng, 30, 230)
    while x < width:
        half = step * rng.uniform(0.25, 0.45)
        if rng.random() < 0.85:
            fill = ink(glass, rng.uniform(0.7, 1.3))
            draw.rectangle([x - half, high, x + half, max(high, low)], fill=fill, outline=frame, width=2)
            if rng.random() < 0.4:
                draw.line([x, high, x, low], fill=frame, width=2)
        if rng.random() < 0.25:
            size, row = unit * rng.uniform(0.1, 0.4), rng.uniform(0, edge)
            draw.rectangle([x, row, x + size, row + size * 0.7], fill=ink(rng.uniform(20, 240, 3)))
        x += step


def draw_place(rng: np.random.Generator, tilt: float, width: int = WIDTH, height: int = HEIGHT) -> Place:
    """A random background for a camera that looks down by `tilt` radians; a larger tilt shows less of the wall."""
    edge = height * float(np.clip(0.55 - 0.8 * tilt + rng.normal(0, 0.08), 0.05, 0.62))
    far = height * rng.uniform(0.22, 0.4)
    place = Place(Image.new("RGB", (width, height)), edge, far, max(far * 1.15, height * rng.uniform(0.5, 0.75)))
    x = np.arange(width, dtype=np.float32)
    y = np.arange(height, dtype=np.float32)[:, None]
    unit = place.unit(y) * np.float32(1 / 1.7)  # pixels per metre in each row of ground
    pixels = np.empty((height, width, 3), np.float32)

    wall = int(edge)
    up = (edge - y[:wall]) * (1.7 / far)
    pixels[:wall] = (tiles(rng, x * (1.7 / far), up) * np.ones((wall, 1), np.float32))[..., None] * tint(rng, 40, 190)
    if rng.random() < 0.3:  # a hedge or trees
        leaves = noise(rng, width, wall, 60) + noise(rng, width, wall, 160) if wall > 1 else 0
        pixels[:wall] = (1 + 0.28 * leaves)[..., None] * np.array((70, 84, 58), np.float32) * rng.uniform(0.5, 1.3)
    unit = np.maximum(unit[wall:], 1)
    away = 14.0 * far / 1.7 / unit * rng.uniform(0.8, 1.4)  # metres from the camera
    slant = rng.uniform(-0.5, 0.5)
    across = (x - width / 2) / unit
    pixels[wall:] = tiles(rng, across + slant * away, away - slant * across)[..., None] * tint(rng, 70, 190)
    if rng.random() < 0.15:
        grass = noise(rng, width, height - wall, 200) + noise(rng, width, height - wall, 90)
        pixels[wall:] = (1 + 0.16 * grass)[..., None] * np.array((88, 108, 62), np.float32)
    place.picture.paste(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))

    draw = ImageDraw.Draw(place.picture)
    if rng.random() < 0.65:
        windows(rng, draw, edge, far, width)
    if rng.random() < 0.5:  # kerb, plinth or a change of paving
        row, thick = edge + rng.uniform(0, 0.5) * (height - edge), rng.uniform(2, 12)
        draw.rectangle([0, row, width, row + thick], fill=grey(rng, 60, 220))
    crowd = rng.integers(0, 22)
    kinds = [furniture.THINGS[int(kind)] for kind in rng.integers(0, len(furniture.THINGS), 3)]
    for depth in np.sort(rng.random(crowd) ** 2.5):
        row = edge + depth * (height - edge)
        kinds[int(rng.integers(len(kinds)))](draw, rng.uniform(0, width), row, place.unit(row), rng)

    pixels = np.asarray(place.picture).astype(np.float32)
    strength = rng.uniform(2, 9)
    stains = noise(rng, width, height, 8) * 1.6 + noise(rng, width, height, 40) + noise(rng, width, height, 200)
    pixels += (strength * stains)[..., None]
    return Place(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), edge, place.far, place.near)
