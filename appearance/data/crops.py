"""Sequences become class folders: which boxes are worth a crop, who is tested, and the crops themselves."""

import csv
import math
import os
import random
from collections import Counter, defaultdict
from collections.abc import Sequence as Rows
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from appearance.cli import InputError, counted
from appearance.data.boxes import TRACKS, Boxes
from appearance.data.check import fitting_size
from appearance.data.images import load_rgb
from appearance.data.sequences import AS_FOUND, Reading, Sequence
from appearance.files import beside
from appearance.progress import progress

NARROWEST = 16  # pixels
BREAK = 3  # frames; a track that was lost for longer, or overlapped, may have come back on somebody else
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Rules:
    """Which boxes become crops, and of which split."""

    classes: tuple[str, ...] = ()  # names or numbers; none: people
    min_visibility: float = 0.3  # share of a box that is seen
    min_height: int = 48  # pixels
    min_images: int = 4  # of an identity
    per_identity: int = 50  # crops of an identity at most
    max_overlap: float = 0.3  # share of a tracker's box that another one may cover
    split: str = "person"  # nobody is in both train and test; or "time": train on the first part, test on the later
    test_ratio: float = 0.3  # share of the people, or of the time, to test with; 1: all, and nothing to train on
    seed: int = 0  # which people are tested
    shared_ids: bool = False  # a track number means the same person in all sequences


class Identity(NamedTuple):
    sequence: int  # 0 where a number means the same person in all sequences
    track: int


class Crop(NamedTuple):
    who: Identity
    sequence: int  # position in the list of sequences
    frame: int
    box: tuple[int, int, int, int]  # left, top, right, bottom inside the frame


class Step(NamedTuple):
    """One filter: what it left out, and what remains."""

    reason: str
    left_out: int
    boxes: int
    identities: int


def cut(
    folders: Rows[Path], tracks: Rows[Path] | None, out: Path, rules: Rules, reading: Reading = AS_FOUND
) -> list[str]:
    """Crops of the people in sequences, as class folders in `out`; prints what was left out and why.

    Returns the flags of `train.py` that fit the crops.

    Args:
        folders: the sequences.
        tracks: results of a tracker, one file a sequence, to take instead of annotations: each track is one identity.
        reading: how to read files of boxes where they leave it open.

    Raises:
        InputError: something cannot be read, `out` is taken, or too few people are left.
    """
    _check(folders, tracks, out, rules)
    sequences, kept = [Sequence(folder, reading) for folder in folders], []
    for number, sequence in enumerate(sequences):
        rows = sequence.read(tracks[number], TRACKS) if tracks else sequence.annotations
        chosen, steps = select(sequence, rows, rules, tracked=bool(tracks))
        kept.append(chosen)
        print("; ".join([f"{sequence.name}, camera {number + 1}: {rows.source.path}", *rows.source.notes]))
        print(f"  {'':<44} {'boxes':>8} {'identities':>10}")
        for step in steps:
            print(f"  {step.reason:<44} {-step.left_out or step.boxes:>8,} {step.identities:>10,}")
        print(f"  {'kept':<44} {len(chosen):>8,} {len(np.unique(chosen.track)):>10,}")
    made = plan(sequences, kept, rules)
    print("Of these")
    for reason, count in made.left_out.items():
        print(f"  {reason:<44} {-count:>8,}")
    print(f"  {'crops':<44} {sum(map(len, made.splits.values())):>8,}")
    if not made.splits["query"]:
        print("  nobody is left to test with: train/ alone")
    write(made.splits, sequences, out)
    boxes = np.array([crop.box for crops in made.splits.values() for crop in crops])  # (n, 4) left, top, right, bottom
    return fitting_size(boxes[:, 2:] - boxes[:, :2])


def _check(folders: Rows[Path], tracks: Rows[Path] | None, out: Path, rules: Rules) -> None:
    if not folders:
        raise InputError(f"{out}: give the sequences and then a new folder for the crops")
    if tracks and len(tracks) != len(folders):
        raise InputError(f"--tracks: {len(tracks)} files for {len(folders)} sequences; give one for each, in order")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; choose a new one for the crops, as the last name")


# ---------------------------------------------------------------------------------------------------------------------
# Which boxes


def select(sequence: Sequence, rows: Boxes, rules: Rules, tracked: bool) -> tuple[Boxes, list[Step]]:
    """The boxes worth a crop, clipped to the frame in whole pixels (left, top, width, height), and what was left out.

    Args:
        tracked: the rows are a tracker's results, which mix people up where they overlap.
    """
    rows = rows[:]
    steps = [Step("in the file", 0, len(rows), len(np.unique(rows.track)))]

    def keep(good: np.ndarray, reason: str) -> None:
        nonlocal rows
        if not good.all():
            rows = rows[good]
            steps.append(Step(reason, int((~good).sum()), len(rows), len(np.unique(rows.track))))

    keep(*sequence.of_classes(rows, rules.classes))
    if not tracked:
        keep(sequence.considered(rows, rules.classes), "not to be considered")
    keep(rows.track >= 0, "without a track number")
    keep(np.isin(rows.frame, list(sequence.frames)), "of frames that are missing")
    keep(rows.sized(), "without width or height")
    keep(_firsts(rows), "second boxes of a track in one frame")
    covered, nearer = overlaps(rows)
    inside = _inside(rows.box, sequence.size)
    seen = (1 - nearer) * _share(inside, rows.box)
    rows.visibility, rows.box = np.where(np.isnan(rows.visibility), seen, rows.visibility), inside
    if tracked:
        keep(covered <= rules.max_overlap, f"more than {rules.max_overlap:.0%} in another track's box")
        keep(_longest_runs(rows), "beside a track's longest unbroken run")
    keep((rows.box[:, 2:] > 0).all(1), "outside the frame")
    keep(rows.visibility >= rules.min_visibility, f"less than {rules.min_visibility:.0%} visible")
    keep(rows.box[:, 3] >= rules.min_height, f"lower than {rules.min_height} pixels")
    keep(rows.box[:, 2] >= NARROWEST, f"narrower than {NARROWEST} pixels")
    return rows, steps


def _firsts(rows: Boxes) -> np.ndarray:
    first = np.zeros(len(rows), bool)
    first[np.unique(np.stack([rows.frame, rows.track], 1), axis=0, return_index=True)[1]] = True
    return first


def _longest_runs(rows: Boxes) -> np.ndarray:
    """Which boxes are of their track's longest run without a break (N,)."""
    longest = np.zeros(len(rows), bool)
    for track in np.unique(rows.track):
        places = np.flatnonzero(rows.track == track)
        runs = np.split(places, np.flatnonzero(np.diff(rows.frame[places]) > BREAK) + 1)
        longest[max(runs, key=len)] = True
    return longest


def _inside(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes clipped to a frame of (width, height), in whole pixels; of width or height 0 where nothing is left."""
    low = np.floor(box[:, :2]).clip(0, size)
    high = np.ceil(box[:, :2] + box[:, 2:]).clip(0, size)
    return np.concatenate([low, (high - low).clip(0)], 1).astype(int)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return (part[:, 2:].prod(1) / whole[:, 2:].prod(1).clip(1e-9)).clip(0, 1)


def overlaps(rows: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Share of each box that one other box of its frame covers at most: any box, and any that stands nearer (N,), (N,).

    Nearer to the camera is whose lower edge is lower in the picture.
    """
    covered, nearer = np.zeros(len(rows)), np.zeros(len(rows))
    for here in np.split(np.arange(len(rows)), np.unique(rows.frame, return_index=True)[1][1:]):
        low, high = rows.box[here, :2], rows.box[here, :2] + rows.box[here, 2:]
        shared = (np.minimum(high[:, None], high) - np.maximum(low[:, None], low)).clip(0).prod(-1)  # (n, n)
        shared /= (high - low).prod(-1).clip(1e-9)[:, None]
        np.fill_diagonal(shared, 0)
        covered[here] = shared.max(1, initial=0)
        nearer[here] = np.where(high[:, 1] > high[:, None, 1], shared, 0).max(1, initial=0)
    return covered, nearer


# ---------------------------------------------------------------------------------------------------------------------
# Who is tested

People = dict[Identity, list[Crop]]  # the crops of each in order of sequence and time


class Plan(NamedTuple):
    splits: dict[str, list[Crop]]  # train, query, gallery
    left_out: dict[str, int]  # reason -> boxes


def plan(sequences: Rows[Sequence], kept: Rows[Boxes], rules: Rules) -> Plan:
    """Crops for train, query and gallery from the boxes `kept` of each sequence.

    A second lies between the times to train and to test on. Where nobody is seen long enough to be tested, query and
    gallery are empty.

    Raises:
        InputError: there are fewer than two identities to train on, or to test with where all are for testing.
    """
    people, left_out = _people(kept, rules.shared_ids), Counter()
    apart = [round(sequence.rate) for sequence in sequences]
    all_tested = rules.test_ratio == 1
    if rules.split == "time":
        parts = _by_time(people, sequences, apart, rules.test_ratio, left_out)
        train, test = (_usable(part, rules, left_out) for part in parts)
        roles = {who: query_and_gallery(crops, apart) for who, crops in test.items()}
    else:
        train = _usable(people, rules, left_out)
        roles = {who: query_and_gallery(crops, apart) for who, crops in train.items()}
        testable = [who for who, (_, gallery) in roles.items() if gallery]
        wanted = max(1, round(len(train) * rules.test_ratio))
        drawn = random.Random(rules.seed).sample(testable, max(0, min(wanted, len(testable), len(train) - 2)))
        drawn = train if all_tested else drawn
        test, train = ({who: c for who, c in train.items() if (who in drawn) == tested} for tested in (True, False))
    splits = {"train": [crop for crops in train.values() for crop in crops], "query": [], "gallery": []}
    for who, crops in test.items():
        query, gallery = roles[who]
        if gallery:
            splits["query"] += query
            splits["gallery"] += gallery
            left_out["beside a query of the same person in time"] += len(crops) - len(query) - len(gallery)
        else:
            left_out["of people who are seen too shortly to be tested"] += len(crops)
    left = sum(bool(gallery) for _, gallery in roles.values()) if all_tested else len(train)
    if left < 2:
        raise InputError(
            f"{counted(len(people), 'person', 'people')} in the boxes that are left, {left} to "
            f"{'test with' if all_tested else 'train on'}: two are needed; loosen --min-images, --min-height or "
            "--min-visibility, choose other --classes, or add sequences"
        )
    return Plan(splits, {reason: count for reason, count in left_out.items() if count})


def query_and_gallery(crops: Rows[Crop], apart: Rows[int]) -> tuple[list[Crop], list[Crop]]:
    """A person's first and last tenth in each sequence as queries, and what is far enough from them in time.

    So the times between a query and the gallery go up to nearly all the time that the person is seen. Far enough are
    `apart` frames, or a third of that time where it is less, but a fifth of `apart` at least.
    """
    query, gallery = [], []
    for number in sorted({crop.sequence for crop in crops}):
        here = [crop for crop in crops if crop.sequence == number]
        tenth = math.ceil(len(here) / 10)
        asked = here[:tenth] + here[max(tenth, len(here) - tenth) :]
        enough = max(apart[number] / 5, min(apart[number], (here[-1].frame - here[0].frame) / 3))
        times = np.array([crop.frame for crop in asked])
        far = [c for c in here if c not in asked and np.abs(times - c.frame).min() >= enough]
        if far:
            query += asked
            gallery += far
    return query, gallery


def spread(crops: list[Crop], most: int) -> list[Crop]:
    """At most `most` of the crops, evenly over them in order of time."""
    if len(crops) <= most:
        return crops
    return [crops[round(place)] for place in np.linspace(0, len(crops) - 1, most)]


def _people(kept: Rows[Boxes], shared: bool) -> People:
    people = defaultdict(list)
    for number, rows in enumerate(kept):
        for track, frame, (left, top, width, height) in zip(rows.track, rows.frame, rows.box.tolist(), strict=True):
            who = Identity(0 if shared else number, int(track))
            people[who].append(Crop(who, number, int(frame), (left, top, left + width, top + height)))
    return {who: people[who] for who in sorted(people)}


def _by_time(people: People, sequences: Rows[Sequence], apart: Rows[int], ratio: float, left_out: Counter):
    """People in the first part of each sequence, and in the later one."""
    cuts = [min(s.frames) + (1 - ratio) * (max(s.frames) + 1 - min(s.frames)) for s in sequences]
    parts: tuple[People, People] = {}, {}
    for who, crops in people.items():
        early = [crop for crop in crops if crop.frame < cuts[crop.sequence] - apart[crop.sequence]]
        later = [crop for crop in crops if crop.frame >= cuts[crop.sequence]]
        left_out["between the times to train and to test on"] += len(crops) - len(early) - len(later)
        for part, seen in zip(parts, (early, later), strict=True):
            if seen:
                part[who] = seen
    return parts


def _usable(people: People, rules: Rules, left_out: Counter) -> People:
    """Those with enough crops, and no more of them than asked for."""
    enough = {who: crops for who, crops in people.items() if len(crops) >= rules.min_images}
    few = sum(map(len, people.values())) - sum(map(len, enough.values()))
    thinned = {who: spread(crops, rules.per_identity) for who, crops in enough.items()}
    left_out[f"of identities with fewer than {rules.min_images}"] += few
    left_out[f"more than {rules.per_identity} of an identity"] += sum(
        len(crops) - len(thinned[who]) for who, crops in enough.items()
    )
    return thinned


# ---------------------------------------------------------------------------------------------------------------------
# The crops


def write(splits: dict[str, list[Crop]], sequences: Rows[Sequence], out: Path) -> None:
    """`out/<split>/<id>/<id>_c<sequence>_<frame>_<n>.jpg` and `out/identities.csv`, all at once or nothing.

    Identities and sequences count from 1, n is the number of the crop among its identity's in the split.

    Raises:
        InputError: a frame cannot be read, or `out` cannot be written.
    """
    identities = {who: n for n, who in enumerate(sorted({c.who for crops in splits.values() for c in crops}), start=1)}
    files: dict[tuple[int, int], list[tuple[Crop, Path]]] = defaultdict(list)  # by frame
    counts: Counter = Counter()
    for split, crops in splits.items():
        for crop in crops:
            name = f"{identities[crop.who]:04d}"
            number = counts[split, crop.who]
            path = Path(split, name, f"{name}_c{crop.sequence + 1}_{crop.frame:06d}_{number:02d}.jpg")
            files[crop.sequence, crop.frame].append((crop, path))
            counts[split, crop.who] += 1
    rows = sorted(counts.items(), key=lambda item: (identities[item[0][1]], item[0][0]))

    def write_to(folder: Path) -> None:
        for crops in files.values():
            for _, path in crops:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)

        def cut(frame: tuple[int, int]) -> None:
            picture = load_rgb(sequences[frame[0]].frames[frame[1]])
            for crop, path in files[frame]:
                picture.crop(crop.box).save(folder / path, quality=JPEG_QUALITY)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            cuts = pool.map(cut, sorted(files))
            for _ in progress(cuts, total=len(files), desc="cutting out", unit="frame"):
                pass
        with open(folder / "identities.csv", "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.writer(file)
            table.writerow(["identity", "split", "sequence", "track", "crops"])
            for (split, who), count in rows:
                table.writerow([identities[who], split, sequences[who.sequence].name, who.track, count])

    try:
        with beside(out) as folder:
            write_to(folder)
    except OSError as error:
        raise InputError(f"{out}: could not be written ({error.strerror})") from None
