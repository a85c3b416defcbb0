"""The training data of a checkpoint, recorded so that a test on the same people is noticed.

A checkpoint has a dict `trained_on`:

    sets           list of {data_dir, layout, identities, images}: those of `--weights`, if any, then its own
    fingerprints   int64 (M,), ascending: a hash of each training image's bytes
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
    """`trained_on` for a network that is trained on `data`.

    Args:
        earlier: `trained_on` of the starting weights.
        roots: the folders of `data`, if several were merged.
        prints: `fingerprints` of the training images, if already computed.
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
    """`trained_on` from a checkpoint's content; None if missing (older or foreign files) or malformed."""
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
    """The number of tracks of a video sequence that a network was trained on, by the `identities.csv` of `crops`."""
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
    """`trained_on` in words, the latest dataset first."""
    if trained_on is None:
        return "does not record its training data"
    sets = reversed(trained_on["sets"])
    told = [
        f"{one_line(one['data_dir'])} ({counted(one['identities'], 'identity')}, {counted(one['images'], 'image')})"
        for one in sets
    ]
    return "trained on " + ", and before on ".join(told)


def people_met(trained_on: dict | None, class_names: Iterable[str], data: ReIDData, workers: int = 8) -> set[int]:
    """The pids of test identities in `data` that the network was trained on.

    An identity counts if one of its images was a training image (by content), or if it has the name of a training
    identity. Names that are only a number count in the same dataset only: other datasets use the same numbers.

    Args:
        class_names: the checkpoint's identities; "<folder>/<name>" if it was trained on several datasets.
        workers: threads that read files.
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
    for folder, _, name in (str(name).rpartition("/") for name in class_names):  # folder "" for a single dataset
        if not name.lstrip("-").isdigit() or (here and folder in ("", root.name)):
            names.add(name)
    return met | {sample.pid for sample in tested if data.names.get(sample.pid) in names}


def fingerprints(paths: Iterable[str], workers: int = 8) -> dict[str, int]:
    """Path -> 64-bit hash of the file's bytes; without files that cannot be read or are too large for an image."""

    def fingerprint(path: str) -> tuple[str, int] | None:
        with suppress(OSError, InputError):
            return path, int.from_bytes(bytes.fromhex(digest(path, LARGEST_FILE)), "little", signed=True)
        return None

    return dict(filter(None, by_threads(fingerprint, list(paths), workers)))
