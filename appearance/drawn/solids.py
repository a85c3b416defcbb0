"""A small renderer: round solids along bones, from any side, with depth and with coordinates on their surface.

Bodies are given in a person's own frame, in units of the stature: x to the person's left, y up from the ground, z
forwards. A solid is a stack of ellipses along a bone, which is exact for upright ones (body, head, skirt) and for
round ones in any direction (limbs).
"""

import math
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Solid:
    """A solid around the bone from `low` to `high`; half widths at stations evenly spaced along it."""

    material: int
    low: Point
    high: Point
    breadth: tuple[float, ...]  # across the body, at the stations
    depth: "tuple[float, ...] | None" = None  # from front to back; None: as the breadth
    cap: float = 1.0  # how far the rounded ends reach, over the width there
    square: bool = False  # hangs over what is inside, as cloth does: nearer at the sides than an ellipse is


@dataclass(frozen=True)
class Surface:
    """The n visible pixels of a rendered body."""

    pixels: np.ndarray  # (n,) positions in the flattened picture
    material: np.ndarray  # (n,) int
    azimuth: np.ndarray  # (n,) around the solid, radians: 0 in front, positive to the person's right
    height: np.ndarray  # (n,) on the body: 0 the ground, 1 the crown, as in the bones
    light: np.ndarray  # (n,) cosine between the surface and the light, -1 to 1


@dataclass(frozen=True)
class Eye:
    """From where a body is seen, and where it lands in the picture."""

    heading: float  # of the person, radians: 0 towards the camera, pi/2 to the right of the picture
    tilt: float  # how far the camera looks down
    nearness: float  # the stature over the camera's distance
    unit: float  # pixels of one stature
    x: float  # of the origin (between the feet), pixels
    y: float

    def see(self, point: Point) -> tuple[float, float, float, float]:
        """A point's x and y in the picture, its depth (larger is nearer) and pixels per unit there."""
        x, y, z = point
        right = x * math.cos(self.heading) + z * math.sin(self.heading)
        near = z * math.cos(self.heading) - x * math.sin(self.heading)
        up = y * math.cos(self.tilt) - near * math.sin(self.tilt)
        near = near * math.cos(self.tilt) + y * math.sin(self.tilt)
        # Relative to the middle of the body, so that the size of the whole stays what it is.
        scale = self.unit * (1 + self.nearness * (near - 0.5 * math.sin(self.tilt)))
        return self.x + right * scale, self.y - up * scale, near * self.unit, scale


def render(solids: list[Solid], eye: Eye, size: tuple[int, int], light: Point) -> Surface:
    """Draw the solids into a picture of `size` (width, height); `light` is the unit vector to the lamp.

    The picture's axes for the lamp are right, up and towards the camera. What is nearest in a pixel is what is seen.
    """
    width, height = size
    nearest = np.full((height, width), -np.inf, np.float32)
    owner = np.zeros((height, width), np.uint8)
    around = np.zeros((height, width), np.float32)
    along = np.zeros((height, width), np.float32)
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    turned, leaning = [0.0], [0.0]  # of each solid: the azimuth of its middle, and how its sides face the lamp
    cosine, sine = math.cos(eye.heading), math.sin(eye.heading)
    for number, solid in enumerate(solids, start=1):
        # Python's numbers, as arrays of a few would cost more than all the pixels.
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
    """Values at evenly spaced stations, interpolated at places t from 0 to 1."""
    if len(values) == 2:
        return t * (values[1] - values[0]) + values[0]
    table = np.interp(np.arange(256) / 255, np.arange(len(values)) / (len(values) - 1), values).astype(np.float32)
    return table[(t * 255).astype(np.uint8)]
