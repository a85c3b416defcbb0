"""Files that are written whole or not at all, and folders that one run at a time writes to."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from appearance.cli import InputError


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], None]) -> None:
    """Call `write(file)` on a temporary file beside `path`, then put it in place in one step.

    The old file stays whole until the new one is safely on disk: a crash, a kill or a full disk never costs it.

    Raises:
        InputError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another output folder") from None
    try:
        with explained(path):
            with os.fdopen(handle, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes private files; a checkpoint is an ordinary one
            os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what is said of a disk that takes no more while a file for `path` is written into an InputError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer, of its own or about the system's error
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError) and "PytorchStreamWriter" not in str(error):
            raise
        reason = getattr(cause, "strerror", None) or "the disk may be full"
        raise InputError(f"{path}: could not be saved ({reason}); what was there before is unchanged") from None


@contextmanager
def beside(path: str | os.PathLike) -> Iterator[Path]:
    """The path for a new file or folder, which is put in the place of `path` when the context ends well.

    It lies in a hidden folder beside `path`, which goes away however the context ends: an interrupted program leaves
    nothing half-written. A file or an empty folder at `path` is replaced.

    Raises:
        OSError: the folder cannot be written, or `path` is a folder with content by then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        new = Path(folder, path.name)  # one level down, so that its permissions are the usual ones
        yield new
        os.replace(new, path)


@contextmanager
def claimed(folder: Path, patience: float = 10.0) -> Iterator[None]:
    """Make `folder` and keep other runs out of it for as long as this process lives, however it ends.

    What a killed run left half-written there is removed.

    Args:
        patience: seconds to wait for a run that is just ending (a killed one's helpers live on for a moment).

    Raises:
        InputError: the folder cannot be written, or another run is writing to it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"--output {folder}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        _lock(handle, folder, time.monotonic() + patience)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, folder: Path, deadline: float) -> None:
    with suppress(ImportError, OSError):  # other systems and some network drives cannot lock folders
        import fcntl

        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise InputError(
                        f"--output {folder}: another run is writing to it; wait for it, or choose another folder"
                    ) from None
                time.sleep(0.2)
