"""What does appearance do for a tracker? Motion alone, colour histograms and the trained network on drawn scenes.

    python examples/track_demo.py                                    the network on three scenes
    python examples/track_demo.py --gif demo.gif --picture demo.png  and pictures of the first one

The tracker is the same for all (`tracker.py`); each kind of appearance gets the distance threshold that is best for it
on another scene. Needs scipy: pip install scipy
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

import scene
from identity_measures import SAME, identity_measures
from tracker import Tracker, overlap

from appearance import cli
from appearance.files import atomic_write, write_text
from appearance.flags import count, positive
from appearance.networks import runtimes
from appearance.networks.flags import add_network_flags
from feature_extractor import extractor_of

THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
TUNING_SEED = 1000  # of the scene that thresholds are chosen on


# ---------------------------------------------------------------------------------------------------------------------
# Appearance: a list of crops -> (n, D) unit rows


def nothing(crops: list[np.ndarray]) -> np.ndarray:
    return np.ones((len(crops), 1), np.float32)


def colours(crops: list[np.ndarray]) -> np.ndarray:
    """Hue and saturation histograms of the upper and the lower half, as square roots (n, 2 * 16 * 4).

    The cosine of two such vectors is their Bhattacharyya coefficient.
    """
    rows = []
    for crop in crops:
        hue, saturation, _ = np.moveaxis(np.asarray(Image.fromarray(crop).convert("HSV")), 2, 0)
        cells = hue // 16 * 4 + saturation // 64
        halves = np.array_split(cells, 2)
        rows.append(np.concatenate([np.sqrt(np.bincount(half.ravel(), minlength=64) / cells.size) for half in halves]))
    return np.array(rows, np.float32).reshape(len(rows), 128)


# ---------------------------------------------------------------------------------------------------------------------
# Tracking


def crops_of(frame: np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    """What each box shows."""
    return [frame[top:bottom, left:right] for left, top, right, bottom in corners(boxes, *frame.shape[1::-1])]


def corners(boxes: np.ndarray, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom of each box in whole pixels: at least one pixel, clipped at the frame's border."""
    low = boxes[:, :2].astype(int).clip(0, [width - 1, height - 1])
    high = (boxes[:, :2] + boxes[:, 2:]).astype(int).clip(low + 1, [width, height])
    return np.concatenate([low, high], 1).tolist()


def describe(recorded: scene.Scene, appearance) -> list[np.ndarray]:
    """The vectors of each frame's detections."""
    return [
        appearance(crops_of(frame, boxes)) for frame, boxes in zip(recorded.frames, recorded.detections, strict=True)
    ]


def track(recorded: scene.Scene, vectors: list[np.ndarray], max_distance: float | None) -> list[np.ndarray]:
    """The track number of each frame's detections, -1 where there is none."""
    tracker = Tracker(max_distance)
    return [tracker.update(boxes, rows) for boxes, rows in zip(recorded.detections, vectors, strict=True)]


def measure(recorded: scene.Scene, numbers: list[np.ndarray]) -> dict[str, float]:
    found = [boxes[number >= 0] for boxes, number in zip(recorded.detections, numbers, strict=True)]
    numbers = [number[number >= 0] for number in numbers]
    return identity_measures(recorded.people, recorded.boxes, numbers, found)


def best_threshold(recorded: scene.Scene, appearance) -> float:
    """The largest distance of a match that gives the best IDF1."""
    vectors = describe(recorded, appearance)
    return max(THRESHOLDS, key=lambda threshold: measure(recorded, track(recorded, vectors, threshold))["IDF1"])


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def colour_of(number: int) -> tuple[int, int, int]:
    """One colour for each track, far from that of the next."""
    picture = Image.new("HSV", (1, 1), (number * 97 % 256, 170 + number % 3 * 40, 235 - number // 3 % 3 * 45))
    return picture.convert("RGB").getpixel((0, 0))


def lifelines(recorded: scene.Scene, results: dict[str, list[np.ndarray]]) -> Image.Image:
    """Who was called what: a line per person along time, coloured by track; a change of colour is a switch."""
    row, gap, left, step = 12, 30, 64, 2
    people = sorted({int(person) for frame in recorded.people for person in frame})
    below = 44  # for the frames and the key
    size = left + step * len(recorded.frames) + 10, len(results) * (len(people) * row + gap) + below
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for panel, (name, numbers) in enumerate(results.items()):
        top = panel * (len(people) * row + gap) + gap - 6
        measured = measure(recorded, numbers)
        title = f"{name}: IDF1 {measured['IDF1']:.1%}, {measured['switches']} identity switches"
        draw.text((left, top - 18), title, fill="black", font=ImageFont.load_default(12))
        for place, person in enumerate(people):
            label = f"person {person + 1}"
            draw.text((4, top + place * row - 2), label, fill=(90, 90, 90), font=ImageFont.load_default(10))
        for frame, called in enumerate(names(recorded, numbers)):
            for person, number in called.items():
                x, y = left + step * frame, top + people.index(person) * row
                fill = colour_of(number) if number >= 0 else (225, 225, 225)
                draw.rectangle([x, y, x + step - 1, y + row - 4], fill=fill)
    _time_axis(draw, left, size[1] - below, step, len(recorded.frames))
    return picture


def _time_axis(draw: ImageDraw.ImageDraw, left: int, top: int, step: int, frames: int) -> None:
    """Frame numbers, and what grey means."""
    words = {"fill": (90, 90, 90), "font": ImageFont.load_default(10)}
    draw.line([left, top, left + step * frames, top], fill=(90, 90, 90))
    for frame in range(0, frames + 1, 50 if frames >= 100 else 10):
        x = left + step * frame
        draw.line([x, top, x, top + 4], fill=(90, 90, 90))
        draw.text((x - 3 * len(str(frame)), top + 5), str(frame), **words)
    draw.text((4, top + 5), "frame", **words)
    draw.rectangle([left, top + 24, left + 20, top + 32], fill=(225, 225, 225))
    draw.text((left + 26, top + 22), "grey: no track on the person; a change of colour: another number", **words)


def names(recorded: scene.Scene, numbers: list[np.ndarray]) -> list[dict[int, int]]:
    """In each frame, the track on each person: of the detection that overlaps most, -1 without one."""
    frames = []
    for people, boxes, found, number in zip(recorded.people, recorded.boxes, recorded.detections, numbers, strict=True):
        shared = np.column_stack([overlap(boxes, found), np.full(len(boxes), SAME)])  # the last column: no detection
        chosen = shared.argmax(1)
        frames.append(dict(zip(people.tolist(), np.append(number, -1)[chosen].tolist(), strict=True)))
    return frames


def animation(recorded: scene.Scene, numbers: list[np.ndarray], frames: range) -> list[Image.Image]:
    """The frames with each track's box in its colour."""
    pictures = []
    for frame in frames:
        picture = Image.fromarray(recorded.frames[frame])
        draw = ImageDraw.Draw(picture)
        for (left, top, width, height), number in zip(recorded.detections[frame], numbers[frame], strict=True):
            if number >= 0:
                fill = colour_of(int(number))
                draw.rectangle([left, top, left + width, top + height], outline=fill, width=2)
                draw.rectangle([left, top - 11, left + 15, top], fill=fill)
                draw.text((left + 2, top - 12), str(number), fill="white", font=ImageFont.load_default(10))
        pictures.append(picture)
    return pictures


def save_gif(pictures: list[Image.Image], path: Path, milliseconds: int = 120) -> None:
    """All frames in one palette of 96 colours, so that what does not move is stored once."""
    width = pictures[0].width
    shown = np.vstack([np.asarray(picture) for picture in pictures[::10]])
    boxes = np.array([colour_of(number) for number in range(24)], np.uint8)  # or the palette would leave them out
    palette = Image.fromarray(np.vstack([shown, np.tile(boxes.repeat(4, 0)[:, None], (1, width, 1))])).quantize(96)
    first, *rest = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    options = {"save_all": True, "append_images": rest, "duration": milliseconds, "loop": 0, "optimize": True}
    atomic_write(path, lambda file: first.save(file, "GIF", **options))


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(
        description="Track drawn people by motion, by colours and by a trained network; needs scipy.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add_network_flags(parser)
    add("--scenes", type=positive, default=3, help="number of scenes, each with other people")
    add("--frames", type=positive, default=300, help="length of a scene")
    add("--people", type=positive, default=8, help="people in a scene")
    add("--seed", type=count, default=0, help="of the first scene")
    add("--gif", type=Path, help="also save the first scene with the network's tracks as GIF")
    add("--picture", type=Path, help="also save who was called what in the first scene as PNG")
    add("--json", type=Path, help="also save the figures as JSON")
    return parser


def main(args) -> None:
    runtimes.needed("scipy")
    ways = {"motion alone": nothing, "colour histogram": colours, "network": extractor_of(args)}
    tuning = scene.record(TUNING_SEED, args.frames, args.people)
    thresholds = {name: None if way is nothing else best_threshold(tuning, way) for name, way in ways.items()}
    scenes = [scene.record(args.seed + number, args.frames, args.people) for number in range(args.scenes)]
    results = {
        name: [track(recorded, describe(recorded, way), thresholds[name]) for recorded in scenes]
        for name, way in ways.items()
    }
    figures = {}
    print(f"{args.scenes} scenes of {args.frames} frames, {args.people} people each; {args.weights}")
    print(f"  {'appearance':<18} {'threshold':>9} {'IDF1':>7} {'switches':>9} {'tracks':>7}")
    for name, numbers in results.items():
        measured = [measure(recorded, number) for recorded, number in zip(scenes, numbers, strict=True)]
        idf1 = float(np.mean([m["IDF1"] for m in measured]))
        switches, tracks = (sum(m[key] for m in measured) for key in ("switches", "tracks"))
        figures[name] = {"threshold": thresholds[name], "IDF1": idf1, "switches": switches, "tracks": tracks}
        print(f"  {name:<18} {thresholds[name] or '-':>9} {idf1:>7.1%} {switches:>9} {tracks:>7}")
    if args.json:
        write_text(args.json, json.dumps(figures, indent=1) + "\n")
    if args.picture:
        picture = lifelines(scenes[0], {name: numbers[0] for name, numbers in results.items()})
        atomic_write(args.picture, lambda file: picture.quantize(128).save(file, "PNG", optimize=True))
    if args.gif:
        shown = range(min(60, args.frames // 2), min(args.frames, 160))
        save_gif(animation(scenes[0], results["network"][0], shown), args.gif)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
