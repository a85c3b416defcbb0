"""The image dataset for training, and commands that check, split, cut and draw datasets.

    python datasets.py check ROOT               print the contents of a dataset and its problems
    python datasets.py split ROOT OUT           identity folders -> train/ query/ gallery/ with disjoint test identities
    python datasets.py crops SEQUENCE ... OUT   annotated or tracked video in MOT format -> train/ query/ gallery/
    python datasets.py draw OUT                 a synthetic dataset, rendered

`appearance/data/layouts.py` lists the folder layouts.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from PIL import Image
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from appearance import cli
from appearance.cli import InputError
from appearance.data import crops as cutting
from appearance.data.check import find_problems, size_line, summary, survey
from appearance.data.duplicates import duplicate_problems
from appearance.data.images import load_rgb
from appearance.data.layouts import Sample, find
from appearance.data.resize import resize
from appearance.data.sequences import Reading
from appearance.data.split import Wishes, write_split
from appearance.data.unread import unread
from appearance.drawn import sample
from appearance.drawn.variety import EVERYTHING, NAMED
from appearance.flags import count, positive, share, share_above_zero


class PersonImages(ImageFolder):
    """Samples as a torchvision ImageFolder: item i is ((3, height, width) uint8 RGB, label).

    Args:
        people: the samples, in this order.
        height, width: input size in pixels; images are resized to it.
        pids: identities in label order; samples of other identities (distractors, test people) get label -1.
        loader: path -> PIL RGB image.

    Raises:
        InputError: on access, if the image cannot be read.
    """

    def __init__(self, people: Sequence[Sample], height: int, width: int, pids: Sequence[int] = (), loader=load_rgb):
        self.people = people
        self._pids = list(pids)
        super().__init__(root="", transform=self._to_pixels, loader=loader, allow_empty=True)
        self.height, self.width = height, width

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        classes = [str(pid) for pid in self._pids]
        return classes, {name: label for label, name in enumerate(classes)}

    def make_dataset(self, directory, class_to_idx, *args, **kwargs) -> list[tuple[str, int]]:
        return [(person.path, class_to_idx.get(str(person.pid), -1)) for person in self.people]

    def _to_pixels(self, image: Image.Image) -> Tensor:
        return resize(v2.functional.pil_to_tensor(image), self.height, self.width)


def split_validation(samples: Sequence[Sample], ratio: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Split off a random fraction of each identity's images to validate the classifier: (training, validation).

    Args:
        ratio: fraction per identity, rounded; at least one training image stays.
    """
    by_pid = defaultdict(list)
    for image in sorted(samples):
        by_pid[image.pid].append(image)
    rng = random.Random(seed)
    held_out = set()
    for pid in sorted(by_pid):
        images = by_pid[pid]
        held_out.update(rng.sample(images, min(round(len(images) * ratio), len(images) - 1)))
    return [s for s in samples if s not in held_out], [s for s in samples if s in held_out]


# ---------------------------------------------------------------------------------------------------------------------
# Commands


def check(args) -> None:
    data = find(args.root)
    print(summary(data))
    samples = data.train + data.query + data.gallery
    problems, thumbnails, sizes = survey(samples)
    if line := size_line(sizes):
        print(f"  {line}")
    thumbnails = {sample.path: one for sample, one in zip(samples, thumbnails, strict=True)}
    problems = find_problems(data) + unread(data) + problems + duplicate_problems(data, thumbnails)
    for problem in problems:
        print(f"  {'ERROR  ' if problem.fatal else 'warning'}  {cli.one_line(problem.text)}")
    fatal = sum(problem.fatal for problem in problems)
    if fatal:
        raise InputError(
            f"{args.root}: {fatal} of {len(problems)} problems are errors; fix them before training or testing"
        )
    print("No problems." if not problems else "Usable; please read the warnings above.")


def split(args) -> None:
    wishes = Wishes(**{field: getattr(args, field) for field in Wishes._fields})
    lines, size = write_split(args.root, args.out, wishes)
    print(summary(find(args.out)))
    for line in lines:
        print(f"  note: {cli.one_line(line)}")
    print(f"Next: {next_step(args.out, args.test_ratio, size)}")


def crops(args) -> None:
    *folders, out = args.paths
    if args.tracks and len(args.tracks) == len(args.paths) + 1:  # `--tracks FILE OUT`: the last word is OUT
        *args.tracks, out = args.tracks
        folders = args.paths
    rules = cutting.Rules(**{field.name: getattr(args, field.name) for field in fields(cutting.Rules)})
    size = cutting.cut(folders, args.tracks, Path(out), rules, Reading.of(args))
    print(summary(find(out)))
    print(f"Next: {next_step(Path(out), rules.test_ratio, size)}")


def next_step(out: Path, test_ratio: float, size: Sequence[str]) -> str:
    """The command to run next on a new dataset: test.py if all identities are for testing, else train.py.

    Args:
        size: flags of train.py for the input size.
    """
    if test_ratio == 1:
        return cli.command("test.py", "--data-dir", out)
    output = Path("runs", out.resolve().name)
    return cli.command("train.py", "--data-dir", out, "--weights", "drawn", *size, "--output", output)


def draw(args) -> None:
    variety = NAMED[args.variety].without(*args.without)
    sample.ensure(args.out, args.seed, args.identities, args.workers, args.cameras, variety)
    if args.contact_sheet:
        sample.contact_sheet(args.out, args.contact_sheet)


def get_args_parser() -> cli.ArgumentParser:
    parser = cli.ArgumentParser(description="Look at a re-ID dataset, or make one.")
    commands = parser.add_subparsers(required=True, metavar="check|split|crops|draw")

    command = commands.add_parser("check", help="print what is in a dataset, and every problem")
    command.add_argument("root", type=Path, help="folder of the dataset")
    command.set_defaults(action=check)

    usage = "%(prog)s ROOT OUT [flags]"
    command = commands.add_parser(
        "split", help="make train/, query/ and gallery/ from folders of identities", usage=usage
    )
    add = command.add_argument
    add("root", type=Path, help="folder with one folder of images per identity; with --identity any folder")
    add("out", type=Path, help="new folder for the split")
    help = "share of the identities that become test identities; 1: all"
    add("--test-ratio", type=share_above_zero, default=0.3, help=help)
    add("--seed", type=count, default=0, help="seed of the random choice of identities and queries")
    add("--copy", action="store_true", help="copy images instead of making links")
    help = "where identities come from: a regular expression for paths below ROOT with a group named identity (groups "
    help += "camera and session are read too), or a CSV file with columns file, identity, camera, session"
    add("--identity", metavar="REGEX|FILE", help=help)
    help = "regular expression for the session (clip, day or track) in paths below ROOT. Images of the same identity "
    help += "and session never count as right answers to each other (default: found in names without a camera)"
    add("--session", metavar="REGEX", help=help)
    add(
        "--skip-bad-images",
        action="store_true",
        help="leave out unreadable images and print how many, instead of stopping",
    )
    command.set_defaults(action=split)

    usage = "%(prog)s SEQUENCE [SEQUENCE ...] OUT [flags]"
    command = commands.add_parser("crops", help="cut people out of video in MOT format", usage=usage)
    add, rules = command.add_argument, cutting.Rules()
    add(
        "paths",
        nargs="+",
        type=Path,
        metavar="SEQUENCE ... OUT",
        help="sequences: folders with img1/ and gt/gt.txt; then the new folder",
    )
    add(
        "--tracks",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="results of a tracker for each sequence, instead of gt/gt.txt",
    )
    add(
        "--classes",
        nargs="+",
        default=(),
        metavar="NAME",
        help="classes to cut out, by name or number (default: people; with --tracks all)",
    )
    add(
        "--min-visibility",
        type=share,
        default=rules.min_visibility,
        metavar="SHARE",
        help="least visible share of a person",
    )
    add("--min-height", type=count, default=rules.min_height, metavar="PIXELS", help="least height of a box")
    add("--min-images", type=positive, default=rules.min_images, metavar="N", help="least number of crops per identity")
    help = "most crops per identity, spread over time"
    add("--per-identity", type=positive, default=rules.per_identity, metavar="N", help=help)
    help = "with --tracks: leave out boxes of which a larger share lies in another track's box"
    add("--max-overlap", type=share, default=rules.max_overlap, metavar="SHARE", help=help)
    help = "person: other people in test than in train. time: train on the first part of the video, test on the rest"
    add("--split", choices=("person", "time"), default=rules.split, help=help)
    help = "share of people, or of time, for testing; 1: all, for calibrating a network that was not trained on them"
    add("--test-ratio", type=share, default=rules.test_ratio, help=help)
    add("--seed", type=count, default=rules.seed, help="seed of the random choice of test people")
    add("--shared-ids", action="store_true", help="the same track number in two sequences is the same person")
    Reading.add_flags(command)
    command.set_defaults(action=crops)

    command = commands.add_parser("draw", help="draw pedestrians in any number of cameras, in Market-1501's layout")
    add = command.add_argument
    add("out", type=Path, help="new folder to draw into")
    help = f"number of people; of the first {sample.LAST_TEST} every third is a test person, all others train"
    add("--identities", type=positive, default=sample.DEFAULT_IDENTITIES, metavar="N", help=help)
    help = "number of cameras, each with its own place and light"
    add("--cameras", type=positive, default=sample.DEFAULT_CAMERAS, metavar="C", help=help)
    add("--seed", type=count, default=0, help="seed of people and cameras")
    add("--workers", type=count, default=0, help="drawing processes; 0: one per core")
    help = "rich: more patterns, colours and skin tones than the sample"
    add("--variety", choices=sorted(NAMED), default="sample", help=help)
    help = "variations to leave out, by their names in appearance/drawn/variety.py"
    names = [field.name for field in fields(EVERYTHING)]
    add("--without", nargs="+", default=(), choices=names, metavar="NAME", help=help)
    add("--contact-sheet", metavar="FILE", help="also save an overview picture as PNG")
    command.set_defaults(action=draw)
    return parser


def main(args) -> None:
    args.action(args)


if __name__ == "__main__":
    cli.run(main, get_args_parser())
