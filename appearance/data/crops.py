"""Cut crops out of sequences: select boxes, assign people to train, query and gallery, write class folders."""

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
BREAK = 3  # frames; after a longer gap, or an overlap, a track may have switched to another person
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Rules:
    """Which boxes become crops, and in which split. The flags of `datasets.py crops`."""

    classes: tuple[str, ...] = ()  # names or numbers; empty: people
    min_visibility: float = 0.3  # fraction of a box
    min_height: int = 48  # pixels
    min_images: int = 4  # crops per identity
    per_identity: int = 50  # most crops per identity
    max_overlap: float = 0.3  # with tracks: fraction of a box that may lie inside another track's box
    split: str = "person"  # no person in both train and test; or "time": train on the first part, test on the rest
    test_ratio: float = 0.3  # fraction of the people (or of the time) for testing; 1: all, no training images
    seed: int = 0  # of the random choice of test people
    shared_ids: bool = False  # a track number is the same person in all sequences


class Identity(NamedTuple):
    sequence: int  # position in the list of sequences; 0 with `shared_ids`
    track: int


class Crop(NamedTuple):
    who: Identity
    sequence: int  # position in the list of sequences
    frame: int
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels, inside the frame


class Step(NamedTuple):
    """One filter: the number of boxes it removed, and what remains."""

    reason: str
    left_out: int
    boxes: int
    identities: int


def cut(
    folders: Rows[Path], tracks: Rows[Path] | None, out: Path, rules: Rules, reading: Reading = AS_FOUND
) -> list[str]:
    """Cut the people of `folders` (sequences) into class folders in `out`; print a table of removed boxes.

    Args:
        tracks: a tracker's results, one file per sequence, instead of annotations; each track is one identity.
        reading: how to read ambiguous box files.

    Returns:
        Flags of train.py for an input size that fits the crops; empty if the default does.

    Raises:
        InputError: a file cannot be read, `out` exists and is not empty, or too few people are left.
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
    print("All sequences")
    for reason, count in made.left_out.items():
        print(f"  {reason:<44} {-count:>8,}")
    print(f"  {'crops':<44} {sum(map(len, made.splits.values())):>8,}")
    if not made.splits["query"]:
        print("  nobody is seen long enough to be tested: train/ only, no query/ and gallery/")
    write(made.splits, sequences, out)
    boxes = np.array([crop.box for crops in made.splits.values() for crop in crops])  # (n, 4) left, top, right, bottom
    return fitting_size(boxes[:, 2:] - boxes[:, :2])


def _check(folders: Rows[Path], tracks: Rows[Path] | None, out: Path, rules: Rules) -> None:
    if not folders:
        raise InputError(f"{out}: give one or more sequences, then a new folder for the crops")
    if tracks and len(tracks) != len(folders):
        raise InputError(
            f"--tracks: {len(tracks)} files for {len(folders)} sequences; give one per sequence, in the same order"
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; the last name must be a new folder for the crops")


# ---------------------------------------------------------------------------------------------------------------------
# Which boxes


def select(sequence: Sequence, rows: Boxes, rules: Rules, tracked: bool) -> tuple[Boxes, list[Step]]:
    """Filter boxes. Returns those to crop, clipped to the frame in whole pixels, and the filters that removed boxes.

    Args:
        tracked: the boxes are a tracker's results, where people are confused when they overlap.
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
        keep(sequence.considered(rows, rules.classes), "marked to be ignored (column 7 is 0)")
    keep(rows.track >= 0, "no track number")
    keep(np.isin(rows.frame, list(sequence.frames)), "no image for the frame")
    keep(rows.sized(), "no width or height")
    keep(_firsts(rows), "second box of a track in one frame")
    covered, nearer = overlaps(rows)
    inside = _inside(rows.box, sequence.size)
    seen = (1 - nearer) * _share(inside, rows.box)
    rows.visibility, rows.box = np.where(np.isnan(rows.visibility), seen, rows.visibility), inside
    if tracked:
        keep(covered <= rules.max_overlap, f"over {rules.max_overlap:.0%} inside another track's box")
        keep(_longest_runs(rows), "outside the track's longest unbroken run")
    keep((rows.box[:, 2:] > 0).all(1), "outside the frame")
    keep(rows.visibility >= rules.min_visibility, f"under {rules.min_visibility:.0%} visible")
    keep(rows.box[:, 3] >= rules.min_height, f"under {rules.min_height} pixels high")
    keep(rows.box[:, 2] >= NARROWEST, f"under {NARROWEST} pixels wide")
    return rows, steps


def _firsts(rows: Boxes) -> np.ndarray:
    first = np.zeros(len(rows), bool)
    first[np.unique(np.stack([rows.frame, rows.track], 1), axis=0, return_index=True)[1]] = True
    return first


def _longest_runs(rows: Boxes) -> np.ndarray:
    """(N,) bool: the box is in its track's longest run of frames without a gap over BREAK."""
    longest = np.zeros(len(rows), bool)
    for track in np.unique(rows.track):
        places = np.flatnonzero(rows.track == track)
        runs = np.split(places, np.flatnonzero(np.diff(rows.frame[places]) > BREAK) + 1)
        longest[max(runs, key=len)] = True
    return longest


def _inside(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, 4) int: boxes clipped to a frame of `size` (width, height); 0 wide or high if outside."""
    low = np.floor(box[:, :2]).clip(0, size)
    high = np.ceil(box[:, :2] + box[:, 2:]).clip(0, size)
    return np.concatenate([low, (high - low).clip(0)], 1).astype(int)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return (part[:, 2:].prod(1) / whole[:, 2:].prod(1).clip(1e-9)).clip(0, 1)


def overlaps(rows: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """(N,), (N,): the largest fraction of each box that another box covers; by any box, and by a nearer box.

    A box is nearer to the camera if its lower edge is lower in the image.
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

People = dict[Identity, list[Crop]]  # each person's crops, sorted by sequence and frame


class Plan(NamedTuple):
    splits: dict[str, list[Crop]]  # train, query, gallery
    left_out: dict[str, int]  # reason -> boxes


def plan(sequences: Rows[Sequence], kept: Rows[Boxes], rules: Rules) -> Plan:
    """Distribute the boxes `kept` of each sequence over train, query and gallery.

    With `split` "time", a second between the training and the test part is left out. If nobody is seen long enough
    to be tested, query and gallery are empty.

    Raises:
        InputError: fewer than two identities to train on (with `test_ratio` 1: to test).
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
            left_out["too close in time to a query of the person"] += len(crops) - len(query) - len(gallery)
        else:
            left_out["person seen too briefly to be tested"] += len(crops)
    left = sum(bool(gallery) for _, gallery in roles.values()) if all_tested else len(train)
    if left < 2:
        raise InputError(
            f"only {counted(len(people), 'person', 'people')} left after filtering, {left} to "
            f"{'test' if all_tested else 'train on'}, but at least two are needed; lower --min-images, --min-height "
            "or --min-visibility, choose other --classes, or add sequences"
        )
    return Plan(splits, {reason: count for reason, count in left_out.items() if count})


def query_and_gallery(crops: Rows[Crop], apart: Rows[int]) -> tuple[list[Crop], list[Crop]]:
    """Query and gallery crops of one person: per sequence, the first and last tenth are queries.

    The gallery holds the crops far enough from every query, so that gaps range up to the whole time that the person is
    seen. Far enough is `apart` frames (of each sequence), or a third of that time if shorter, but at least a fifth of
    `apart`.
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
    """At most `most` of the crops, evenly spaced."""
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
    """People with their crops in the training part of each sequence, and in the test part."""
    cuts = [min(s.frames) + (1 - ratio) * (max(s.frames) + 1 - min(s.frames)) for s in sequences]
    parts: tuple[People, People] = {}, {}
    for who, crops in people.items():
        early = [crop for crop in crops if crop.frame < cuts[crop.sequence] - apart[crop.sequence]]
        later = [crop for crop in crops if crop.frame >= cuts[crop.sequence]]
        left_out["between the training and the test part"] += len(crops) - len(early) - len(later)
        for part, seen in zip(parts, (early, later), strict=True):
            if seen:
                part[who] = seen
    return parts


def _usable(people: People, rules: Rules, left_out: Counter) -> People:
    """People with at least `min_images` crops, thinned to `per_identity` crops each."""
    enough = {who: crops for who, crops in people.items() if len(crops) >= rules.min_images}
    few = sum(map(len, people.values())) - sum(map(len, enough.values()))
    thinned = {who: spread(crops, rules.per_identity) for who, crops in enough.items()}
    left_out[f"person with fewer than {rules.min_images} crops"] += few
    left_out[f"over {rules.per_identity} crops of a person"] += sum(
        len(crops) - len(thinned[who]) for who, crops in enough.items()
    )
    return thinned


# ---------------------------------------------------------------------------------------------------------------------
# The crops


def write(splits: dict[str, list[Crop]], sequences: Rows[Sequence], out: Path) -> None:
    """Write `out/<split>/<id>/<id>_c<sequence>_<frame>_<n>.jpg` and `out/identities.csv`, all or nothing.

    Identities and sequences are numbered from 1; n counts an identity's crops in the split from 0.

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
            for _ in progress(cuts, total=len(files), desc="cutting crops", unit="frame"):
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
        raise InputError(f"{out}: cannot be written ({error.strerror}); choose another folder") from None
