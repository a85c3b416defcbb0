"""The sample dataset: synthetic people in synthetic cameras, rendered with numpy and pillow; no download.

    python datasets.py draw data/sample                                        # 144 identities in six cameras
    python datasets.py draw data/many --identities 5000 --cameras 400          # for training from scratch
    python datasets.py draw data/small --contact-sheet sheet.png

The folder has the layout of Market-1501 (64 x 128 JPEG files, width x height):

    bounding_box_train/0002_c1s1_000451_03.jpg    identity 2, camera 1, sequence 1, frame 451, box 3 of that frame
    query/                                        one image per test identity and camera
    bounding_box_test/                            the gallery; -1_c... is junk (ignored), 0000_c... are distractors

The same seed gives the same bytes on one machine with any number of processes: each image has its own random stream,
with the key (seed, kind of stream, identity, index).
"""

import functools
import json
import math
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from appearance import cli
from appearance.drawn.cameras import HEIGHT, WIDTH, Appearance, Camera, Framing, photograph, stream
from appearance.drawn.people import Identity
from appearance.drawn.poses import Pose
from appearance.drawn.variety import EVERYTHING, Variety
from appearance.files import atomic_write, beside
from appearance.identities import DISTRACTOR, JUNK, nobody
from appearance.machine import cores, side_by_side
from appearance.progress import progress
from appearance.reading import text_of

VERSION = 3  # raise it when the same parameters give other images
DEFAULT_IDENTITIES, DEFAULT_CAMERAS = 144, 6
LAST_TEST = 750  # every third identity up to this one is a test identity: 250 are enough
MARKER = "sample.json"  # in the root: the parameters of the dataset
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
FOLDERS = [TRAIN, QUERY, GALLERY]

# Kinds of random streams: the first part of a key. cameras.py has those of cameras and places.
IDENTITY_STREAM, ROUTE_STREAM, IMAGE_STREAM, STRANGER_STREAM, VISIT_STREAM = range(5)


@dataclass(frozen=True)
class Shot:
    """Everything needed to draw one image file."""

    folder: str
    pid: int  # in the file name
    camera: int
    frame: int
    box: int
    seed: int
    variety: Variety
    subject: "tuple[int, ...] | None"  # key of the person's stream; None: background only
    visit: int  # index of the camera on the person's route
    heading: float
    phase: float
    index: int  # of the image in its (folder, pid)

    @property
    def name(self) -> str:
        """The file name, as in Market-1501."""
        pid = str(JUNK) if self.pid == JUNK else f"{self.pid:04d}"
        return f"{pid}_c{self.camera}s{1 + self.frame // 100_000}_{self.frame:06d}_{self.box:02d}.jpg"

    def draw(self) -> Image.Image:
        """Render the image: 64x128 RGB."""
        rng = stream(self.seed, IMAGE_STREAM, FOLDERS.index(self.folder), self.pid + 1, self.index)
        framing = Framing.piece(rng) if self.pid == JUNK else Framing.random(rng, self.variety)
        return photograph(self.appearance(), self.taken_by(), rng, framing, self.variety)

    def taken_by(self) -> Camera:
        """The camera of this image."""
        return camera(self.seed, self.camera, self.variety)

    def appearance(self) -> "Appearance | None":
        """The person as dressed on this visit, the same for all images of the visit; None: background only."""
        if self.subject is None:
            return None
        identity = person(self.seed, self.subject, self.variety)
        rng = stream(self.seed, VISIT_STREAM, *self.subject, self.visit)
        if rng.random() < self.variety.change:
            identity = identity.changed(rng)
        rides, umbrella = rng.random() < self.variety.bicycle, rng.random() < self.variety.umbrella
        return Appearance(identity, Pose.random(rng, self.phase, self.variety, rides), self.heading, umbrella)


@functools.lru_cache(maxsize=64)
def camera(seed: int, number: int, variety: Variety) -> Camera:
    """Camera `number` of the dataset, from 1."""
    return Camera.random(seed, number, variety)


@functools.lru_cache(maxsize=64)  # the images of a visit are drawn one after the other
def person(seed: int, key: tuple[int, ...], variety: Variety) -> Identity:
    """The identity with this stream key. Some wear the clothes of another identity of the same kind."""
    rng = stream(seed, *key)
    identity = Identity.random(rng, variety)
    if rng.random() < variety.twin and key[-1] > 3:
        identity = identity.dressed_as(Identity.random(stream(seed, *key[:-1], key[-1] - 3), variety))
    return identity


def is_test(pid: int) -> bool:
    """Whether an identity is for testing."""
    return pid % 3 == 0 and pid <= LAST_TEST


def plan(
    identities: int = DEFAULT_IDENTITIES,
    seed: int = 0,
    cameras: int = DEFAULT_CAMERAS,
    variety: Variety = EVERYTHING,
) -> list[Shot]:
    """The plan of every image: person, camera, frame and view."""
    shots = []
    tests = [pid for pid in range(1, identities + 1) if is_test(pid)]
    for pid in range(1, identities + 1):
        shots += follow(pid, seed, cameras, variety)
    shots += leftovers(DISTRACTOR, math.ceil(len(tests) * 1.25), tests, seed, cameras, variety)
    shots += leftovers(JUNK, math.ceil(len(tests) * 0.62), tests, seed, cameras, variety)
    return shots


def direction(rng, variety: Variety) -> float:
    """A random heading in radians, near one of eight directions."""
    low, high = variety.heading
    return float(low + (high - low) * (rng.integers(8) + rng.normal(0, 0.2)) / 8)


def follow(pid: int, seed: int, cameras: int, variety: Variety) -> list[Shot]:
    """One person's route through some cameras, with a few images in each.

    People enter one after the other. The images of a visit are some frames apart and show one walk from one side.
    """
    rng, test = stream(seed, ROUTE_STREAM, pid), is_test(pid)
    frame = 40 * pid + int(rng.integers(0, 40))
    counts, shots = Counter(), []
    visits = min(cameras, int(rng.integers(3, 5) if test else rng.integers(3, 7)))
    for visit, number in enumerate(rng.choice(cameras, visits, replace=False) + 1):
        heading, phase = direction(rng, variety), rng.uniform(0, 2 * math.pi)
        images = int(rng.integers(3, 6) if test else rng.integers(2, 4))
        query = int(rng.integers(images)) if test else -1
        for image in range(images):
            folder = QUERY if image == query else GALLERY if test else TRAIN
            box, subject, index = int(rng.integers(1, 6)), (IDENTITY_STREAM, pid), counts[folder]
            shots.append(
                Shot(folder, pid, int(number), frame, box, seed, variety, subject, visit, heading, phase, index)
            )
            counts[folder] += 1
            step = int(rng.integers(3, 10))
            frame += step
            phase += 0.25 * step  # a walking cycle takes about 25 frames, a second
            if rng.random() < 0.12:
                heading = direction(rng, variety)
        frame += int(rng.integers(200, 900))  # the way to the next camera
    return shots


def leftovers(pid: int, count: int, tests: list[int], seed: int, cameras: int, variety: Variety) -> list[Shot]:
    """Gallery images of no test identity: bad boxes (`pid` JUNK), or backgrounds and other people (DISTRACTOR)."""
    rng = stream(seed, ROUTE_STREAM, 0, 1 - pid)
    shots = []
    for index in range(count):
        number, box = int(rng.integers(1, cameras + 1)), int(rng.integers(1, 6))
        frame = 60 * index + int(rng.integers(0, 60))
        known = (IDENTITY_STREAM, int(rng.choice(tests)))
        subject = known if pid == JUNK else (STRANGER_STREAM, index)
        if rng.random() < (0.2 if pid == JUNK else 0.4):
            subject = None
        heading, phase = direction(rng, variety), float(rng.uniform(0, 2 * math.pi))
        shots.append(Shot(GALLERY, pid, number, frame, box, seed, variety, subject, 100, heading, phase, index))
    return shots


def save(job: tuple[Shot, str]):
    """Draw one shot into its file. A top-level function, so that worker processes can unpickle it."""
    shot, root = job
    shot.draw().save(os.path.join(root, shot.folder, shot.name), quality=shot.taken_by().quality)


def draw_all(shots: list[Shot], root: Path, workers: int):
    """Draw all shots below `root`, sorted by camera, so that each background is drawn once per process."""
    for folder in FOLDERS:
        (root / folder).mkdir()
    jobs = [(shot, str(root)) for shot in sorted(shots, key=lambda shot: shot.camera)]
    drawn = side_by_side(save, jobs, workers, chunk=16)
    for _ in progress(drawn, total=len(jobs), desc="drawing", unit="img"):
        pass


def some_images(count: int) -> Iterator[Image.Image]:
    """`count` training images, evenly spaced over the default sample; not saved."""
    shots = [shot for shot in plan() if shot.folder == TRAIN]
    for number in range(count):
        yield shots[number * len(shots) // count].draw()


def ensure(
    root,
    seed: int = 0,
    identities: int = DEFAULT_IDENTITIES,
    workers: "int | None" = None,
    cameras: int = DEFAULT_CAMERAS,
    variety: Variety = EVERYTHING,
) -> Path:
    """Draw the dataset with these parameters into `root`, unless it is there already. Returns `root`.

    The dataset is drawn into a temporary folder and then renamed, so that an interrupted run leaves no partial dataset
    and several processes may call this at once.

    Args:
        workers: processes; None or 0: one per core.

    Raises:
        InputError: too few identities or cameras, `root` has other content (it is never changed), or it cannot be
            written.
    """
    root = Path(root)
    if identities < 3:
        raise cli.InputError(f"--identities {identities}: give at least 3; every third one is a test identity")
    if cameras < 2:
        raise cli.InputError(f"--cameras {cameras}: give at least 2; queries are matched with images of another camera")
    shots = plan(identities, seed, cameras, variety)
    images = {folder: sum(shot.folder == folder for shot in shots) for folder in FOLDERS}
    marker = {"version": VERSION, "seed": seed, "identities": identities, "cameras": cameras, "images": images}
    marker["variety"] = settings(variety)
    if is_drawn(root, marker):
        return root

    started = time.perf_counter()
    print(f"Drawing a synthetic dataset into {root} ({len(shots):,} images) ...", flush=True)
    try:
        with beside(root) as folder:
            folder.mkdir()
            draw_all(shots, folder, workers or cores())
            (folder / MARKER).write_text(json.dumps(marker, indent=1) + "\n")
    except OSError as error:
        if not is_drawn(root, marker):  # else another process has drawn the same dataset
            raise cli.InputError(f"{root}: cannot write the dataset there ({error}); choose another folder") from error
    print(table(shots) + f"\n{time.perf_counter() - started:.1f} s", flush=True)
    return root


def settings(variety: Variety) -> dict:
    """The settings as JSON stores them."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(variety).items()}


def is_drawn(root: Path, marker: dict) -> bool:
    """Whether `root` has the dataset with these parameters; False if it is missing or empty.

    Raises:
        InputError: `root` has other content, or images are missing.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = dict(json.loads(text_of(root / MARKER)))
        found["variety"] = settings(EVERYTHING) | found.get("variety", {})  # older datasets lack some settings
    except (cli.InputError, ValueError, TypeError, RecursionError):
        raise cli.InputError(
            f"{root}: exists and is not a dataset of `datasets.py draw`; choose another folder"
        ) from None
    if found != marker:
        keys = ("version", "seed", "identities", "cameras")
        kept = ", ".join(f"{key} {found.get(key)}" for key in keys)
        wanted = ", ".join(f"{key} {marker[key]}" for key in keys)
        others = [name for name, value in marker["variety"].items() if found["variety"].get(name) != value]
        differs = f", but other settings of {', '.join(others)}" if others and kept == wanted else ""
        raise cli.InputError(
            f"{root}: has a dataset with other parameters ({kept}; wanted: {wanted}{differs}); delete it or choose "
            "another folder"
        )
    for folder, count in marker["images"].items():
        present = len(list((root / folder).glob("*.jpg")))
        if present < count:
            raise cli.InputError(
                f"{root / folder}: has only {present} of {count} images; delete {root} to draw it again"
            )
    return True


def table(shots: list[Shot]) -> str:
    """A table of the images, identities and cameras in each folder, as text."""
    lines = [f"{'':20} {'images':>7} {'identities':>11} {'cameras':>8}"]
    for folder in FOLDERS:
        there = [shot for shot in shots if shot.folder == folder]
        pids = {shot.pid for shot in there} - nobody(())
        cameras = {shot.camera for shot in there}
        lines.append(f"{folder:20} {len(there):7,} {len(pids):11,} {len(cameras):8}")
    extra = Counter(shot.pid for shot in shots)
    lines.append(f"gallery includes {extra[DISTRACTOR]:,} distractors (0000) and {extra[JUNK]:,} junk images (-1)")
    return "\n".join(lines)


def contact_sheet(root, path, rows: int = 4, columns: int = 6):
    """Write a PNG overview: 2 * `rows` training identities of the dataset in `root`, up to `columns` cameras each."""
    seen = {}  # pid -> {camera: file}
    for file in sorted(Path(root, TRAIN).glob("*.jpg")):
        pid, number = file.name.split("_")[:2]
        seen.setdefault(pid, {}).setdefault(number.split("s")[0], file)
    pids = sorted(seen, key=lambda pid: (-min(columns, len(seen[pid])), pid))[: 2 * rows]  # seen in most cameras first

    gap, margin = 3, 34
    block = margin + columns * (WIDTH + gap)
    sheet = Image.new("RGB", (2 * block + 10, gap + rows * (HEIGHT + gap)), (250, 250, 250))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for place, pid in enumerate(pids):
        left, top = block * (place % 2) + 4, gap + (place // 2) * (HEIGHT + gap)
        draw.text((left, top + HEIGHT // 2 - 6), pid, fill=(60, 60, 60), font=font)
        for column, number in enumerate(sorted(seen[pid], key=lambda c: int(c[1:]))[:columns]):
            x = left + margin + column * (WIDTH + gap)
            with Image.open(seen[pid][number]) as image:
                sheet.paste(image, (x, top))
            draw.text((x + 3, top + 1), number, fill=(255, 255, 255), font=font, stroke_width=1, stroke_fill=(0, 0, 0))
    small = sheet.quantize(128, dither=Image.Dither.NONE)  # a third of the bytes, hardly any visible difference
    atomic_write(path, lambda file: small.save(file, format="PNG", optimize=True))
