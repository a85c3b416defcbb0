"""A synthetic identity: body, head and clothes, the same in all cameras.

Clothes share a few colours, so that colour alone does not identify a person. `figures.py` renders identities.
"""

from dataclasses import dataclass, replace

import numpy as np

from appearance.drawn.cloth import BRIGHT, HAIRS, LOWER, MUTED, SKINS, Cloth, Rgb, dye, fashion, pick
from appearance.drawn.variety import EVERYTHING, Variety, within

HAIR_STYLES = {"bald": 0.05, "short": 0.46, "full": 0.12, "long": 0.2, "bun": 0.06, "ponytail": 0.11}
HATS = {"cap": 0.55, "hat": 0.25, "hood": 0.1, "wool": 0.1}
LOWERS = {"trousers": 0.5, "shorts": 0.32, "tights": 0.18}  # if it is not a skirt
BAGS = {"backpack": 0.42, "shoulder": 0.28, "hand": 0.16, "plastic": 0.1, "suitcase": 0.04}
SHOES = {(30, 30, 32): 0.42, (225, 225, 222): 0.28, (110, 80, 56): 0.15, (190, 50, 60): 0.07, (70, 90, 140): 0.08}


def scaled(colour: Rgb, factor: float) -> Rgb:
    """The colour with its brightness multiplied by `factor`."""
    return tuple(value * factor for value in colour)


@dataclass(frozen=True)
class Identity:
    """Everything that stays the same about a person. Lengths are fractions of the person's height."""

    # the body
    stature: float  # metres; visible as the relative size of the head
    build: float  # breadth relative to an average person of that height
    hips: float  # breadth of the hips relative to the shoulders
    belly: float  # 0 to 1
    legs: float  # height of the hip
    gait: float  # factor on the length of a step
    posture: float  # radians the upper body leans forwards
    # the head
    skin: Rgb
    hair: Rgb
    hair_style: str  # one of HAIR_STYLES
    hat: "str | None"  # one of HATS
    hat_colour: Rgb
    glasses: "str | None"  # "clear" or "dark"
    beard: bool
    mask: bool
    # clothes
    top: Cloth
    sleeves: float  # length: 0 none, 1 to the wrist
    sleeve: "Rgb | None"  # colour; None: as the top
    hem: float  # height of the top's lower end
    loose: float  # gap between clothes and body, added to half widths
    collar: bool
    jacket: "Cloth | None"
    jacket_hem: float
    opening: float  # radians the jacket is open on each side of the centre
    lower: str  # one of LOWERS, or "skirt"
    lower_cloth: Cloth
    lower_hem: float  # height of its lower end
    flare: float  # of a skirt
    dress: bool  # the skirt has the cloth of the top
    belt: "Rgb | None"
    shoes: Rgb
    socks: "Rgb | None"
    boots: bool
    # things carried
    bag: "str | None"  # one of BAGS
    bag_cloth: Cloth
    bag_size: float
    bag_side: int  # +1: the person's left, -1: the right
    bicycle: Rgb
    umbrella: Rgb

    @classmethod
    def random(cls, rng: np.random.Generator, variety: Variety = EVERYTHING) -> "Identity":
        """A random person."""
        chance = rng.random
        lower = "skirt" if chance() < variety.skirt else pick(rng, LOWERS)
        dress = lower == "skirt" and chance() < 0.45
        hem = rng.uniform(0.44, 0.53)
        low = {"trousers": 0.035, "shorts": rng.uniform(0.27, 0.42), "tights": rng.uniform(0.05, 0.2)}
        long_hair = {"long": 0.5, "ponytail": 0.2, "bun": 0.15, "full": 0.15} if lower == "skirt" else HAIR_STYLES
        style = pick(rng, long_hair)
        return cls(
            stature=float(rng.uniform(1.5, 1.92)),
            build=float(rng.uniform(*variety.build)),
            hips=float(rng.uniform(0.84, 1.04)),
            belly=float(rng.uniform(0, 1) ** 3),
            legs=float(rng.uniform(0.5, 0.545)),
            gait=float(rng.uniform(0.75, 1.2)),
            posture=float(rng.normal(0.04, 0.05)),
            skin=scaled(dye(rng, SKINS), within(rng, variety.skin)),
            hair=dye(rng, HAIRS),
            hair_style=style,
            hat=pick(rng, HATS) if chance() < variety.hat else None,
            hat_colour=fashion(rng, variety),
            glasses=("dark" if chance() < 0.2 else "clear") if chance() < variety.glasses else None,
            beard=style in ("bald", "short", "full") and chance() < variety.beard,
            mask=chance() < 0.03,
            top=Cloth.random(rng, variety),
            sleeves=pick(rng, {0.0: 0.08, 0.32: 0.5, 0.55: 0.12, 1.0: 0.3}),
            sleeve=fashion(rng, variety) if chance() < 0.1 else None,
            hem=float(hem),
            loose=float(rng.uniform(0.0, 0.022)),
            collar=chance() < 0.3,
            jacket=Cloth.random(rng, variety) if chance() < variety.jacket else None,
            jacket_hem=float(pick(rng, {0.47: 0.6, 0.42: 0.25, 0.26: 0.15}) + rng.uniform(-0.03, 0.03)),
            opening=float(rng.uniform(0.0, 0.9)) if chance() < 0.75 else 0.0,
            lower=lower,
            lower_cloth=Cloth.random(rng, variety, BRIGHT if chance() < 0.3 * variety.colours else LOWER),
            lower_hem=float(low.get(lower, rng.uniform(0.1, 0.2) if chance() < 0.2 else rng.uniform(0.26, 0.4))),
            flare=float(rng.uniform(1.0, 1.7)),
            dress=dress,
            belt=dye(rng, MUTED) if chance() < 0.3 else None,
            shoes=dye(rng, SHOES),
            socks=dye(rng, MUTED) if chance() < 0.4 else None,
            boots=chance() < 0.08,
            bag=pick(rng, BAGS) if chance() < variety.bag else None,
            bag_cloth=Cloth.random(rng, variety),
            bag_size=float(rng.uniform(0.75, 1.25)),
            bag_side=1 if chance() < 0.5 else -1,
            bicycle=dye(rng, MUTED | BRIGHT),
            umbrella=dye(rng, MUTED | BRIGHT),
        )

    def dressed_as(self, other: "Identity") -> "Identity":
        """This person in the clothes of `other`: body, head, shoes and bag stay."""
        clothes = ("top", "sleeves", "sleeve", "hem", "collar", "jacket", "jacket_hem", "opening", "lower")
        clothes += ("lower_cloth", "lower_hem", "flare", "dress", "belt")
        return replace(self, **{name: getattr(other, name) for name in clothes})

    def changed(self, rng: np.random.Generator) -> "Identity":
        """The same person at another time: without the jacket, hat or bag, or with the bag on the other side."""
        chance = rng.random
        identity = replace(self, hat=self.hat if chance() < 0.5 else None, bag_side=1 if chance() < 0.5 else -1)
        if self.jacket is not None and chance() < 0.6:
            identity = replace(identity, jacket=None)
        if self.bag is not None and chance() < 0.4:
            identity = replace(identity, bag=None)
        return identity
