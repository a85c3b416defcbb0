"""Files and folders that are written whole or not at all, and folders that one run at a time writes to."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from appearance.cli import InputError

UNFINISHED = ".unfinished"  # how the names of hidden folders end in which something is being written


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], None]) -> None:
    """Call `write(file)` on a file `beside` `path`, then put it in place in one step.

    The old file stays whole until the new one is safely on disk: a crash, a kill or a full disk never costs it.

    Raises:
        InputError: the folder cannot be written or the disk is full.
    """
    with explained(path), beside(path) as new, open(new, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: str | os.PathLike, text: str) -> None:
    """`atomic_write` of a text, in UTF-8; names in it need not be."""
    atomic_write(path, lambda file: file.write(text.encode(errors="backslashreplace")))


@contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
    """Turns what is said of a folder that cannot be written, or of a full disk, into an InputError about `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer, of its own or about the system's error
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError) and "PytorchStreamWriter" not in str(error):
            raise
        reason = getattr(cause, "strerror", None) or "the disk may be full"
        raise InputError(
            f"{path}: cannot be written ({reason}); choose another folder. What was there before is unchanged"
        ) from None


@contextmanager
def beside(path: str | os.PathLike, replace: bool = False) -> Iterator[Path]:
    """The path for a new file or folder, which is put in the place of `path` when the context ends well.

    It lies in a hidden folder beside `path`, which goes away however the context ends: an interrupted program leaves
    nothing half-written. What a killed one leaves is removed by the next that writes into the same folder.

    Args:
        replace: a folder with content at `path` is replaced, as a file or an empty folder always is.

    Raises:
        OSError: the folder cannot be written, or `path` is a folder with content by then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(path.parent)
    hidden, lock = _hidden_folder(path)
    try:
        new = hidden / path.name  # one level down, so that its permissions are the usual ones
        yield new
        if replace and path.is_dir():
            os.replace(path, hidden / f"{path.name}.old")
        os.replace(new, path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def claimed(folder: Path, patience: float = 10.0) -> Iterator[None]:
    """Make `folder` and keep other runs out of it for as long as this process lives, however it ends.

    Args:
        patience: seconds to wait for a run that is just ending (a killed one's helpers live on for a moment).

    Raises:
        InputError: the folder cannot be written, or another run is writing to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"--output {folder}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        lock = _lock(folder, patience)
    except BlockingIOError:
        raise InputError(
            f"--output {folder}: another run is writing to it; wait for it, or choose another folder"
        ) from None
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def _hidden_folder(path: Path) -> tuple[Path, int | None]:
    """A new folder beside `path`, and the lock that says for as long as this process lives that somebody needs it."""
    folder = Path(tempfile.mkdtemp(UNFINISHED, f".{path.name}.", path.parent))
    try:
        lock = _lock(folder)
    except (BlockingIOError, FileNotFoundError):  # another process was faster, and took it for a killed one's
        return _hidden_folder(path)
    if lock is not None and not folder.exists():
        os.close(lock)
        return _hidden_folder(path)
    return folder, lock


def _remove_unfinished(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`."""
    for leftover in folder.glob(f".*{UNFINISHED}"):
        try:
            lock = _lock(leftover)
        except OSError:  # its process lives, or has just removed it
            continue
        if lock is not None:
            for old in leftover.glob("*.old"):  # killed between the two steps of `beside(replace=True)`
                if not (place := folder / old.name.removesuffix(".old")).exists():
                    os.replace(old, place)
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path, patience: float = 0.0) -> int | None:
    """A handle that holds the lock of a folder until it is closed, at the latest with the process.

    None where folders cannot be locked: other systems, some network drives.

    Args:
        patience: seconds to wait for another process that holds it.

    Raises:
        BlockingIOError: another process holds it.
        OSError: there is no such folder.
    """
    try:
        import fcntl
    except ImportError:
        return None
    handle, deadline = os.open(folder, os.O_RDONLY), time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(handle)
                raise
            time.sleep(0.2)
        except OSError:
            os.close(handle)
            return None
