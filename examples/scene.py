"""Render a synthetic video with ground truth: people walk, stop, turn behind occluders, leave and return.

    python examples/scene.py OUT && python examples/track_mot.py OUT

OUT becomes a sequence in MOT format, with simulated detections in det/ and annotations in gt/. It is rendered like the
sample dataset, by one camera with changing exposure, in a scene with sun and shade. The people are not in the sample
dataset: they have random streams of their own.
"""

import functools
import math
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import numpy as np
from PIL import Image, ImageDraw

from appearance import cli
from appearance.drawn import poses
from appearance.drawn.cameras import Camera, stream
from appearance.drawn.figures import figure
from appearance.drawn.people import Identity
from appearance.drawn.places import draw_place
from appearance.drawn.variety import EVERYTHING
from appearance.files import beside
from appearance.flags import count, positive

# First part of the stream keys; other numbers than in the sample dataset.
PERSON_STREAM, WALK_STREAM, DEVELOP_STREAM, DETECTOR_STREAM, PLACE_STREAM = 100, 101, 102, 103, 104
CAMERA = Camera.random(0, 1, EVERYTHING.without("exposure", "night", "contrast", "haze", "saturation", "noise"))
WIDTH, HEIGHT = 1024, 384  # pixels at which the scene is drawn; frames are smaller by SCALE
SCALE = 2
RATE = 8  # frames per second
HEADINGS = {"front": 0.0, "right": math.pi / 2, "back": math.pi, "left": -math.pi / 2}  # see drawn/solids.py
OCCLUDERS = ((300, 372, (96, 104, 96)), (690, 790, (120, 92, 70)))  # left, right, RGB
PHASES = 12  # images per walking cycle
EXPOSURE_FRAMES = 25  # frames between changes of the exposure
VISIBLE = 0.5  # least visible fraction of a person in ground truth and detections


@dataclass(frozen=True)
class Pose:
    """Position of a person in one frame, in pixels of the drawing (SCALE per pixel of a frame)."""

    person: int
    x: float  # column of the body's centre line
    feet: float  # row of the soles
    height: int
    view: str  # one of HEADINGS
    phase: int  # of the walking cycle, below PHASES


@dataclass
class Scene:
    """A sequence, one list item per frame. Boxes are left, top, width, height in pixels of the frame."""

    frames: list[np.ndarray]  # (H, W, 3) uint8 RGB
    people: list[np.ndarray]  # (n,) int: ground truth identities
    boxes: list[np.ndarray]  # (n, 4) float: ground truth boxes
    detections: list[np.ndarray]  # (m, 4) float: simulated detections, see `detect`


def record(seed: int = 0, frames: int = 300, people: int = 8) -> Scene:
    """Render a scene; the same arguments give the same pixels."""
    walks = [walk(person, seed, frames) for person in range(people)]
    scene = Scene([], [], [], [])
    for number in range(frames):
        poses = sorted((w[number] for w in walks if w[number] is not None), key=lambda pose: pose.feet)
        picture, found = draw(poses, seed)
        scene.frames.append(develop(picture, number, seed))
        scene.people.append(np.array([person for person, _ in found], dtype=int))
        scene.boxes.append(np.array([box for _, box in found], dtype=float).reshape(-1, 4))
        scene.detections.append(detect(scene.boxes[-1], number, seed))
    return scene


def walk(person: int, seed: int, frames: int) -> list[Pose | None]:
    """One person's pose in each frame; None while outside the image."""
    rng = stream(seed, WALK_STREAM, person)
    poses: list[Pose | None] = [None] * int(rng.integers(0, 60))
    while len(poses) < frames:
        depth, speed = rng.uniform(), rng.uniform(6, 12)  # 0 is far away; pixels per frame
        feet, height = (0.82 + 0.15 * depth) * HEIGHT, round((0.50 + 0.12 * depth) * HEIGHT)
        outside = [-80.0, WIDTH + 80.0]
        x, steps = outside[rng.integers(2)], 0.0
        stops = [_stop(rng) for _ in range(rng.integers(1, 4))]
        for target in [*stops, outside[rng.integers(2)]]:
            view = "right" if target > x else "left"
            while abs(target - x) > speed:
                x += math.copysign(speed, target - x)
                steps += speed / height
                poses.append(Pose(person, x, feet, height, view, int(steps * 1.1 * PHASES) % PHASES))
            view = str(rng.choice(["front", "back"]))
            poses += [Pose(person, x, feet, height, view, 0)] * int(rng.choice([0, 4, 14]))
        poses += [None] * int(rng.integers(15, 50))
    return poses[:frames]


def _stop(rng: np.random.Generator) -> float:
    """A random column where a person stops or turns: with probability 0.5 behind an occluder."""
    if rng.random() < 0.5:
        left, right, _ = OCCLUDERS[rng.integers(len(OCCLUDERS))]
        return (left + right) / 2
    return rng.uniform(120, WIDTH - 120)


@functools.lru_cache(maxsize=4096)
def sheet(person: int, seed: int, view: str, phase: int, height: int) -> Image.Image:
    """The image of a person: RGBA, `height` pixels high, 0.8 * `height` wide."""
    identity = Identity.random(stream(seed, PERSON_STREAM, person))
    return figure(identity, poses.Pose(2 * math.pi * phase / PHASES), HEADINGS[view], height)


@functools.lru_cache(maxsize=1)
def backdrop() -> Image.Image:
    """The background, drawn once."""
    return draw_place(stream(0, PLACE_STREAM), 0.1, WIDTH, HEIGHT).picture


def draw(poses: list[Pose], seed: int) -> tuple[Image.Image, list[tuple[int, list[float]]]]:
    """Draw people (sorted, far ones first). Returns the image and (person, box) of those visible enough."""
    picture = backdrop().copy()
    owner = Image.new("I", picture.size, -1)  # index of the person that each pixel shows
    shapes = []
    for index, pose in enumerate(poses):
        person = sheet(pose.person, seed, pose.view, pose.phase, pose.height)
        corner = round(pose.x) - person.width // 2, round(pose.feet) - person.height
        shape = person.getchannel("A")
        picture.paste(person, corner, shape)
        owner.paste(index, corner, shape)
        shapes.append((corner, shape))
    for left, right, colour in OCCLUDERS:
        for image, fill in ((picture, colour), (owner, -1)):
            ImageDraw.Draw(image).rectangle([left, 0.34 * HEIGHT, right, HEIGHT], fill=fill)
    seen = np.bincount(np.asarray(owner).ravel() + 1, minlength=len(poses) + 1)[1:]
    found = []
    for pose, pixels, (corner, shape) in zip(poses, seen, shapes, strict=True):
        if pixels >= VISIBLE * np.count_nonzero(np.asarray(shape)):
            left, top, right, bottom = shape.getbbox()
            left, right = max(corner[0] + left, 0), min(corner[0] + right, WIDTH)
            top, bottom = max(corner[1] + top, 0), min(corner[1] + bottom, HEIGHT)
            found.append((pose.person, [left / SCALE, top / SCALE, (right - left) / SCALE, (bottom - top) / SCALE]))
    return picture, found


def develop(picture: Image.Image, number: int, seed: int) -> np.ndarray:
    """The camera's frame, (H, W, 3) uint8 RGB: sun on the left, shade on the right.

    Exposure and noise change every EXPOSURE_FRAMES frames only, so that GIFs of the scene stay small.
    """
    light = np.linspace(1.15, 0.62, WIDTH // SCALE, dtype=np.float32)[:, None] * np.array([1.0, 1.0, 1.04], np.float32)
    lit = Image.fromarray((np.asarray(picture.reduce(SCALE)) * light).clip(0, 255).astype(np.uint8))
    return np.asarray(CAMERA.develop(lit, stream(seed, DEVELOP_STREAM, number // EXPOSURE_FRAMES)))


def detect(boxes: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Simulated detections of (n, 4) boxes: 4 % are missed, edges vary by 3 % of the height, 3 % of frames have a false
    detection."""
    rng = stream(seed, DETECTOR_STREAM, number)
    noise = rng.normal(0, 0.03, boxes.shape) * boxes[:, 3:4] * [0.5, 1, 0.5, 1]
    found = (boxes + noise)[rng.random(len(boxes)) > 0.04]
    if rng.random() < 0.03:
        ghost = [rng.uniform(0, WIDTH / SCALE - 50), rng.uniform(20, 80), 45.0, 100.0]
        found = np.vstack([found, ghost])
    return found


def save(scene: Scene, folder: Path) -> None:
    """Write a sequence in MOT format (`appearance/data/sequences.py`), with lossless PNG frames.

    Raises:
        InputError: the folder cannot be written.
    """
    detections, truth = [], []
    try:
        with beside(folder) as new:
            for part in ("img1", "det", "gt"):
                (new / part).mkdir(parents=True)
            for number, frame in enumerate(scene.frames, 1):
                Image.fromarray(frame).save(new / "img1" / f"{number:06d}.png")
                detections += [f"{number},-1,{_box(box)},1" for box in scene.detections[number - 1]]
                there = zip(scene.people[number - 1], scene.boxes[number - 1], strict=True)
                truth += [f"{number},{person + 1},{_box(box)},1,1,1" for person, box in there]
            (new / "det" / "det.txt").write_text("\n".join(detections) + "\n")
            (new / "gt" / "gt.txt").write_text("\n".join(truth) + "\n")
            (new / "seqinfo.ini").write_text(f"[Sequence]\nname={folder.name}\nframeRate={RATE}\n")
    except OSError as error:
        raise cli.InputError(f"{folder}: cannot be written ({error.strerror}); choose another folder") from None


def _box(box: np.ndarray) -> str:
    return ",".join(f"{number:.2f}" for number in box)


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(description="Render a synthetic video of walking people, as a sequence in MOT format.")
    add = parser.add_argument
    add("output", type=Path, metavar="OUT", help="new folder for the sequence")
    add("--frames", type=positive, default=300, help="number of frames (default: 300)")
    add("--people", type=positive, default=8, help="number of people (default: 8)")
    add("--seed", type=count, default=0, help="seed of people and walks (default: 0)")
    return parser


def main(args) -> None:
    if args.output.is_dir() and any(args.output.iterdir()):
        raise cli.InputError(f"{args.output}: exists and is not empty; choose a new folder")
    save(record(args.seed, args.frames, args.people), args.output)
    print(f"{args.frames} frames with {args.people} people in {args.output}")


if __name__ == "__main__":
    cli.run(main, get_args_parser())
