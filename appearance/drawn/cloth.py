"""Colours and patterns of clothes, painted on the surface of a body."""

import math
from dataclasses import dataclass

import numpy as np

from appearance.drawn.variety import Variety, within

Rgb = tuple[float, float, float]

# Colour -> share of the clothes. Most clothes are dark or grey.
MUTED = {
    (30, 30, 34): 0.27,  # black
    (64, 66, 72): 0.10,  # charcoal
    (120, 122, 124): 0.09,
    (170, 170, 168): 0.06,
    (228, 228, 226): 0.21,  # white
    (36, 44, 74): 0.10,  # navy
    (70, 92, 128): 0.06,  # denim
    (150, 172, 200): 0.03,
    (186, 170, 140): 0.05,  # beige
    (92, 84, 66): 0.03,
}
BRIGHT = {
    (190, 36, 44): 0.17,  # red
    (120, 34, 50): 0.07,
    (225, 120, 150): 0.11,  # pink
    (235, 190, 190): 0.05,
    (224, 120, 50): 0.06,  # orange
    (226, 202, 80): 0.10,  # yellow
    (60, 130, 70): 0.08,  # green
    (40, 160, 140): 0.07,
    (160, 200, 110): 0.06,
    (50, 100, 190): 0.11,  # blue
    (100, 180, 220): 0.06,
    (110, 60, 130): 0.06,  # purple
}
LOWER = {
    (32, 32, 36): 0.30,
    (40, 48, 72): 0.13,
    (72, 92, 126): 0.16,  # jeans
    (118, 140, 170): 0.07,
    (110, 110, 108): 0.10,
    (70, 70, 68): 0.07,
    (170, 154, 124): 0.10,
    (220, 218, 212): 0.07,
}
SKINS = {
    (236, 196, 170): 0.3,
    (222, 176, 140): 0.32,
    (196, 146, 108): 0.2,
    (140, 96, 68): 0.1,
    (88, 60, 46): 0.08,
}
HAIRS = {
    (26, 23, 22): 0.55,
    (52, 38, 30): 0.2,
    (96, 66, 42): 0.1,
    (180, 144, 90): 0.06,
    (150, 148, 146): 0.07,
    (120, 52, 32): 0.02,
}
PATTERNS = {
    "hoops": 0.2,
    "stripes": 0.1,
    "checks": 0.2,
    "dots": 0.07,
    "flowers": 0.13,
    "halves": 0.1,
    "band": 0.08,
    "sides": 0.07,
    "worn": 0.05,
}


def pick(rng: np.random.Generator, options):
    """A random option from a list, or from a dictionary option -> weight."""
    if not isinstance(options, dict):
        return options[int(rng.random() * len(options))]
    place = rng.random() * sum(options.values())
    for option, weight in options.items():  # noqa: B007, the last one is used
        place -= weight
        if place < 0:
            break
    return option


def dye(rng: np.random.Generator, colours) -> Rgb:
    """A random one of the colours, slightly varied."""
    colour = pick(rng, colours)
    depth, *tint = rng.standard_normal(4).tolist()
    depth = 1 + 0.13 * depth
    return tuple(min(250.0, max(12.0, value * depth + 7 * shift)) for value, shift in zip(colour, tint, strict=True))


def fashion(rng: np.random.Generator, variety: Variety) -> Rgb:
    """A random colour of a garment, bright or muted."""
    return dye(rng, BRIGHT if rng.random() < variety.colours else MUTED)


def saturated(colour: Rgb, factor: float) -> Rgb:
    """The colour with its saturation multiplied by `factor`."""
    grey = sum(colour) / 3
    return tuple(min(250.0, max(8.0, grey + (value - grey) * factor)) for value in colour)


@dataclass(frozen=True)
class Cloth:
    """Colours and pattern of a garment. Lengths are fractions of the person's height."""

    colour: Rgb
    second: Rgb
    pattern: str = "plain"  # or one of PATTERNS
    period: float = 0.06  # of the pattern
    duty: float = 0.5  # fraction of the period in the second colour
    print: "np.ndarray | None" = None  # (n, n, 4) RGB and opacity, on the chest or the back
    where: tuple[float, float, float, float] = (
        0.0,
        0.7,
        0.5,
        0.05,
    )  # of the print: azimuth and height of its centre, half sizes

    @classmethod
    def random(cls, rng: np.random.Generator, variety: Variety, colours=None) -> "Cloth":
        colour = dye(rng, colours) if colours else fashion(rng, variety)
        second = fashion(rng, variety)
        if sum(abs(a - b) for a, b in zip(colour, second, strict=True)) < 120:  # too close to the first colour
            second = tuple(225.0 - 0.3 * value if sum(colour) < 380 else 0.25 * value for value in colour)
        vivid, share = within(rng, variety.vivid), within(rng, variety.second)
        if vivid != 1:
            colour, second = saturated(colour, vivid), saturated(second, vivid)
        if share != 1:
            second = tuple(a + (b - a) * share for a, b in zip(colour, second, strict=True))
        pattern = pick(rng, PATTERNS) if rng.random() < variety.pattern * (0.4 if colours else 1) else "plain"
        period, duty = rng.uniform(0.018, 0.075), rng.uniform(0.15, 0.6)
        picture = emblem(rng, second) if not colours and rng.random() < variety.print else None
        side = 0.0 if rng.random() < 0.75 else math.pi
        small = rng.random() < 0.35
        where = (
            side + (rng.uniform(-0.6, 0.6) if small else rng.uniform(-0.1, 0.1)),
            rng.uniform(0.68, 0.76),
            rng.uniform(0.12, 0.25) if small else rng.uniform(0.3, 0.75),
            rng.uniform(0.012, 0.025) if small else rng.uniform(0.03, 0.085),
        )
        return cls(colour, second, pattern, period, duty, picture, where)

    def paint(self, azimuth: np.ndarray, height: np.ndarray) -> np.ndarray:
        """Unlit colours (n, 3) at n points of the body, by azimuth (radians) and height (0 ground, 1 crown)."""
        colour = np.empty((len(height), 3), np.float32)
        colour[:] = self.colour
        second = self._second(azimuth, height)
        if second is not None:
            if second.dtype == bool:
                colour[second] = self.second
            else:
                colour += second[:, None] * (np.array(self.second, np.float32) - colour)
        if self.print is not None:
            middle, level, breadth, tall = self.where
            n = len(self.print)
            column = (np.remainder(azimuth - middle + math.pi, 2 * math.pi) - math.pi) * (-n / 2 / breadth) + n / 2
            row = (level - height) * (n / 2 / tall) + n / 2
            on = (column >= 0) & (column < n) & (row >= 0) & (row < n)
            ink = self.print[row[on].astype(int), column[on].astype(int)]
            colour[on] += ink[:, 3:] * (ink[:, :3] - colour[on])
        return colour

    def _second(self, azimuth, height):
        """(n,) where the second colour is: bool, or a fraction from 0 to 1; None: nowhere."""
        if self.pattern == "plain":
            return None
        arc = azimuth * np.float32(0.09)  # approximate arc length, for a typical body
        if self.pattern == "hoops":
            return np.remainder(height, self.period) < self.period * self.duty
        if self.pattern == "stripes":
            return np.remainder(arc, self.period) < self.period * self.duty
        if self.pattern == "checks":
            across = np.remainder(arc, self.period) < self.period * self.duty
            return (across + (np.remainder(height, self.period) < self.period * self.duty)) * np.float32(0.45)
        if self.pattern == "dots":
            x, y = np.remainder(arc, self.period) - self.period / 2, np.remainder(height, self.period) - self.period / 2
            return x * x + y * y < (self.period * (0.2 + 0.3 * self.duty)) ** 2
        if self.pattern == "flowers":  # blotches: waves of several directions
            k = 3.0 / self.period
            waves = np.sin(arc * k + 1.7) * np.sin(height * k * 1.3)
            waves += np.sin(arc * k * 1.9 - height * k * 1.1 + self.duty * 9)
            return waves > 1.0 - 1.6 * self.duty
        if self.pattern == "halves":
            return height < 0.52 + 0.4 * self.duty
        if self.pattern == "band":
            return np.abs(height - 0.6 - 0.25 * self.duty) < 0.6 * self.period
        if self.pattern == "sides":
            return np.abs(np.cos(azimuth)) < 0.35
        # worn: paler in front, as jeans are
        return (0.5 * np.cos(azimuth) * np.sin(height * 14)).clip(0, 0.5)


def emblem(rng: np.random.Generator, ink: Rgb) -> np.ndarray:
    """A random print, (16, 16, 4) RGB and opacity: blocks, lines of text, a disc or a framed picture."""
    n = 16
    picture = np.zeros((n, n, 4), np.float32)
    picture[..., :3] = ink
    kind = rng.random()
    if kind < 0.4:  # a symmetric pattern of blocks in up to three colours
        half = rng.random((4, 4, 1)) < 0.6
        tones = np.where(rng.random((4, 4, 1)) < 0.4, rng.uniform(20, 240, 3), np.array(ink))
        block = np.concatenate([tones, half], axis=2)
        block = np.concatenate([block, block[:, ::-1]], axis=1)
        picture[:] = np.repeat(np.repeat(block, 4, axis=0), 2, axis=1)
    elif kind < 0.7:  # writing
        lines = int(rng.integers(1, 4))
        for line in range(lines):
            top = (2 * line + 1) * n // (2 * lines + 1)
            picture[top : top + max(2, n // (2 * lines + 1)), :, 3] = rng.random(n) < 0.7
    elif kind < 0.85:  # a disc or ring
        y, x = np.mgrid[0:n, 0:n] - (n - 1) / 2
        r = np.hypot(x, y)
        picture[..., 3] = (r < n / 2) & (r > rng.uniform(-3, 5))
    else:  # a framed picture
        picture[..., 3] = 1
        picture[2:-2, 2:-2, :3] = np.repeat(np.repeat(rng.uniform(20, 240, (3, 3, 3)), 4, axis=0), 4, axis=1)
    return picture
