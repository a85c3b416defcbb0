"""A small renderer for round solids along bones, with a depth buffer and surface coordinates.

Coordinates are a person's own, in units of the person's height: x to the left, y up from the ground, z forwards. A
solid is a stack of ellipses along a bone. This is exact for upright solids (body, head, skirt) and for round ones in
any direction (limbs).
"""

import math
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Solid:
    """A solid around the bone from `low` to `high`, with half widths at evenly spaced stations."""

    material: int
    low: Point
    high: Point
    breadth: tuple[float, ...]  # half widths across the body
    depth: "tuple[float, ...] | None" = None  # half widths from front to back; None: as `breadth`
    cap: float = 1.0  # length of the rounded ends, relative to the half width there
    square: bool = False  # a squarer cross-section than an ellipse, for hanging cloth


@dataclass(frozen=True)
class Surface:
    """The n visible pixels of a rendered body."""

    pixels: np.ndarray  # (n,) positions in the flattened image
    material: np.ndarray  # (n,) int
    azimuth: np.ndarray  # (n,) radians around the solid: 0 in front, positive to the person's right
    height: np.ndarray  # (n,) on the body: 0 ground, 1 crown
    light: np.ndarray  # (n,) cosine between the surface normal and the light, -1 to 1


@dataclass(frozen=True)
class Eye:
    """The view of a body: direction, perspective and position in the image."""

    heading: float  # of the person in radians: 0 towards the camera, pi/2 to the right of the image
    tilt: float  # radians the camera looks down
    nearness: float  # the person's height over the distance to the camera
    unit: float  # the person's height in pixels
    x: float  # column of the origin (between the feet) in pixels
    y: float  # row of the origin in pixels

    def see(self, point: Point) -> tuple[float, float, float, float]:
        """(x, y, depth, scale) of a point: pixels in the image, larger depth is nearer, pixels per unit there."""
        x, y, z = point
        right = x * math.cos(self.heading) + z * math.sin(self.heading)
        near = z * math.cos(self.heading) - x * math.sin(self.heading)
        up = y * math.cos(self.tilt) - near * math.sin(self.tilt)
        near = near * math.cos(self.tilt) + y * math.sin(self.tilt)
        # Relative to the body's centre, so that the overall size does not change.
        scale = self.unit * (1 + self.nearness * (near - 0.5 * math.sin(self.tilt)))
        return self.x + right * scale, self.y - up * scale, near * self.unit, scale


def render(solids: list[Solid], eye: Eye, size: tuple[int, int], light: Point) -> Surface:
    """Render solids into an image of `size` (width, height) pixels.

    Args:
        light: unit vector to the light: right, up, towards the camera.
    """
    width, height = size
    nearest = np.full((height, width), -np.inf, np.float32)
    owner = np.zeros((height, width), np.uint8)
    around = np.zeros((height, width), np.float32)
    along = np.zeros((height, width), np.float32)
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    turned, leaning = [0.0], [0.0]  # per solid: azimuth of its centre, and light on its sides
    cosine, sine = math.cos(eye.heading), math.sin(eye.heading)
    for number, solid in enumerate(solids, start=1):
        # Python floats: numpy calls on tiny arrays would take longer than all pixels.
        x0, y0, z0, scale = eye.see(solid.low)
        x1, y1, z1, _ = eye.see(solid.high)
        breadth, depth = solid.breadth, solid.depth or solid.breadth
        half = [scale * math.hypot(a * cosine, b * sine) for a, b in zip(breadth, depth, strict=True)]
        middle = len(breadth) // 2
        length = math.hypot(x1 - x0, y1 - y0)
        ex, ey = ((x1 - x0) / length, (y1 - y0) / length) if length > 0.01 else (0.0, -1.0)
        length = max(0.01, length)
        turned.append(math.atan2(depth[middle] * sine, breadth[middle] * cosine))
        leaning.append(-ey * light[0] - ex * light[1])

        reach = max(half) * max(1.0, solid.cap)
        left, right = max(0, int(min(x0, x1) - reach)), min(width, int(max(x0, x1) + reach) + 2)
        top, bottom = max(0, int(min(y0, y1) - reach)), min(height, int(max(y0, y1) + reach) + 2)
        if left >= right or top >= bottom:
            continue
        window = (slice(top, bottom), slice(left, right))
        x, y = columns[left:right] - x0, rows[top:bottom] - y0
        beyond = x * (ex / length) + y * (ey / length)  # 0 at the low end, 1 at the high end
        t = np.minimum(np.maximum(beyond, 0), 1)
        w = between(t, half)
        s = (x * -ey + y * ex) / w  # -1 to 1 across
        beyond -= t
        beyond *= length / solid.cap
        beyond /= w
        beyond *= beyond
        inside = s * s
        inside += beyond
        np.subtract(1, inside, out=inside)
        z = np.sqrt(np.maximum(inside, 0))
        if solid.square:
            z = np.sqrt(z)
        if solid.depth:
            thick = [scale * math.hypot(a * sine, b * cosine) for a, b in zip(breadth, depth, strict=True)]
            z *= between(t, thick)
        else:  # round
            z *= w
        z += t * (z1 - z0)
        z += z0
        visible = (inside > 0) & (z > nearest[window])
        np.copyto(nearest[window], z, where=visible)
        np.copyto(owner[window], number, where=visible, casting="unsafe")
        np.copyto(around[window], s, where=visible)
        np.copyto(along[window], t, where=visible)

    pixels = np.flatnonzero(owner)
    owner, s, t = owner.ravel()[pixels], around.ravel()[pixels].clip(-1, 1), along.ravel()[pixels]
    foot = np.array([0] + [solid.low[1] for solid in solids], np.float32)
    rise = np.array([0] + [solid.high[1] - solid.low[1] for solid in solids], np.float32)
    material = np.array([0] + [solid.material for solid in solids])
    turned, leaning = np.array(turned, np.float32), np.array(leaning, np.float32)
    return Surface(
        pixels,
        material[owner],
        turned[owner] - np.arcsin(s),
        foot[owner] + rise[owner] * t,
        s * leaning[owner] + np.sqrt(1 - s * s) * np.float32(light[2]),
    )


def between(t: np.ndarray, values: list[float]) -> np.ndarray:
    """Linear interpolation of values at evenly spaced stations, at t from 0 to 1."""
    if len(values) == 2:
        return t * (values[1] - values[0]) + values[0]
    table = np.interp(np.arange(256) / 255, np.arange(len(values)) / (len(values) - 1), values).astype(np.float32)
    return table[(t * 255).astype(np.uint8)]
