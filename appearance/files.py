"""Write files and folders atomically; lock an output folder against a second run, and notice when it is lost."""

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

UNFINISHED = ".unfinished"  # suffix of hidden temporary folders
RESCUED = "-rescued-"  # in the names of folders that replace a lost output folder

_held: dict[Path, tuple[int, int] | None] = {}  # output folders of `held`: device and inode


class FolderLost(InputError):
    """An output folder of `held` was deleted or unmounted, or is another folder now."""


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], None]) -> None:
    """Call `write(file)` on a temporary file, then rename it to `path`.

    The old file stays until the new one is on disk, even after a crash, a kill or with a full disk.

    Raises:
        FolderLost: the folder is one of `held` and is lost.
        InputError: the folder cannot be written, or the disk is full.
    """
    with explained(path), beside(path) as new, open(new, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())


def write_text(path: str | os.PathLike, text: str) -> None:
    """`atomic_write` of a text in UTF-8; characters that UTF-8 cannot encode (in file names) are escaped."""
    atomic_write(path, lambda file: file.write(text.encode(errors="backslashreplace")))


@contextmanager
def explained(path: str | os.PathLike) -> Iterator[None]:
    """Context that turns write errors (no permission, full disk) into an InputError about `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer, with or without the OSError as context
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError) and "PytorchStreamWriter" not in str(error):
            raise
        _refuse_lost(Path(path).parent)
        reason = getattr(cause, "strerror", None) or "the disk may be full"
        raise InputError(
            f"{path}: cannot be written ({reason}); choose another folder (an existing file is unchanged)"
        ) from None


@contextmanager
def beside(path: str | os.PathLike, replace: bool = False) -> Iterator[Path]:
    """Context with a temporary path for a new file or folder, which is renamed to `path` if the context succeeds.

    The temporary path is in a hidden folder next to `path`, which is removed in any case. After a kill, the next write
    into the same folder removes it.

    Args:
        replace: also replace a folder with content; files and empty folders always are.

    Raises:
        FolderLost: the folder is one of `held` and is lost.
        OSError: the folder cannot be written or was lost meanwhile, or `path` is a folder with content (without
            `replace`).
    """
    path = Path(path)
    make_folder(path.parent)
    _remove_unfinished(path.parent)
    hidden, lock = _hidden_folder(path)
    begun = _identity(hidden)
    try:
        new = hidden / path.name  # one level down: mkdtemp's own folder has private permissions
        yield new
        _refuse_lost(path.parent)
        if _identity(hidden) != begun:  # the writer may have made the folder again, with a part of the content only
            raise OSError(errno.ENOENT, "its folder was deleted or unmounted meanwhile", str(path))
        if replace and path.is_dir():
            os.replace(path, hidden / f"{path.name}.old")
        os.replace(new, path)
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def make_folder(folder: Path) -> None:
    """Create the folder if it is missing; a folder of `held` is never created again, but raises FolderLost."""
    if folder in _held:
        _refuse_lost(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def claimed(folder: Path, patience: float = 10.0) -> Iterator[None]:
    """Context that creates an output folder and locks it against other runs, at most until this process ends.

    Args:
        patience: seconds to wait for the lock: the workers of a killed run end a moment later.

    Raises:
        InputError: the folder cannot be written, or another run holds the lock.
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
            f"--output {folder}: another run is writing to this folder; wait until it ends, or choose another folder"
        ) from None
    try:
        with held(folder):
            yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def held(folder: str | os.PathLike) -> Iterator[None]:
    """Context that creates `folder` and refuses to write into it once it was deleted, moved away or unmounted.

    Otherwise a run would silently go on in a new folder, or on the disk below a mount point.

    Raises:
        InputError: the folder cannot be created.
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
    """Call `write(folder)` with a new folder that replaces the lost one; returns that folder.

    It is in the current folder or, if that cannot be written, in the temporary folder. None if neither can be written.
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
    """The folders that `save_elsewhere` has made for this lost folder."""
    found = []
    for parent in (os.getcwd, tempfile.gettempdir):
        with suppress(OSError):
            found += Path(parent()).glob(f"{glob.escape(Path(lost).name)}{RESCUED}*")
    return found


def _identity(folder: str | os.PathLike) -> tuple[int, int] | None:
    """Device and inode, by which a folder differs from a new one of the same name; None if there is no such folder."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _refuse_lost(folder: Path) -> None:
    """Raises FolderLost if `folder` is one of `held` and no longer the same."""
    if folder in _held and _identity(folder) != _held[folder]:
        raise FolderLost(f"{folder}: was deleted or unmounted in mid-run")


def _hidden_folder(path: Path) -> tuple[Path, int | None]:
    """A new hidden folder next to `path`, and its lock, which shows other processes that it is in use."""
    folder = Path(tempfile.mkdtemp(UNFINISHED, f".{path.name}.", path.parent))
    try:
        lock = _lock(folder)
    except (BlockingIOError, FileNotFoundError):  # another process took it for a leftover before it was locked
        return _hidden_folder(path)
    if lock is not None and not folder.exists():
        os.close(lock)
        return _hidden_folder(path)
    return folder, lock


def _remove_unfinished(folder: Path) -> None:
    """Remove the temporary folders of killed processes in `folder`."""
    for leftover in folder.glob(f".*{UNFINISHED}"):
        try:
            lock = _lock(leftover)
        except OSError:  # in use, or just removed
            continue
        if lock is not None:
            for old in leftover.glob("*.old"):  # killed between the two steps of `beside(replace=True)`
                if not (place := folder / old.name.removesuffix(".old")).exists():
                    os.replace(old, place)
            shutil.rmtree(leftover, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path, patience: float = 0.0) -> int | None:
    """Lock a folder. Returns a file descriptor that holds the lock until it is closed or the process ends.

    None if folders cannot be locked here (Windows, some network drives).

    Args:
        patience: seconds to wait while another process holds the lock.

    Raises:
        BlockingIOError: another process holds the lock.
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
