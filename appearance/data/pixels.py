"""Decode and resize every image once, and keep the uint8 pixels for all epochs."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from appearance.cli import InputError
from appearance.data.images import unreadable
from appearance.distributed import World
from appearance.files import beside
from appearance.machine import by_threads, data_folder, free_memory
from appearance.progress import progress

RAM_SHARE = 0.25  # fraction of the free memory that `auto` uses for pixels


def load(images, cache: str, workers: int, shared: bool = False, folder: str | os.PathLike | None = None) -> Tensor:
    """The pixels of all N images: (N, 3, H, W) uint8.

    Args:
        images: `datasets.PersonImages`; item i is ((3, H, W) uint8, label).
        cache: "ram": in memory; "disk": a memory-mapped file in `folder`, written once and reused by later runs;
            "auto": in memory if RAM_SHARE of the free memory suffices.
        workers: decoding threads.
        shared: several processes on this machine need the same pixels; "auto" then means "disk", which they share.
        folder: for cache files (default: `cache` in `machine.data_folder()`).

    Raises:
        InputError: an image cannot be read, or the cache folder cannot be written.
    """
    shape = (len(images), 3, images.height, images.width)
    if cache == "auto":
        cache = "disk" if shared or np.prod(shape, dtype=np.int64) > RAM_SHARE * free_memory() else "ram"
    if cache == "ram":
        pixels = np.empty(shape, np.uint8)
        _decode(images, pixels, workers)
        return torch.from_numpy(pixels)

    path = Path(folder or data_folder() / "cache") / f"pixels-{_key(images)}.npy"
    pixels = _mapped(path, shape)
    if pixels is None:
        _write(images, path, shape, workers)
        pixels = _mapped(path, shape)
    return torch.from_numpy(pixels)


def memory_for_images(cache: str, world: World) -> float:
    """Bytes in which this process may keep decoded full-size images; 0 with cache "disk" and "none"."""
    return RAM_SHARE * free_memory() / world.size if cache in ("auto", "ram") else 0


def load_shared(images, cache: str, workers: int, world: World) -> Tensor | None:
    """`load` on all ranks; None with cache "none", where images are decoded every epoch.

    The first rank of each machine writes the cache file, the others wait and read it.
    """
    if cache == "none":
        return None
    shared = world.size > 1
    if shared and world.local_rank:
        world.barrier()
    loaded = load(images, cache, workers, shared)
    if shared and not world.local_rank:
        world.barrier()
    return loaded


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The cache file as a memory-mapped array; None if missing, incomplete or of another shape."""
    try:
        pixels = np.load(path, mmap_mode="c")  # copy-on-write: torch warns about read-only memory
    except (OSError, ValueError, EOFError):
        return None
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None


def _write(images, path: Path, shape: tuple[int, ...], workers: int) -> None:
    """Decode into a temporary file, then rename, so that a crash or a second writer leaves no broken cache."""
    try:
        with beside(path) as temporary:
            pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            if hasattr(os, "posix_fallocate"):  # else a full disk would kill the process (SIGBUS)
                with open(temporary, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, os.path.getsize(temporary))
            _decode(images, pixels, workers)
            pixels.flush()
    except OSError as error:
        raise InputError(
            f"--cache disk: cannot write to {path.parent} ({error.strerror}); set APPEARANCE_DATA to another folder, "
            "or use --cache none"
        ) from None


def _decode(images, pixels: np.ndarray, workers: int) -> None:
    """Fill `pixels`, with threads: decoding releases the GIL.

    Raises:
        InputError: some images cannot be read; lists them, after trying all.
    """

    def decode(row: int) -> str | None:
        try:
            pixels[row] = images[row][0].numpy()
        except InputError as error:
            return str(error)
        return None

    done = by_threads(decode, range(len(images)), workers)
    what = f"decoding {images.width}x{images.height}"
    bar = progress(done, total=len(images), desc=what, unit="img")
    broken = [error for error in bar if error]
    if broken:
        raise InputError(unreadable(broken, len(images)))


def _key(images) -> str:
    """Hash of everything the pixels depend on: path, size and modification time of each file, and the input size."""
    files = []
    for path, _ in images.samples:
        try:
            status = os.stat(path)
        except OSError:
            raise InputError(
                f"{path}: no such file, or a broken link; `python datasets.py check` lists all such images"
            ) from None
        files.append((os.path.abspath(path), status.st_size, status.st_mtime_ns))
    content = json.dumps([1, images.height, images.width, files]).encode()
    return hashlib.blake2b(content, digest_size=12).hexdigest()
