"""What a network was trained on, as far as its checkpoint has to know: enough to tell its people when it meets them.

A checkpoint keeps, under `trained_on`,

    sets           list of {data_dir, layout, identities, images}: the data of `--weights`, if any, then its own
    fingerprints   int64 (M,): one of the bytes of each image, ascending
"""

import csv
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from appearance.cli import InputError, counted, one_line
from appearance.data.images import LARGEST_FILE
from appearance.data.layouts import ReIDData
from appearance.machine import by_threads
from appearance.reading import digest, is_plain, text_of

SET = {"data_dir": str, "layout": str, "identities": int, "images": int}


def describe(
    data: ReIDData, earlier: dict | None = None, roots: Sequence[Path] = (), prints: dict[str, int] | None = None
) -> dict:
    """`trained_on` of a network that is trained on `data`, after what `earlier` says.

    Args:
        roots: the folders of `data`, where there are several.
        prints: `fingerprints` of its training images, where they are known.
    """
    earlier = earlier or {"sets": [], "fingerprints": torch.empty(0, dtype=torch.int64)}
    here = [_one_set(root, data) for root in roots or [data.root]]
    prints = fingerprints(sample.path for sample in data.train) if prints is None else prints
    together = torch.cat([earlier["fingerprints"], torch.tensor(list(prints.values()), dtype=torch.int64)])
    return {"sets": [one for one in earlier["sets"] if one not in here] + here, "fingerprints": together.unique()}


def _one_set(root: Path, data: ReIDData) -> dict:
    inside = [sample for sample in data.train if Path(sample.path).is_relative_to(root)]
    return {
        "data_dir": os.path.realpath(root),
        "layout": data.layout,
        "identities": len({sample.pid for sample in inside}),
        "images": len(inside),
    }


def of_checkpoint(extra: dict) -> dict | None:
    """`trained_on` of a checkpoint's content; None if it has none (older files, those of others) or a broken one."""
    found = extra.get("trained_on")
    if not isinstance(found, dict) or not isinstance(found.get("sets"), list):
        return None
    whole = all(
        isinstance(one, dict) and one.keys() == SET.keys() and all(isinstance(one[key], SET[key]) for key in SET)
        for one in found["sets"]
    )
    prints = found.get("fingerprints")
    valid = isinstance(prints, Tensor) and is_plain(prints) and prints.dtype == torch.int64 and prints.dim() == 1
    return found if whole and valid and found["sets"] else None


def tracks_met(trained_on: dict | None, sequence: str) -> int:
    """How many tracks of a video sequence a network was trained on, as the `identities.csv` of `crops` tells it."""
    met = set()
    for one in trained_on["sets"] if trained_on else ():
        with suppress(InputError, csv.Error):
            table = text_of(Path(one["data_dir"], "identities.csv"), errors="surrogateescape")
            met |= {
                row.get("track")
                for row in csv.DictReader(table.splitlines())
                if row.get("split") == "train" and row.get("sequence") == sequence
            }
    return len(met)


def sentence(trained_on: dict | None) -> str:
    """In words; the last comes first."""
    if trained_on is None:
        return "does not say what it was trained on"
    sets = reversed(trained_on["sets"])
    told = [
        f"{one_line(one['data_dir'])} ({counted(one['identities'], 'identity')}, {counted(one['images'], 'image')})"
        for one in sets
    ]
    return "trained on " + ", and on ".join(told)


def people_met(trained_on: dict | None, class_names: Iterable[str], data: ReIDData, workers: int = 8) -> set[int]:
    """Test identities of `data` that the network was trained on.

    Those with an image that it was trained on, whatever its name; and those who bear the name of a training identity in
    the same folder, or in another one a name that is more than a number, which two data sets have by chance.
    """
    tested = data.tested()
    if trained_on is None:
        return set()
    prints = fingerprints((sample.path for sample in tested), workers)
    known = set(trained_on["fingerprints"].tolist())
    met = {sample.pid for sample in tested if prints.get(sample.path) in known}
    root = Path(os.path.realpath(data.root))
    here = str(root) in [one["data_dir"] for one in trained_on["sets"]]
    names = set()
    for folder, _, name in (str(name).rpartition("/") for name in class_names):  # of several sets: folder/name
        if not name.lstrip("-").isdigit() or (here and folder in ("", root.name)):
            names.add(name)
    return met | {sample.pid for sample in tested if data.names.get(sample.pid) in names}


def fingerprints(paths: Iterable[str], workers: int = 8) -> dict[str, int]:
    """A number of 64 bits from the bytes of each ordinary file that can be read, if it is no larger than an image."""

    def fingerprint(path: str) -> tuple[str, int] | None:
        with suppress(OSError, InputError):
            return path, int.from_bytes(bytes.fromhex(digest(path, LARGEST_FILE)), "little", signed=True)
        return None

    return dict(filter(None, by_threads(fingerprint, list(paths), workers)))
