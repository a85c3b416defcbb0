"""Track people in your own sequences (MOT format), and if they are annotated, measure the effect of the network.

    python examples/track_mot.py SEQUENCE ...        det/det.txt -> tracks/NAME.txt
    python examples/track_mot.py SEQUENCE ... --features features.pth --max-dist auto --video tracks.gif
    python examples/track_mot.py SEQUENCE ... --classes car truck     other objects (names of gt/labels.txt, or numbers)

With gt/, a table compares the network with motion alone and with a colour histogram. The network has a row for each
threshold: the tracker's default, that of the weights, the calibrated one (with --features: a features file of test.py
of people that the network was not trained on), the number in --max-dist, and the best one on the first part of each
sequence. All results are of the rest of each sequence. Needs scipy: pip install scipy
"""

import json
import math
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Rows
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection

from baselines import colours, nothing
from identity_measures import hota, identity_measures
from tracker import Tracker

from appearance import cli
from appearance.data import provenance
from appearance.data.boxes import DETECTIONS, NO_CLASS, Boxes, Source, result_lines
from appearance.data.images import load_rgb
from appearance.data.numbering import file_numbers
from appearance.data.sequences import Reading, Sequence
from appearance.files import atomic_write, write_text
from appearance.flags import share, share_between
from appearance.measure import calibrate, features_file
from appearance.networks import checkpoints, runtimes
from appearance.networks.flags import add_network_flags
from appearance.networks.precision import emulation_warning
from appearance.networks.thresholds import DEFAULT
from appearance.progress import progress
from feature_extractor import Extractor, extractor_of

THRESHOLDS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6)
BATCH = 128  # crops per forward pass
AHEAD = 8  # frames to decode ahead
GIF_FRAMES, GIF_WIDTH = 150, 640
NETWORK = "network"
FRACTIONS = ("IDF1", "IDP", "IDR", "MOTA", "HOTA", "AssA", "DetA")  # the other measures are counts
SOURCES = ("weights", "auto", "best")  # values of --max-dist besides a number


@dataclass
class Recording:
    """Detections and ground truth of a sequence; lists have one item per frame, in order."""

    sequence: Sequence
    numbers: list[int]  # frame numbers
    boxes: list[np.ndarray]  # (n, 4) detections: left, top, width, height in pixels
    people: list[np.ndarray] | None = None  # (m,) ground truth identities
    truth: list[np.ndarray] | None = None  # (m, 4) ground truth boxes
    source: Source | None = None  # file of the detections

    def part(self, start: int, stop: int) -> "Recording":
        """The frames with indices from `start` to `stop`, without `stop`."""
        lists = (self.numbers, self.boxes, self.people, self.truth)
        cut = (None if values is None else values[start:stop] for values in lists)
        return Recording(self.sequence, *cut, self.source)


Result = tuple[list[np.ndarray], list[np.ndarray]]  # per frame, track numbers (n,) and boxes (n, 4)


# ---------------------------------------------------------------------------------------------------------------------
# Frames and boxes


def record(sequence: Sequence, detections: Boxes, classes: Rows[str] = ()) -> Recording:
    """The detections of all frames, and if the sequence is annotated, its people (or objects of `classes`)."""
    numbers = sorted(sequence.frames)
    people = truth = None
    if sequence.gt.is_file():
        found = sequence.people(classes)
        people, truth = _by_frame(found, numbers, "track"), _by_frame(found, numbers, "box")
    return Recording(sequence, numbers, _by_frame(detections, numbers, "box"), people, truth, detections.source)


def first_frames(count: int, share: float = 0.5) -> int:
    """Number of frames in the first part: `share` of `count`, rounded down."""
    return math.floor(share * count + 1e-9)


def _by_frame(rows: Boxes, numbers: list[int], field: str) -> list[np.ndarray]:
    found = {number: getattr(here, field) for number, here in rows.by_frame().items()}
    return [found.get(number, getattr(rows, field)[:0]) for number in numbers]


def jittered(people: Boxes, seed: int = 0) -> Boxes:
    """Simulated detections from annotated boxes: 4 % are missed, edges vary by 3 % of the height."""
    rng = np.random.default_rng(seed)
    found = people[rng.random(len(people)) > 0.04]
    found.box = found.box + rng.normal(0, 0.03, found.box.shape) * found.box[:, 3:4] * [0.5, 1, 0.5, 1]
    return found


def describe(recording: Recording, ways: dict[str, Callable], shrink: int = 1) -> dict[str, list[np.ndarray]]:
    """The vectors of all boxes: {name of a way: one (n, D) array per frame}.

    Args:
        ways: name -> function from a list of RGB crops to (n, D) unit rows.
        shrink: frames are decoded so many times smaller.
    """
    rows = {name: [way([])] for name, way in ways.items()}
    total = sum(map(len, recording.boxes))
    with progress(total=total, desc=recording.sequence.name, unit="crop") as bar:
        for crops in batches(recording, shrink):
            for name, way in ways.items():
                rows[name].append(way(crops))
            bar.update(len(crops))
    ends = np.cumsum([len(boxes) for boxes in recording.boxes])[:-1]
    return {name: np.split(np.concatenate(parts), ends) for name, parts in rows.items()}


def shrinkage(recording: Recording, height: int) -> int:
    """The factor (1, 2, 4 or 8) by which frames can be decoded smaller for a network with this input height in pixels.

    Three quarters of the boxes stay at least as high as the input. Large frames decode three times as fast then.
    """
    heights = np.concatenate([boxes[:, 3] for boxes in recording.boxes])
    low = np.quantile(heights, 0.25) if len(heights) else 0
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or low >= factor * height)


def batches(recording: Recording, shrink: int = 1) -> Iterator[list[np.ndarray]]:
    """The RGB crops of all boxes in order, in batches of whole frames; threads decode a few frames ahead."""

    def cut(number: int, boxes: np.ndarray) -> list[np.ndarray]:
        picture = load_rgb(recording.sequence.frames[number], shrink)
        return [np.asarray(picture.crop(box)) for box in corners(boxes / shrink, *picture.size)]

    waiting = [pair for pair in zip(recording.numbers, recording.boxes, strict=True) if len(pair[1])][::-1]
    batch: list[np.ndarray] = []
    with ThreadPoolExecutor(2) as pool:
        ahead: deque = deque()
        while waiting or ahead:
            while waiting and len(ahead) < AHEAD:
                ahead.append(pool.submit(cut, *waiting.pop()))
            batch += ahead.popleft().result()
            if len(batch) >= BATCH or not (waiting or ahead):
                yield batch
                batch = []


def corners(boxes: np.ndarray, width: int, height: int) -> list[tuple[int, int, int, int]]:
    """(left, top, right, bottom) of boxes (n, 4) in whole pixels, clipped at the frame, at least 1x1 pixel."""
    low = boxes[:, :2].astype(int).clip(0, [width - 1, height - 1])
    high = (boxes[:, :2] + boxes[:, 2:]).astype(int).clip(low + 1, [width, height])
    return np.concatenate([low, high], 1).tolist()


# ---------------------------------------------------------------------------------------------------------------------
# Tracking and measuring


def track(recording: Recording, vectors: list[np.ndarray], max_distance: float | None) -> Result:
    """Track with the small DeepSORT of `tracker.py`; `max_distance` None: by motion alone."""
    tracker = Tracker(max_distance)
    numbers = [tracker.update(boxes, rows) for boxes, rows in zip(recording.boxes, vectors, strict=True)]
    found = [boxes[number >= 0] for boxes, number in zip(recording.boxes, numbers, strict=True)]
    return [number[number >= 0] for number in numbers], found


def track_with_deep_sort_realtime(
    recording: Recording, vectors: list[np.ndarray], max_distance: float | None
) -> Result:
    """Track with the package deep-sort-realtime; `max_distance` None: with the same vector for everybody."""
    from deep_sort_realtime.deepsort_tracker import DeepSort

    tracker = DeepSort(embedder=None, max_cosine_distance=max_distance or DEFAULT, max_age=60, nn_budget=100)
    numbers, found = [], []
    for boxes, rows in zip(recording.boxes, vectors, strict=True):
        embeds = list(rows if max_distance is not None else np.ones((len(boxes), 1), np.float32))
        tracks = tracker.update_tracks([(box.tolist(), 1.0, "person") for box in boxes], embeds=embeds)
        seen = [one for one in tracks if one.is_confirmed() and one.time_since_update == 0]
        numbers.append(np.array([int(one.track_id) for one in seen], dtype=int))
        found.append(np.array([one.to_ltwh(orig=True) for one in seen], dtype=float).reshape(-1, 4))
    return numbers, found


TRACKERS = {"deepsort": track, "deep-sort-realtime": track_with_deep_sort_realtime}


def measure(recordings: Rows[Recording], results: Rows[Result]) -> dict[str, float]:
    """`identity_measures` of all sequences: means of fractions, sums of counts."""
    each = [identity_measures(r.people, r.truth, *result) for r, result in zip(recordings, results, strict=True)]
    return {key: (np.mean if key in FRACTIONS else np.sum)([one[key] for one in each]).item() for key in each[0]}


def higher_order(recordings: Rows[Recording], results: Rows[Result]) -> dict[str, float]:
    """HOTA, AssA and DetA, means over all sequences; {} if the package trackeval is not installed."""
    try:
        each = [hota(r.people, r.truth, *result) for r, result in zip(recordings, results, strict=True)]
    except ImportError:
        return {}
    return {key: float(np.mean([one[key] for one in each])) for key in each[0]}


def best_threshold(run: Callable, recordings: Rows[Recording], vectors: Rows[list[np.ndarray]]) -> float:
    """The threshold of THRESHOLDS with the best IDF1 (the smallest of equals)."""

    def idf1(threshold: float) -> float:
        pairs = zip(recordings, vectors, strict=True)
        return measure(recordings, [run(recording, rows, threshold) for recording, rows in pairs])["IDF1"]

    return max(THRESHOLDS, key=idf1)


def calibrated(path: Path, false_match_rate: float | None, brought: float | None) -> float:
    """The threshold that `evaluate.py --calibrate` recommends for a features file; prints it with its notes.

    Args:
        brought: the threshold of the weights, for features files without it.
    """
    data = features_file.load(path)
    data["meta"].setdefault("max_dist", brought)
    found = calibrate.calibrate(data, false_match_rate)
    print(
        f"max_dist {calibrate.in_digits(found['max_dist'])}, calibrated on the {found['identities']:,} people of {path}"
    )
    for line in calibrate.notes(found):
        print(f"  {line}")
    return found["max_dist"]


# ---------------------------------------------------------------------------------------------------------------------
# Pictures


def pictures(recording: Recording, result: Result) -> Iterator[Image.Image]:
    """The frames with the boxes of tracks, a colour per track."""
    font = ImageFont.load_default(14)
    for number, tracks, boxes in zip(recording.numbers, *result, strict=True):
        picture = load_rgb(recording.sequence.frames[number])
        draw = ImageDraw.Draw(picture)
        for one, (left, top, width, height) in zip(tracks.tolist(), boxes.tolist(), strict=True):
            draw.rectangle([left, top, left + width, top + height], outline=colour_of(one), width=3)
            draw.rectangle([left, top - 17, left + 10 * len(str(one)), top], fill=colour_of(one))
            draw.text((left + 1, top - 17), str(one), fill="white", font=font)
        yield picture


def colour_of(number: int) -> tuple[int, int, int]:
    """The RGB colour of a track; neighbouring numbers differ clearly."""
    picture = Image.new("HSV", (1, 1), (number * 97 % 256, 170 + number % 3 * 40, 235 - number // 3 % 3 * 45))
    return picture.convert("RGB").getpixel((0, 0))


def save_video(recording: Recording, result: Result, path: Path) -> None:
    """Write a small GIF of the first GIF_FRAMES frames, or for other suffixes a video of all frames with ffmpeg.

    Raises:
        InputError: ffmpeg is missing or fails.
    """
    shown = pictures(recording, result)
    if path.suffix.lower() == ".gif":
        small = []
        for _, picture in zip(range(GIF_FRAMES), shown, strict=False):
            picture.thumbnail((GIF_WIDTH, GIF_WIDTH))
            small.append(picture)
        save_gif(small, path, round(1000 / recording.sequence.rate))
        return
    first = next(shown)
    raw = [
        "-f",
        "rawvideo",
        "-pix_fmt",
        "rgb24",
        "-s",
        f"{first.width}x{first.height}",
        "-r",
        str(recording.sequence.rate),
    ]
    even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]  # players need even sizes
    try:
        command = ["ffmpeg", "-loglevel", "error", "-y", *raw, "-i", "-", *even, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
            process.stdin.write(first.tobytes())
            for picture in progress(shown, total=len(recording.numbers) - 1, desc="video", unit="frame"):
                process.stdin.write(picture.tobytes())
    except FileNotFoundError:
        raise cli.InputError(f"--video {path}: needs the program ffmpeg; install it, or use a name in .gif") from None
    except BrokenPipeError:
        pass  # ffmpeg has printed the reason
    if process.returncode:
        raise cli.InputError(f"--video {path}: ffmpeg failed (see its message above); try a name in .gif")


def save_gif(pictures: list[Image.Image], path: Path, milliseconds: int) -> None:
    """Write a GIF whose frames share one palette of 96 colours, so that unchanged pixels are stored once."""
    width = pictures[0].width
    shown = np.vstack([np.asarray(picture) for picture in pictures[::10]])
    boxes = np.array([colour_of(number) for number in range(24)], np.uint8)  # else missing from the palette
    palette = Image.fromarray(np.vstack([shown, np.tile(boxes.repeat(4, 0)[:, None], (1, width, 1))])).quantize(96)
    first, *rest = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    options = {"save_all": True, "append_images": rest, "duration": milliseconds, "loop": 0, "optimize": True}
    atomic_write(path, lambda file: first.save(file, "GIF", **options))


# ---------------------------------------------------------------------------------------------------------------------
# Command line


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(
        description="Track people in MOT sequences with a trained network, and measure it where they are annotated.",
    )
    add = parser.add_argument
    add(
        "sequences", nargs="+", type=Path, metavar="SEQUENCE", help="folder with img1/, and det/det.txt or --detections"
    )
    add_network_flags(parser)
    add(
        "--amp",
        choices=("fp32", "bf16"),
        default="fp32",
        help="number format of the network; bf16 is faster on CPUs that have it",
    )
    add("--detections", nargs="+", type=Path, metavar="FILE", help="boxes for each sequence, instead of det/det.txt")
    add("--jitter", action="store_true", help="track the boxes of gt/gt.txt, shifted a little, instead of detections")
    add("--min-confidence", type=float, help="leave out detections with less")
    add(
        "--classes", nargs="+", default=(), metavar="NAME", help="classes to track, by name or number (default: people)"
    )
    Reading.add_flags(parser)
    add(
        "--tracker",
        choices=list(TRACKERS),
        default="deepsort",
        help="deepsort: examples/tracker.py; deep-sort-realtime: the package",
    )
    sources = "a number; weights: that of the file, else 0.2; auto: calibrated on --features; best: of the first part"
    add("--max-dist", default="weights", help=f"the network's threshold: {sources}")
    add(
        "--features",
        type=Path,
        help="features file of test.py with people that the network has not seen, for --max-dist auto",
    )
    add("--false-match-rate", type=share, help="for --max-dist auto, as in evaluate.py --calibrate")
    help = "share of each sequence on which the best threshold is chosen"
    add("--first-part", type=share_between, default=0.5, help=help)
    add("--output", type=Path, default=Path("tracks"), help="folder for the tracks, NAME.txt")
    add("--video", type=Path, help="also draw the tracks of the first sequence: a .gif, or with ffmpeg an .mp4")
    add("--json", type=Path, help="also write the figures to this file")
    return parser


def main(args) -> None:
    check_flags(args)
    recordings = [load(folder, args, number) for number, folder in enumerate(args.sequences)]
    names = [recording.sequence.name for recording in recordings]
    if len(set(names)) < len(names):
        raise cli.InputError(
            f"two sequences have the name {max(names, key=names.count)}; rename one of them in its seqinfo.ini"
        )
    known = all(recording.people is not None for recording in recordings)
    if args.max_dist == "best" and not known:
        raise cli.InputError("--max-dist best: needs gt/gt.txt in each sequence; use --max-dist auto")
    extractor = extractor_of(args, precision=args.amp)
    trained_on = (
        None if runtimes.is_graph(args.weights) else provenance.of_checkpoint(checkpoints.load(args.weights).extra)
    )
    for name in names:
        if met := provenance.tracks_met(trained_on, name):
            print(
                f"note: {args.weights} was trained on {cli.counted(met, 'track')} of {name}, so its results are too "
                "good; test on a sequence that it was not trained on"
            )
    if slow := emulation_warning(args.amp, extractor.device):
        print(slow)
    ways = {NETWORK: extractor}
    if known:
        ways = {"motion alone": nothing, "colour histogram": colours} | ways
    shrinks = [shrinkage(recording, extractor.height) for recording in recordings]
    described = [describe(recording, ways, shrink) for recording, shrink in zip(recordings, shrinks, strict=True)]
    vectors = {name: [one[name] for one in described] for name in ways}
    run = TRACKERS[args.tracker]
    thresholds, source = network_thresholds(args, extractor)
    if known:
        thresholds["best"] = compare(args, run, recordings, vectors, thresholds)
    chosen = thresholds[source]
    for recording, rows in zip(recordings, vectors[NETWORK], strict=True):
        result = run(recording, rows, chosen)
        called = file_numbers(recording.numbers, recording.source.first)  # frame numbers as in the detections' file
        frame = np.repeat([called[number] for number in recording.numbers], [len(numbers) for numbers in result[0]])
        text = result_lines(frame, np.concatenate(result[0]), np.concatenate(result[1]))
        path = args.output / f"{recording.sequence.name}.txt"
        write_text(path, text)
        count = len(np.unique(np.concatenate(result[0])))
        print(f"{recording.sequence.name}: {count:,} tracks with max_dist {chosen:g} -> {path}")
        if args.video and recording is recordings[0]:
            save_video(recording, result, args.video)


def network_thresholds(args, extractor: Extractor) -> tuple[dict[str, float], str]:
    """{source: threshold} to compare, without "best"; and the source that `--max-dist` selects."""
    found = {"default": DEFAULT}
    if extractor.max_dist is not None:
        found["weights"] = extractor.max_dist
    if args.features:
        found["auto"] = calibrated(args.features, args.false_match_rate, extractor.max_dist)
    if args.max_dist == "weights" and "weights" not in found:
        print(f"note: {args.weights} has no threshold, using DeepSORT's default {DEFAULT} (see docs/video.md)")
        return found, "default"
    if args.max_dist in SOURCES:
        return found, args.max_dist
    asked = float(args.max_dist)
    source = next((name for name, value in found.items() if value == asked), "asked")
    return found | {source: asked}, source


def check_flags(args) -> None:
    """Raises InputError for flags that do not fit together, and for missing packages."""
    runtimes.needed("scipy")
    if args.detections and len(args.detections) != len(args.sequences):
        raise cli.InputError(
            f"--detections: {len(args.detections)} files for {len(args.sequences)} sequences; give one file for each"
        )
    if args.max_dist == "auto" and not args.features:
        raise cli.InputError(
            "--max-dist auto: needs --features FILE, made by test.py from people that the network was not trained on"
        )
    if args.max_dist not in SOURCES:
        try:
            good = 0 <= float(args.max_dist) < math.inf
        except ValueError:
            good = False
        if not good:
            raise cli.InputError(f"--max-dist {args.max_dist}: must be a number from 0, or {', '.join(SOURCES)}")
    if args.tracker == "deep-sort-realtime":
        try:
            import deep_sort_realtime.deepsort_tracker  # noqa: F401
        except ImportError as error:
            raise cli.InputError(
                f"--tracker deep-sort-realtime: {error}; pip install deep-sort-realtime opencv-python-headless "
                '"setuptools<81"'
            ) from None


def load(folder: Path, args, number: int) -> Recording:
    """Read sequence `number` of the flags with its detections; prints what was left out."""
    sequence = Sequence(folder, Reading.of(args))
    if args.jitter:
        rows = jittered(sequence.people(args.classes))
    else:
        rows = sequence.read(args.detections[number], DETECTIONS) if args.detections else sequence.detections
        rows = rows[of_classes(sequence, rows, args.classes)]
    if args.min_confidence is not None:
        rows = rows[rows.confidence >= args.min_confidence]
    rows, left_out = sequence.usable(rows)
    missing = np.isin(rows.frame, list(sequence.frames), invert=True).sum()
    if missing:
        left_out += (f"{missing:,} of {len(rows):,} boxes are ignored, because their frames have no image",)
    for said in (*rows.source.notes, *left_out):
        print(f"{rows.source.path}: {said}")
    recording = record(sequence, rows, args.classes)
    if recording.people is not None and sequence.annotations.source != rows.source:
        for said in sequence.annotations.source.notes:
            print(f"{sequence.gt}: {said}")
    return recording


def of_classes(sequence: Sequence, rows: Boxes, names: Rows[str]) -> np.ndarray:
    """(N,) bool: detections of the classes `names`; all detections if the file has no classes.

    Raises:
        InputError: unknown class, or no detections of the classes.
    """
    if not names or (rows.kind == NO_CLASS).all():
        if names:
            print(f"{rows.source.path}: has no classes; all boxes are tracked as {', '.join(names)}")
        return np.ones(len(rows), bool)
    wanted, _ = sequence.of_classes(rows, names)
    if not wanted.any():
        there = ", ".join(map(str, np.unique(rows.kind)))
        raise cli.InputError(f"--classes {' '.join(names)}: not in {rows.source.path}; its classes are {there}")
    return wanted


def compare(args, run: Callable, recordings: list[Recording], vectors: dict, thresholds: dict[str, float]) -> float:
    """Print the table and write the JSON; returns the network's best threshold on the first parts."""
    cuts = [first_frames(len(recording.numbers), args.first_part) for recording in recordings]
    first = [recording.part(0, cut) for recording, cut in zip(recordings, cuts, strict=True)]
    rest = [recording.part(cut, len(recording.numbers)) for recording, cut in zip(recordings, cuts, strict=True)]
    rows, figures = [("motion alone", "", None)], []
    for name in [name for name in vectors if name != "motion alone"]:
        best = best_threshold(run, first, [one[:cut] for one, cut in zip(vectors[name], cuts, strict=True)])
        asked = thresholds if name == NETWORK else {"default": DEFAULT}
        rows += [(name, source, threshold) for source, threshold in asked.items()] + [(name, "best", best)]
    shown = f"{1 - args.first_part:.0%} of" if args.first_part else "all of"
    print(f"The last {shown} {', '.join(r.sequence.name for r in recordings)}; {args.tracker}, {args.weights}")
    for name, source, threshold in rows:
        tails = [one[cut:] for one, cut in zip(vectors[name], cuts, strict=True)]
        results = [run(r, v, threshold) for r, v in zip(rest, tails, strict=True)]
        found = measure(rest, results) | higher_order(rest, results)
        if not figures:
            fractions = [key for key in FRACTIONS if key in found]
            head = " ".join(f"{key:>7}" for key in fractions)
            print(f"  {'appearance':<18} {'max_dist':>15} {head} {'switches':>9} {'fragments':>10} {'tracks':>7}")
        figures.append({"appearance": name, "threshold": threshold, "source": source} | found)
        cells = " ".join(f"{found[key]:>7.1%}" for key in fractions)
        where = "" if threshold is None else f"{threshold:.4g} {source}"
        print(f"  {name:<18} {where:>15} {cells} {found['switches']:>9} {found['fragments']:>10} {found['tracks']:>7}")
    if "HOTA" not in fractions:
        print("  for HOTA, AssA and DetA: pip install trackeval")
    if args.json:
        write_text(args.json, json.dumps(figures, indent=1) + "\n")
    return best


if __name__ == "__main__":
    cli.run(main, get_args_parser())
