"""Files and folders that are written whole or not at all, and folders that a run keeps for itself."""

import errno
import glob
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from appearance.cli import InputError

UNFINISHED = ".unfinished"  # how the names of hidden folders end in which something is being written
RESCUED = "-rescued-"  # in the names of folders with what could not be written where it belongs

_held: dict[Path, tuple[int, int] | None] = {}  # the folders of `held`, with their device and inode


class FolderLost(InputError):
    """A folder of `held` was deleted or unmounted; there may be another in its place."""


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], None]) -> None:
    """Call `write(file)` on a file `beside` `path`, then put it in place in one step.

    The old file stays whole until the new one is safely on disk: a crash, a kill or a full disk never costs it.

    Raises:
        FolderLost: the folder was `held` and is lost; it is not made anew.
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
        _refuse_lost(Path(path).parent)
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
        FolderLost: the folder that it lies in was `held` and is lost; it is not made anew.
        OSError: the folder cannot be written or was lost meanwhile, or `path` is a folder with content by then.
    """
    path = Path(path)
    make_folder(path.parent)
    _remove_unfinished(path.parent)
    hidden, lock = _hidden_folder(path)
    begun = _identity(hidden)
    try:
        new = hidden / path.name  # one level down, so that its permissions are the usual ones
        yield new
        _refuse_lost(path.parent)
        if _identity(hidden) != begun:  # a writer that makes missing folders has written a part of it into a new one
            raise OSError(errno.ENOENT, "its folder was deleted or unmounted meanwhile", str(path))
        if replace and path.is_dir():
            os.replace(path, hidden / f"{path.name}.old")
        os.replace(new, path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def make_folder(folder: Path) -> None:
    """Make the folder if need be, but none of `held`: raises FolderLost where that is lost."""
    if folder in _held:
        _refuse_lost(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)


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
        with held(folder):
            yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def held(folder: str | os.PathLike) -> Iterator[None]:
    """Make `folder`, and refuse within the context to write into it once it is deleted, moved away or unmounted.

    Else work would go on, with nobody the wiser, in a folder made anew or on the disk below a mount point.

    Raises:
        InputError: the folder cannot be made.
    """
    folder, before, handle = Path(folder), dict(_held), None
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # systems that do not open folders
        handle = os.open(folder, os.O_RDONLY)  # keeps its inode from being given to another folder
    _held[folder] = _identity(folder)
    try:
        yield
    finally:
        _held.clear()
        _held.update(before)
        if handle is not None:
            os.close(handle)


def save_elsewhere(lost: str | os.PathLike, write: Callable[[Path], None]) -> Path | None:
    """Call `write(folder)` with a new folder to replace the lost one, and return it.

    It lies in the current folder, or else in the temporary one; None where neither can be written.
    """
    for parent in (os.getcwd, tempfile.gettempdir):
        with suppress(OSError, InputError):
            folder = Path(tempfile.mkdtemp(prefix=f"{Path(lost).name}{RESCUED}", dir=parent()))
            try:
                write(folder)
            except (OSError, InputError):
                shutil.rmtree(folder, ignore_errors=True)
                raise
            return folder
    return None


def saved_elsewhere(lost: str | os.PathLike) -> list[Path]:
    """The folders of `save_elsewhere`."""
    found = []
    for parent in (os.getcwd, tempfile.gettempdir):
        with suppress(OSError):
            found += Path(parent()).glob(f"{glob.escape(Path(lost).name)}{RESCUED}*")
    return found


def _identity(folder: str | os.PathLike) -> tuple[int, int] | None:
    """What tells a folder from another one of its name; None where it cannot be reached."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _refuse_lost(folder: Path) -> None:
    """Raises FolderLost where a folder of `held` is no longer the same."""
    if folder in _held and _identity(folder) != _held[folder]:
        raise FolderLost(f"{folder}: was deleted or unmounted in mid-run")


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
