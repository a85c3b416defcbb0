"""The built-in sample dataset: pedestrians in six cameras, drawn with numpy and pillow, so that nothing is downloaded.

    python datasets.py draw data/big --identities 1501      # as many identities as Market-1501
    python datasets.py draw data/small --contact-sheet sheet.png

The folder has the layout of Market-1501 (64 x 128 JPEG files, width x height):

    bounding_box_train/0002_c1s1_000451_03.jpg    identity 2, camera 1, sequence 1, frame 451, box 3 of that frame
    query/                                        one image per test identity and camera
    bounding_box_test/                            the gallery; -1_c... is junk (ignored), 0000_c... are distractors

`people.py` draws the people and `cameras.py` the places and the boxes; neither knows of datasets.

The same seed gives the same bytes on one machine, however many processes draw: each image has a random stream of its
own, keyed by (seed, what, identity, index).
"""

import functools
import json
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from appearance import cli
from appearance.drawn.cameras import CAMERAS, HEIGHT, WIDTH, Framing, photograph, stream
from appearance.drawn.people import VIEWS, Identity
from appearance.machine import cores

VERSION = 2  # raise it when the same parameters no longer give the same pictures
DEFAULT_IDENTITIES = 144
MANY_IDENTITIES = 1000  # from here on half of the identities are for testing, as in Market-1501; below, a third
MARKER = "sample.json"  # in the root: which parameters drew this folder
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
FOLDERS = [TRAIN, QUERY, GALLERY]
JUNK, DISTRACTOR = -1, 0  # the identities that Market-1501 gives to the two kinds of gallery images without an owner

# What a stream is for: the first part of its key. A place has cameras.SCENE_STREAM.
IDENTITY_STREAM, ROUTE_STREAM, IMAGE_STREAM, STRANGER_STREAM = range(4)


@dataclass(frozen=True)
class Shot:
    """The plan of one image file; drawing it needs nothing else."""

    folder: str
    pid: int  # as in the file name
    camera: int
    frame: int
    box: int
    seed: int
    subject: "tuple[int, ...] | None"  # the key of the identity's stream; None: nobody
    view: str
    phase: float
    index: int  # of the image within its (folder, pid)

    @property
    def name(self) -> str:
        pid = str(JUNK) if self.pid == JUNK else f"{self.pid:04d}"
        return f"{pid}_c{self.camera}s{1 + self.frame // 100_000}_{self.frame:06d}_{self.box:02d}.jpg"

    def draw(self) -> Image.Image:
        rng = stream(self.seed, IMAGE_STREAM, FOLDERS.index(self.folder), self.pid + 1, self.index)
        framing = Framing.piece(rng) if self.pid == JUNK else Framing.random(rng)
        person = None
        if self.subject is not None:
            person = (Identity.random(stream(self.seed, *self.subject)), self.view, self.phase)
        return photograph(person, CAMERAS[self.camera - 1], rng, framing)


def is_test(pid: int, identities: int) -> bool:
    """Which identities are for testing: every third, or every second of a large dataset (750 of 1501)."""
    return pid % (2 if identities >= MANY_IDENTITIES else 3) == 0


def plan(identities: int = DEFAULT_IDENTITIES, seed: int = 0) -> list[Shot]:
    """Every image of the dataset: who is seen where, when, from which side."""
    shots = []
    tests = [pid for pid in range(1, identities + 1) if is_test(pid, identities)]
    for pid in range(1, identities + 1):
        shots += follow(pid, is_test(pid, identities), seed)
    shots += leftovers(DISTRACTOR, math.ceil(len(tests) * 1.25), tests, seed)
    shots += leftovers(JUNK, math.ceil(len(tests) * 0.62), tests, seed)
    return shots


def follow(pid: int, test: bool, seed: int) -> list[Shot]:
    """One person's way through some of the cameras, a few images in each.

    People enter one after the other; a visit's images are some frames apart and show one walk, seen from one side.
    """
    rng = stream(seed, ROUTE_STREAM, pid)
    frame = 40 * pid + int(rng.integers(0, 40))
    counts, shots = Counter(), []
    for camera in rng.permutation(len(CAMERAS))[: rng.integers(3, 5) if test else rng.integers(3, 7)] + 1:
        view, phase = str(rng.choice(VIEWS)), rng.uniform(0, 2 * math.pi)
        images = int(rng.integers(3, 6) if test else rng.integers(2, 4))
        query = int(rng.integers(images)) if test else -1
        for image in range(images):
            folder = QUERY if image == query else GALLERY if test else TRAIN
            box = int(rng.integers(1, 6))
            shots.append(
                Shot(folder, pid, int(camera), frame, box, seed, (IDENTITY_STREAM, pid), view, phase, counts[folder])
            )
            counts[folder] += 1
            step = int(rng.integers(3, 10))
            frame += step
            phase += 0.25 * step  # a walking cycle takes about 25 frames, a second
            if rng.random() < 0.12:
                view = str(rng.choice(VIEWS))
        frame += int(rng.integers(200, 900))  # the way to the next camera
    return shots


def leftovers(pid: int, count: int, tests: list[int], seed: int) -> list[Shot]:
    """Gallery images without an owner: badly cut pieces (junk), or walls and strangers (distractors)."""
    rng = stream(seed, ROUTE_STREAM, 10_000 - pid)
    shots = []
    for index in range(count):
        camera, box = int(rng.integers(1, len(CAMERAS) + 1)), int(rng.integers(1, 6))
        frame = 60 * index + int(rng.integers(0, 60))
        known = (IDENTITY_STREAM, int(rng.choice(tests)))
        subject = known if pid == JUNK else (STRANGER_STREAM, index)
        if rng.random() < (0.2 if pid == JUNK else 0.4):
            subject = None
        view, phase = str(rng.choice(VIEWS)), float(rng.uniform(0, 2 * math.pi))
        shots.append(Shot(GALLERY, pid, camera, frame, box, seed, subject, view, phase, index))
    return shots


def save(job: tuple[Shot, str]):
    """Draw one shot into its file below the folder (a top-level function, so that worker processes can call it)."""
    shot, root = job
    shot.draw().save(os.path.join(root, shot.folder, shot.name), quality=CAMERAS[shot.camera - 1].quality)


def draw_all(shots: list[Shot], root: Path, workers: int):
    """Draw every shot below `root`, with a progress bar."""
    for folder in FOLDERS:
        (root / folder).mkdir()
    jobs = [(shot, str(root)) for shot in shots]
    bar = functools.partial(tqdm, total=len(jobs), unit="image", leave=False)
    if workers <= 1:
        for job in bar(jobs):
            save(job)
        return
    # Forked workers start at once; elsewhere than on Linux forking is not safe or not there.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    # An interrupt (Ctrl-C) reaches every process: the workers leave it to this one, which ends them.
    with context.Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        for _ in bar(pool.imap_unordered(save, jobs, chunksize=16)):
            pass


def ensure(
    root="data/sample", seed: int = 0, identities: int = DEFAULT_IDENTITIES, workers: "int | None" = None
) -> Path:
    """The folder of the sample dataset with these parameters, drawn now unless it is already there.

    It is drawn beside its place and then moved there in one step, so that an interrupted run leaves no half dataset and
    two processes may ask at once. A folder with other content is never touched: InputError.
    """
    root = Path(root)
    if not 3 <= identities <= 9999:
        raise cli.InputError(f"--identities {identities}: give 3 to 9999, file names have four digits for them")
    if seed < 0:
        raise cli.InputError(f"--seed {seed}: give a number from 0 up")
    if (workers or 0) < 0:
        raise cli.InputError(f"--workers {workers}: give 0 (one per core) or more")
    shots = plan(identities, seed)
    images = {folder: sum(shot.folder == folder for shot in shots) for folder in FOLDERS}
    marker = {"version": VERSION, "seed": seed, "identities": identities, "images": images}
    if is_drawn(root, marker):
        return root

    started = time.perf_counter()
    print(f"Drawing the sample dataset into {root} ({len(shots):,} images) ...", flush=True)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as folder:
            folder = Path(folder, "new")  # one level down, so that its permissions are the usual ones
            folder.mkdir()
            draw_all(shots, folder, workers or cores())
            (folder / MARKER).write_text(json.dumps(marker, indent=1) + "\n")
            if root.is_dir() and not any(root.iterdir()):
                root.rmdir()
            try:
                os.replace(folder, root)
            except OSError:
                if not is_drawn(root, marker):  # else another process was faster: its dataset is the same
                    raise
    except OSError as error:
        raise cli.InputError(f"{root}: cannot write the sample dataset there: {error}") from error
    print(table(shots) + f"\n{time.perf_counter() - started:.1f} s", flush=True)
    return root


def is_drawn(root: Path, marker: dict) -> bool:
    """True: the dataset of this marker is there. False: nothing is. Anything else in that place is an InputError."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = dict(json.loads((root / MARKER).read_text()))
    except (OSError, ValueError, TypeError):
        raise cli.InputError(f"{root}: exists and is not a sample dataset: name another folder") from None
    if found != marker:
        kept = ", ".join(f"{key} {found.get(key)}" for key in ("version", "seed", "identities"))
        wanted = ", ".join(f"{key} {marker[key]}" for key in ("version", "seed", "identities"))
        raise cli.InputError(f"{root}: is another sample ({kept}; not {wanted}): delete it or name another folder")
    for folder, count in marker["images"].items():
        present = len(list((root / folder).glob("*.jpg")))
        if present < count:
            raise cli.InputError(f"{root / folder}: only {present} of {count} images: delete {root} to draw it anew")
    return True


def table(shots: list[Shot]) -> str:
    """Images, identities and cameras of each folder."""
    lines = [f"{'':20} {'images':>7} {'identities':>11} {'cameras':>8}"]
    for folder in FOLDERS:
        there = [shot for shot in shots if shot.folder == folder]
        pids = {shot.pid for shot in there} - {JUNK, DISTRACTOR}
        cameras = {shot.camera for shot in there}
        lines.append(f"{folder:20} {len(there):7,} {len(pids):11,} {len(cameras):8}")
    extra = Counter(shot.pid for shot in shots)
    lines.append(f"in the gallery: {extra[DISTRACTOR]:,} distractors (0000), {extra[JUNK]:,} junk (-1)")
    return "\n".join(lines)


def contact_sheet(root, path, rows: int = 4):
    """A PNG of 2 x `rows` training identities of the dataset in `root`, each with one image of every camera."""
    seen = {}  # pid -> {camera: file}
    for file in sorted(Path(root, TRAIN).glob("*.jpg")):
        pid, camera = file.name.split("_")[:2]
        seen.setdefault(pid, {}).setdefault(int(camera[1]), file)
    pids = sorted(seen, key=lambda pid: (-len(seen[pid]), pid))[: 2 * rows]  # first those in most cameras

    gap, margin, head = 3, 34, 18
    block = margin + len(CAMERAS) * (WIDTH + gap)
    sheet = Image.new("RGB", (2 * block + 10, head + rows * (HEIGHT + gap)), (250, 250, 250))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for place, pid in enumerate(pids):
        left, top = block * (place % 2) + 4, head + (place // 2) * (HEIGHT + gap)
        draw.text((left, top + HEIGHT // 2 - 6), pid, fill=(60, 60, 60), font=font)
        for camera in range(1, len(CAMERAS) + 1):
            x = left + margin + (camera - 1) * (WIDTH + gap)
            draw.text((x + 12, 3), f"camera {camera}", fill=(60, 60, 60), font=font)
            if camera in seen[pid]:
                with Image.open(seen[pid][camera]) as image:
                    sheet.paste(image, (x, top))
    try:
        # 128 colours: a third of the bytes, and hardly a difference to the eye.
        sheet.quantize(128, dither=Image.Dither.NONE).save(path, format="PNG", optimize=True)
    except OSError as error:
        raise cli.InputError(f"--contact-sheet {path}: cannot be written: {error}") from error
