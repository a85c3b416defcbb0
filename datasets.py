"""From samples to images: load, resize, hold out, check and split.

    python datasets.py check ROOT       what is there, and every problem it finds
    python datasets.py split ROOT OUT   plain class folders -> identity-disjoint train/ query/ gallery/

`layouts.py` tells which folders are understood.
"""

import os
import random
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from tqdm import tqdm

import cli
from cli import InputError
from layouts import DISTRACTOR, JUNK, UNKNOWN, ReIDData, Sample, find
from resize import resize

SMALLEST_SIDE = 16  # pixels; below it a crop holds nothing to recognise
LARGEST_AREA = 50_000_000  # pixels; a small file can claim any size, and would fill the memory


# ---------------------------------------------------------------------------------------------------------------------
# Images


def load_rgb(path: str | os.PathLike) -> Image.Image:
    """An image file in any mode (grey, palette, RGBA, CMYK, 16-bit, EXIF-rotated) as an upright RGB image.

    Of an animated file, the first picture.

    Raises:
        InputError: the file cannot be read as an image; names it.
    """
    try:
        if not os.path.isfile(path):  # opening a pipe would wait for ever
            raise FileNotFoundError
        with Image.open(path) as image:
            if image.width * image.height > LARGEST_AREA:
                raise ValueError(f"{image.width}x{image.height} pixels are too many for the crop of a person")
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I;16"):  # convert() would clip 16-bit grey to white
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return image.convert("RGB")
    except FileNotFoundError:
        raise InputError(f"{path}: missing, a broken link or no file") from None
    except Exception as error:  # Pillow's decoders raise nearly anything on a broken file
        reason = getattr(error, "strerror", None) or str(error).replace(repr(str(path)), "it") or type(error).__name__
        raise InputError(f"{path}: cannot be read as an image ({reason})") from None


def unreadable(errors: Sequence[str], of: int) -> str:
    """One line for all images of a set that cannot be read."""
    listed = "; ".join(errors[:5]) + (f"; and {len(errors) - 5} more" if len(errors) > 5 else "")
    return f"{len(errors)} of {of:,} images cannot be read; mend them or add --skip-bad-images: {listed}"


class PersonImages(ImageFolder):
    """Samples as an ImageFolder: item i is ((3, height, width) uint8 RGB, label).

    Args:
        samples: what to load, in this order.
        height, width: size every image is resized to.
        pids: the identities in label order; samples of others (distractors) get label -1.
    """

    def __init__(self, samples: Sequence[Sample], height: int, width: int, pids: Sequence[int]):
        self._given = samples
        self._pids = list(pids)
        super().__init__(root="", transform=self._to_pixels, loader=load_rgb, allow_empty=True)
        self.height, self.width = height, width

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        classes = [str(pid) for pid in self._pids]
        return classes, {name: label for label, name in enumerate(classes)}

    def make_dataset(self, directory, class_to_idx, *args, **kwargs) -> list[tuple[str, int]]:
        return [(sample.path, class_to_idx.get(str(sample.pid), -1)) for sample in self._given]

    def _to_pixels(self, image: Image.Image) -> Tensor:
        return resize(v2.functional.pil_to_tensor(image), self.height, self.width)


def split_validation(samples: Sequence[Sample], ratio: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Hold out a seeded share of each identity's images (rounded, at least one stays) for closed-set accuracy."""
    by_pid = defaultdict(list)
    for sample in sorted(samples):
        by_pid[sample.pid].append(sample)
    rng = random.Random(seed)
    held_out = set()
    for pid in sorted(by_pid):
        images = by_pid[pid]
        held_out.update(rng.sample(images, min(round(len(images) * ratio), len(images) - 1)))
    return [s for s in samples if s not in held_out], [s for s in samples if s in held_out]


# ---------------------------------------------------------------------------------------------------------------------
# python datasets.py check ROOT


@dataclass
class Problem:
    """One thing found by `check`; a fatal one makes training or evaluation impossible."""

    fatal: bool
    text: str
    path: str = ""  # of the image, where it is about one


def summary(data: ReIDData) -> str:
    """The table of identities, images and cameras per split."""
    lines = [f"{data.root}: {data.layout}", f"  {'split':<8} {'identities':>10} {'images':>8} {'cameras':>8}"]
    for split, samples in data.splits().items():
        people = [s for s in samples if s.pid > DISTRACTOR]
        cameras = {s.camera for s in people} - {UNKNOWN}
        line = f"  {split:<8} {len({s.pid for s in people}):>10,} {len(people):>8,} {len(cameras) or 'unknown':>8}"
        extras = Counter(s.pid for s in samples if s.pid <= DISTRACTOR)
        notes = [
            f"{extras[pid]:,} {name}" for pid, name in ((DISTRACTOR, "distractors"), (JUNK, "junk")) if extras[pid]
        ]
        lines.append(line + (f"   and {', '.join(notes)}" if notes else ""))
    return "\n".join(lines)


def find_problems(data: ReIDData) -> list[Problem]:
    """Everything wrong that names and folders tell, without opening an image."""
    return _training_problems(data) + _evaluation_problems(data)


def _training_problems(data: ReIDData) -> list[Problem]:
    problems = []
    counts = Counter(sample.pid for sample in data.train)
    if len(counts) == 1:
        name = data.names.get(next(iter(counts)), "?")
        problems.append(Problem(True, f"train: only one identity ({name}); a network learns by telling people apart"))
    if not counts:
        problems.append(Problem(not data.can_evaluate, "train: no images, so there is nothing to train on"))
    alone = [data.names.get(pid, str(pid)) for pid, count in counts.items() if count == 1]
    if alone and len(counts) > 1:
        problems.append(Problem(False, f"train: {len(alone)} identities have a single image ({_few(alone)})"))
    cameras = {sample.camera for sample in data.train}
    if len(cameras) == 1 and cameras != {UNKNOWN}:
        problems.append(Problem(False, "train: one camera only; the network will not learn to match across cameras"))
    for folder in _empty_identity_folders(data):
        problems.append(Problem(False, f"{folder}: an identity folder without any image"))
    return problems


def _evaluation_problems(data: ReIDData) -> list[Problem]:
    problems = []
    if not data.query and not data.gallery:
        return [
            Problem(False, "no query/ and gallery/: rank-1 and mAP need them; `python datasets.py split` makes them")
        ]
    for split in ("query", "gallery"):
        if not getattr(data, split):
            problems.append(Problem(True, f"{split}: no images, so nothing can be evaluated"))
    if problems:
        return problems

    both = {s.pid for s in data.train} & {s.pid for s in data.query + data.gallery if s.pid > DISTRACTOR}
    if both:
        names = _few([data.names.get(pid, str(pid)) for pid in sorted(both)])
        problems.append(Problem(False, f"{len(both)} identities are both in train and in query/gallery: {names}"))

    people = [s for s in data.query + data.gallery if s.pid > DISTRACTOR]
    unknown = sum(s.camera == UNKNOWN for s in people)
    if unknown:
        text = (
            f"{unknown} of {len(people)} test images have no known camera: same-camera images count as matches for them"
        )
        problems.append(Problem(False, text))
    elif len({s.camera for s in people}) == 1:
        problems.append(
            Problem(
                True, "query and gallery: one camera only; the protocol removes same-camera matches, so none is left"
            )
        )
    lost = unmatched_queries(data.query, data.gallery)
    if lost:
        whole = len(lost) == len(data.query)
        text = f"{len(lost)} of {len(data.query)} query images have no correct gallery image from another camera"
        problems.append(Problem(whole, f"{text} ({_few([Path(s.path).name for s in lost])})"))
    return problems


def unmatched_queries(query: Iterable[Sample], gallery: Iterable[Sample]) -> list[Sample]:
    """Query samples without any correct gallery sample: same identity, and another or an unknown camera."""
    cameras = defaultdict(set)
    for sample in gallery:
        cameras[sample.pid].add(sample.camera)
    return [
        s
        for s in query
        if not cameras[s.pid] or (s.camera != UNKNOWN and cameras[s.pid] == {s.camera}) or s.pid <= DISTRACTOR
    ]


def image_problems(samples: Sequence[Sample], workers: int = 8) -> list[Problem]:
    """Open every image, in one pass: unreadable files and images too small to recognise anyone."""

    def look(sample: Sample) -> Problem | None:
        try:
            width, height = load_rgb(sample.path).size
        except InputError as error:
            return Problem(True, str(error), sample.path)
        if min(width, height) < SMALLEST_SIDE:
            return Problem(False, f"{sample.path}: {width}x{height} pixels, smaller than {SMALLEST_SIDE}", sample.path)
        return None

    with ThreadPoolExecutor(workers) as pool:
        found = tqdm(
            pool.map(look, samples), total=len(samples), desc="reading images", unit="img", leave=False, disable=None
        )
        return [problem for problem in found if problem]


def _empty_identity_folders(data: ReIDData) -> list[Path]:
    if data.layout != "class folders":
        return []
    used = {Path(s.path).parent for samples in data.splits().values() for s in samples}
    roots = (
        [data.root / split for split in data.splits()]
        if data.query or data.gallery
        else [data.root, data.root / "train"]
    )
    folders = [child for root in roots if root.is_dir() for child in sorted(root.iterdir()) if child.is_dir()]
    return [f for f in folders if not any(f == u or f in u.parents for u in used) and not f.name.startswith(".")]


def _few(names: Sequence[str], limit: int = 3) -> str:
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def check(args) -> None:
    data = find(args.root)
    print(summary(data))
    problems = find_problems(data) + image_problems(data.train + data.query + data.gallery)
    for problem in problems:
        print(f"  {'ERROR  ' if problem.fatal else 'warning'}  {cli.one_line(problem.text)}")
    fatal = sum(problem.fatal for problem in problems)
    if fatal:
        raise InputError(f"{args.root}: {fatal} of {len(problems)} problems must be mended before it can be used")
    print("No problems." if not problems else "Usable; the warnings above are worth a look.")


# ---------------------------------------------------------------------------------------------------------------------
# python datasets.py split ROOT OUT


def split(args) -> None:
    data = find(args.root)
    if data.layout != "class folders" or data.can_evaluate:
        raise InputError(f"{args.root}: already has its splits ({data.layout}); `split` takes plain class folders")
    if not 0 < args.test_ratio < 1:
        raise InputError(f"--test-ratio {args.test_ratio}: give a number between 0 and 1")
    if args.out.exists() and not (args.out.is_dir() and not any(args.out.iterdir())):
        raise InputError(f"{args.out}: exists and is not an empty folder; choose a new one for the split")
    plan = plan_split(data.train, args.test_ratio, args.seed)
    source = args.root / "train" if (args.root / "train").is_dir() else args.root
    temporary = args.out.with_name(f".{args.out.name}.{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        for name, samples in plan.items():
            for sample in samples:
                _place(Path(sample.path), temporary / name / Path(sample.path).relative_to(source), args.copy)
        temporary.replace(args.out)
    except OSError as error:
        hint = "" if args.copy else "; if links are not possible here, add --copy"
        raise InputError(f"{args.out}: could not be written ({error.strerror}){hint}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print(summary(find(args.out)))
    print(f"Next: python train.py --data-dir {args.out}")


def plan_split(samples: Sequence[Sample], test_ratio: float, seed: int) -> dict[str, list[Sample]]:
    """Identity-disjoint train, query and gallery.

    Test identities are drawn from those that can be evaluated: seen by two known cameras, or with two images where
    cameras are unknown. One image per identity and camera (per identity without cameras) becomes a query, as long as
    every query keeps a correct image in the gallery.

    Raises:
        InputError: too few identities.
    """
    by_pid = defaultdict(list)
    for sample in sorted(samples):
        by_pid[sample.pid].append(sample)
    rng = random.Random(seed)
    queries = {pid: _draw_queries(images, rng) for pid, images in sorted(by_pid.items())}
    testable = [pid for pid, drawn in queries.items() if drawn]
    wanted = max(1, round(len(by_pid) * test_ratio))
    if len(by_pid) < 3 or not testable:
        raise InputError(
            f"cannot be split: {len(by_pid)} identities, {len(testable)} of them with images from two cameras "
            "(or two images where cameras are unknown); at least 3 identities are needed"
        )
    test = set(rng.sample(testable, min(wanted, len(testable), len(by_pid) - 2)))
    plan = {"train": [s for s in samples if s.pid not in test], "query": [], "gallery": []}
    for pid in sorted(test):
        plan["query"] += queries[pid]
        plan["gallery"] += [s for s in by_pid[pid] if s not in queries[pid]]
    return plan


def _draw_queries(images: list[Sample], rng: random.Random) -> list[Sample]:
    by_camera = defaultdict(list)
    for sample in images:
        by_camera[sample.camera].append(sample)
    drawn: list[Sample] = []
    for _, candidates in sorted(by_camera.items()):
        trial = [*drawn, rng.choice(candidates)]
        if not unmatched_queries(trial, [s for s in images if s not in trial]):
            drawn = trial
    return drawn


def _place(source: Path, target: Path, copy: bool) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copy2(source, target)
    else:
        target.symlink_to(source.resolve())


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(description="Look at a re-ID dataset, or make one out of plain folders.")
    commands = parser.add_subparsers(required=True, metavar="check|split")

    command = commands.add_parser("check", help="print the table of a dataset and every problem it has")
    command.add_argument("root", type=Path, help="folder of the dataset")
    command.set_defaults(action=check)

    command = commands.add_parser("split", help="turn plain class folders into train/ query/ gallery/")
    command.add_argument("root", type=Path, help="folder with one folder of images per identity")
    command.add_argument("out", type=Path, help="new folder for the split")
    command.add_argument("--test-ratio", type=float, default=0.3, help="share of the identities kept for testing")
    command.add_argument("--seed", type=int, default=0, help="which identities and queries are drawn")
    command.add_argument("--copy", action="store_true", help="copy the images instead of linking to them")
    command.set_defaults(action=split)
    return parser


def main(args) -> None:
    args.action(args)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
