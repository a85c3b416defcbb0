"""Have two processes the same data, or a run and the one that goes on with it? A number for each image tells.

The number is made of the image's name below the folder of its dataset, of identity, camera and tracklet as they were
read, and of the file's size; where somebody has read all bytes anyway, of these instead. So a dataset may lie elsewhere
on another machine, and no image is opened.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from appearance.data.folders import few
from appearance.data.layouts import ReIDData, Sample
from appearance.reading import is_plain

Marks = dict[str, Tensor]  # split -> (N,) int64, in the order of its samples


def of_data(data: ReIDData, roots: Sequence[Path] = (), contents: Mapping[str, int] | None = None) -> Marks:
    """The numbers of a dataset's images.

    Args:
        roots: its folders, where there are several.
        contents: fingerprints of files by their paths (`provenance.fingerprints`), as far as they are known.
    """
    places, contents = [str(root) for root in roots or [data.root]], contents or {}

    def mark(sample: Sample) -> int:
        what = contents.get(sample.path, _size(sample.path))
        told = f"{_name(sample.path, places)}\0{sample.pid}\0{sample.camera}\0{sample.tracklet}\0{what}"
        digest = hashlib.blake2b(told.encode(errors="surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "little", signed=True)

    return {
        split: torch.tensor([mark(sample) for sample in samples], dtype=torch.int64)
        for split, samples in data.splits().items()
    }


def difference(wanted: Marks, found: Marks, data: ReIDData) -> str:
    """In words what is another in `data`, whose marks are `found`, than where `wanted` are from; "" if nothing is."""
    for split, samples in data.splits().items():
        theirs, own = wanted[split], found[split]
        if torch.equal(theirs, own):
            continue
        known = torch.isin(own, theirs).tolist()
        others = [sample.path for sample, one in zip(samples, known, strict=True) if not one]
        if others:
            named = few([_name(path, [str(data.root)]) for path in others])
            return (
                f"{split}: {len(others):,} of {len(samples):,} images are others by name, identity or content: {named}"
            )
        return f"{split}: {len(own):,} images instead of {len(theirs):,}"
    return ""


def are_valid(value: object) -> bool:
    """Whether a value from a file is what `of_data` returns."""
    splits = ReIDData(Path(), "").splits()
    return isinstance(value, dict) and all(
        isinstance(marks := value.get(split), Tensor) and is_plain(marks) and marks.dtype == torch.int64
        for split in splits
    )


def _name(path: str, places: Sequence[str]) -> str:
    for place in places:
        if path.startswith(place + os.sep):
            return path[len(place) + 1 :]
    return os.path.relpath(path, places[0])


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:  # for others to say
        return -1
