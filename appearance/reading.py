"""Files that somebody else may have made: what is opened, and how much of it is taken into memory.

A name in a folder, in a list or in another file can stand for anything: a named pipe, which nobody ever writes to, a
device that never ends, a few bytes that unpack to gigabytes. So only ordinary files are opened, of a size that fits.
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

LARGEST_TEXT = 1 << 30  # bytes of a table, a list or a description
UNPACKED = 50  # times its size, up to which a file may unpack; what is compressed otherwise is made of zeros
SMALL = 64 << 20  # bytes that any file may unpack to
MATLAB_NUMBERS = {
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
    """The size of an ordinary file in bytes, before anything opens it.

    Args:
        most: bytes that it may have. None: as many as there is free memory.

    Raises:
        InputError: it is missing, no ordinary file, or larger; names it.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file, or a broken link") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:  # a zero in the name
        raise InputError(f"{path}: cannot be read (no possible name)") from None
    for is_kind, name in KINDS:
        if is_kind(found.st_mode):
            raise InputError(f"{path}: is {name}, not a file that can be read")
    most = free_memory() if most is None else most
    if found.st_size > most:
        raise InputError(f"{path}: {found.st_size:,} bytes are more than the {most:,} that can be read")
    return found.st_size


def text_of(path: str | os.PathLike, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of an ordinary file.

    Raises:
        InputError: as `size_of`; or it cannot be opened, or is of another encoding.
    """
    size = size_of(path, LARGEST_TEXT)
    try:
        with open(path, "rb") as file:
            return file.read(size).decode(encoding, errors)  # no further: files of the system may never end
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from None


def digest(path: str | os.PathLike, most: int | None = None) -> str:
    """16 hexadecimal digits that tell the content of an ordinary file; errors as of `size_of`."""
    left, found = size_of(path, most), hashlib.blake2b(digest_size=8)
    with open(path, "rb") as file:
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            found.update(part)
            left -= len(part)
    return found.hexdigest()


def refuse_bomb(path: str | os.PathLike, compressed: bool = True) -> None:
    """Raises InputError where a zip file would unpack to far more than itself, or is compressed and may not be."""
    try:
        with zipfile.ZipFile(path) as file:
            entries = file.infolist()
            unpacked, packed = (sum(getattr(one, name) for one in entries) for name in ("file_size", "compress_size"))
    except Exception:  # no zip file, or a broken one: for its reader to say
        return
    if unpacked > packed and not compressed:
        raise InputError(f"{path}: refused: its contents are compressed, as torch never writes them")
    if unpacked > max(SMALL, UNPACKED * packed) or unpacked > free_memory():
        raise InputError(f"{path}: refused: its {packed:,} bytes unpack to {unpacked:,}")


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is numbers in memory, all of them there: not sparse, nested, or one number under many names."""
    if tensor.is_nested or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def matlab_arrays(path: str | os.PathLike, names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The numeric arrays of a MATLAB file, or those of these names.

    Raises:
        ImportError: scipy is missing.
        InputError: as `size_of`; or the file is broken, or its arrays are larger than the memory.
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
    raise InputError(f"{path}: refused: its {packed:,} bytes unpack to {unpacked:,}")
