"""Samples to pixels, once: every image is decoded and resized to uint8 one time and kept for all epochs."""

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

RAM_SHARE = 0.25  # of the memory that is free: `auto` keeps a set in RAM up to this


def load(images, cache: str, workers: int, shared: bool = False, folder: str | os.PathLike | None = None) -> Tensor:
    """All pixels of `images`: (N, 3, H, W) uint8.

    Args:
        images: what to decode, at its own size.
        cache: "ram" keeps them in memory; "disk" in a memory-mapped file of `folder`, made once and found again by
            its content key; "auto" decides by the free memory.
        workers: decoding threads.
        shared: several processes of this machine want the same pixels; "auto" then takes the file, which they share.
        folder: of cache files; by itself `cache` in `machine.data_folder`.

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
    """Bytes in which a run may keep decoded images beside their pixels; none where they are not to stay in memory."""
    return RAM_SHARE * free_memory() / world.size if cache in ("auto", "ram") else 0


def load_shared(images, cache: str, workers: int, world: World) -> Tensor | None:
    """`load` for all processes of a group at once; None with cache "none", which decodes anew each epoch.

    The first process of each machine writes the cache file, the others find it.
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
    """The cache file as an array that stays on disk, or None where there is no whole one."""
    try:
        pixels = np.load(path, mmap_mode="c")  # copy-on-write: torch wants writable memory, nobody writes
    except (OSError, ValueError, EOFError):
        return None
    return pixels if pixels.shape == shape and pixels.dtype == np.uint8 else None


def _write(images, path: Path, shape: tuple[int, ...], workers: int) -> None:
    """Decode into a file beside, then rename: a crash leaves no half cache, and two writers do not meet."""
    try:
        with beside(path) as temporary:
            pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            if hasattr(os, "posix_fallocate"):  # a disk that fills up under a memory map would kill the process
                with open(temporary, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, os.path.getsize(temporary))
            _decode(images, pixels, workers)
            pixels.flush()
    except OSError as error:
        raise InputError(
            f"--cache disk: {path.parent} cannot hold the pixels ({error.strerror}); set APPEARANCE_DATA to another "
            "folder, or use --cache none"
        ) from None


def _decode(images, pixels: np.ndarray, workers: int) -> None:
    """Fill `pixels` with every image. Threads suffice: decoding releases the interpreter lock.

    Raises:
        InputError: some cannot be read; names them after a look at all.
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
    """What the pixels depend on: every file's path, size and time of change, and the size they are resized to."""
    files = []
    for path, _ in images.samples:
        try:
            status = os.stat(path)
        except OSError:
            raise InputError(f"{path}: missing or a broken link; `python datasets.py check` lists all") from None
        files.append((os.path.abspath(path), status.st_size, status.st_mtime_ns))
    content = json.dumps([1, images.height, images.width, files]).encode()
    return hashlib.blake2b(content, digest_size=12).hexdigest()
