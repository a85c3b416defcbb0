"""Joint positions of a person who stands, walks or rides, at any phase of a step."""

import math
from dataclasses import dataclass

import numpy as np

from appearance.drawn.people import Identity
from appearance.drawn.solids import Point

GESTURES = ("telephone", "pocket", "strap", "carry", "behind")


@dataclass(frozen=True)
class Pose:
    """Pose of a body in one image."""

    phase: float = 0.0  # of the walking cycle in radians; 2 pi are two steps
    stride: float = 0.6  # length of the step: 0 standing, 1 long
    gestures: "tuple[str | None, str | None]" = (None, None)  # of the right and the left arm; None: swings
    rides: bool = False  # on a bicycle
    turn: float = 0.0  # of the head to the left, in radians

    @classmethod
    def random(cls, rng: np.random.Generator, phase: float, variety, rides=False) -> "Pose":
        arms = tuple(
            GESTURES[int(rng.random() * len(GESTURES))] if rng.random() < 0.6 * variety.gesture else None for _ in "rl"
        )
        turn = rng.normal(0, 0.35) if variety.gesture else 0.0
        return cls(phase, float(rng.uniform(*variety.stride)), arms, rides, float(turn))


@dataclass(frozen=True)
class Joints:
    """Joints in the person's coordinates (see solids.py), pairs as (right, left)."""

    hip: tuple[Point, Point]
    knee: tuple[Point, Point]
    ankle: tuple[Point, Point]
    toe: tuple[Point, Point]
    shoulder: tuple[Point, Point]
    elbow: tuple[Point, Point]
    hand: tuple[Point, Point]
    lean: float  # of the upper body forwards, in radians
    waist: Point  # the pivot of `lean`


def joints(identity: Identity, pose: Pose) -> Joints:
    """The joints of a person in a pose; the lower foot is on the ground."""
    swing = 0.52 * pose.stride * identity.gait
    lean = identity.posture + (0.3 if pose.rides else 0.0)
    legs = {}
    for side in (-1, 1):
        angle = pose.phase + (math.pi if side > 0 else 0.0)
        if pose.rides:
            thigh, bend = 0.75 + 0.42 * math.sin(angle), 1.05 - 0.3 * math.cos(angle)
        else:
            thigh = swing * math.sin(angle) + 0.04
            bend = 0.06 + 1.7 * swing * max(0.0, math.cos(angle)) ** 2 + 0.25 * swing * max(0.0, -math.sin(angle))
        legs[side] = thigh, bend, bend * 0.55 - 0.1 if bend > 0.4 else 0.0

    upper, lower = 0.47 * identity.legs, 0.45 * identity.legs
    spread = 0.052 * identity.build * identity.hips

    def leg(side, height):
        thigh, bend, lift = legs[side]
        hip = (side * spread, height, 0.0)
        knee = (side * spread * 1.05, height - upper * math.cos(thigh), upper * math.sin(thigh))
        shin = thigh - bend
        ankle = (side * spread * 0.85, knee[1] - lower * math.cos(shin), knee[2] + lower * math.sin(shin))
        down = 0.25 + lift
        toe = (ankle[0] + side * 0.016, ankle[1] - 0.085 * math.sin(down), ankle[2] + 0.085 * math.cos(down))
        return hip, knee, ankle, toe

    trial = [leg(side, identity.legs) for side in (-1, 1)]
    ground = min(min(ankle[1] - 0.035, toe[1] - 0.012) for _, _, ankle, toe in trial)
    height = identity.legs - ground + (0.09 if pose.rides else 0.0)  # pedals are above the ground
    hips, knees, ankles, toes = zip(*(leg(side, height) for side in (-1, 1)), strict=True)

    waist = (0.0, height, 0.0)
    trunk = 0.78 - identity.legs
    shoulders, elbows, hands = [], [], []
    for side, gesture in zip((-1, 1), pose.gestures, strict=True):
        breadth = side * 0.095 * (0.45 + 0.55 * identity.build)
        shoulder = (breadth, height + trunk * math.cos(lean), trunk * math.sin(lean))
        angle = pose.phase + (math.pi if side > 0 else 0.0)
        raised, bend, out, inward = -0.9 * swing * math.sin(angle), 0.2 + 0.6 * swing, 0.1, 0.0
        if pose.rides:
            raised, bend, out, inward = 0.95, 0.35, 0.15, 0.05
        elif gesture == "telephone":
            raised, bend, out, inward = 0.3, 2.25, 0.3, 0.25
        elif gesture == "pocket":
            raised, bend, out, inward = -0.35, 0.55, 0.28, 0.1
        elif gesture == "strap":
            raised, bend, out, inward = 0.0, 2.35, 0.2, 0.1
        elif gesture == "carry":
            raised, bend, out, inward = 0.1, 1.45, 0.1, 0.35
        elif gesture == "behind":
            raised, bend, out, inward = -0.55, 0.2, 0.1, 0.5
        elbow = (
            breadth + side * 0.165 * math.sin(out),
            shoulder[1] - 0.165 * math.cos(raised) * math.cos(out),
            shoulder[2] + 0.165 * math.sin(raised),
        )
        fore = raised + bend
        hand = (
            elbow[0] - side * 0.16 * math.sin(inward),
            elbow[1] - 0.16 * math.cos(fore) * math.cos(inward),
            elbow[2] + 0.16 * math.sin(fore) * math.cos(inward),
        )
        shoulders.append(shoulder)
        elbows.append(elbow)
        hands.append(hand)
    return Joints(hips, knees, ankles, toes, tuple(shoulders), tuple(elbows), tuple(hands), lean, waist)
