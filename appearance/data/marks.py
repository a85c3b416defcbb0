"""Detect whether two processes, or a run and its resumption, see the same dataset, with a 64-bit hash per image.

The hash covers the path below the dataset's root, identity, camera, tracklet, and the file size (or a fingerprint of
the content, if known). So no image is opened, and the dataset may be in different folders on different machines.
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
    """The hash of each image of a dataset.

    Args:
        roots: the dataset's folders, if several were merged.
        contents: path -> fingerprint of the file (`provenance.fingerprints`), where known.
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
    """How `data` (with hashes `found`) differs from the dataset with hashes `wanted`, in words; "" if it does not."""
    for split, samples in data.splits().items():
        theirs, own = wanted[split], found[split]
        if torch.equal(theirs, own):
            continue
        known = torch.isin(own, theirs).tolist()
        others = [sample.path for sample, one in zip(samples, known, strict=True) if not one]
        if others:
            named = few([_name(path, [str(data.root)]) for path in others])
            return f"{split}: {len(others):,} of {len(samples):,} images differ in name, identity or content: {named}"
        return f"{split}: {len(own):,} images instead of {len(theirs):,}"
    return ""


def are_valid(value: object) -> bool:
    """Whether a value read from a file has the form of `of_data`'s result."""
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
    except OSError:  # reported where images are decoded
        return -1
