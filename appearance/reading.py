"""Read untrusted files safely.

A path may lead to a named pipe that blocks, a device that never ends, or a small file that unpacks to gigabytes. So
only ordinary files are opened, and only if their content fits into memory.
"""

import hashlib
import os
import stat
import zipfile

import numpy as np
import torch
from torch import Tensor

from appearance.cli import InputError
from appearance.machine import free_memory

LARGEST_TEXT = 1 << 30  # bytes of a text file
UNPACKED = 50  # largest compression ratio that is accepted
SMALL = 64 << 20  # bytes that a file may unpack to at any ratio
MATLAB_NUMBERS = {  # numeric class -> bytes per element
    "double": 8,
    "single": 4,
    "logical": 1,
    **{f"{sign}int{8 * n}": n for sign in ("", "u") for n in (1, 2, 4, 8)},
}
KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def size_of(path: str | os.PathLike, most: int | None = None) -> int:
    """The size of a file in bytes, without opening it.

    Args:
        most: largest accepted size in bytes. None: the free memory.

    Raises:
        InputError: the file is missing, not an ordinary file, or larger than `most`.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, or a broken link") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:  # a zero in the name
        raise InputError(f"{path}: cannot be read (not a valid file name)") from None
    for is_kind, name in KINDS:
        if is_kind(found.st_mode):
            raise InputError(f"{path}: is {name}; give an ordinary file")
    most = free_memory() if most is None else most
    if found.st_size > most:
        raise InputError(f"{path}: has {found.st_size:,} bytes, more than the {most:,} that can be read")
    return found.st_size


def text_of(path: str | os.PathLike, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of a file.

    Raises:
        InputError: as `size_of`, or the file cannot be opened or has another encoding.
    """
    size = size_of(path, LARGEST_TEXT)
    try:
        with open(path, "rb") as file:
            return file.read(size).decode(encoding, errors)  # with a limit, as system files may never end
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not {encoding.removesuffix('-sig').upper()} text ({error})") from None


def digest(path: str | os.PathLike, most: int | None = None) -> str:
    """A 64-bit hash of a file's content, as 16 hexadecimal digits. Raises InputError as `size_of`."""
    left, found = size_of(path, most), hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            found.update(part)
            left -= len(part)
    return found.hexdigest()


def refuse_bomb(path: str | os.PathLike, compressed: bool = True) -> None:
    """Raise InputError if a zip file (torch, numpy) unpacks to far more than its size.

    Args:
        compressed: whether the file may be compressed at all; torch files never are.
    """
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
            unpacked, packed = (sum(getattr(one, name) for one in entries) for name in ("file_size", "compress_size"))
    except Exception:  # not a zip file, or broken: its reader reports that
        return
    if unpacked > packed and not compressed:
        raise InputError(f"{path}: refused: the file is compressed, which torch files never are")
    if unpacked > max(SMALL, UNPACKED * packed) or unpacked > free_memory():
        raise InputError(f"{path}: refused: {packed:,} bytes unpack to {unpacked:,}")


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is dense and all its elements are in memory: not sparse, nested, quantized, meta or expanded."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def matlab_arrays(path: str | os.PathLike, names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The numeric arrays of a MATLAB file, or only those called `names`.

    Raises:
        ImportError: scipy is missing.
        InputError: as `size_of`, or the file is broken or too large when unpacked.
    """
    from scipy.io import loadmat, whosmat

    packed = size_of(path)
    try:
        told = {name: (shape, kind) for name, shape, kind in whosmat(path)}
        wanted = [name for name, (_, kind) in told.items() if kind in MATLAB_NUMBERS and name in (names or told)]
        unpacked = sum(int(np.prod(told[name][0], dtype=object)) * MATLAB_NUMBERS[told[name][1]] for name in wanted)
        if unpacked <= min(max(SMALL, UNPACKED * packed), free_memory()):
            return {name: value for name, value in loadmat(path, variable_names=wanted).items() if name in wanted}
    except Exception as error:  # scipy raises almost anything on a broken file
        raise InputError(f"{path}: cannot be read as a MATLAB file ({error})") from None
    raise InputError(f"{path}: refused: {packed:,} bytes unpack to {unpacked:,}")
