"""Files and directories, written so that a reader, and a crash, meets the old content or the new, never a part.

Everything here blocks. Refused writes raise OSError with the old content in place.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged

TEMPORARY_PREFIX: Final = ".tmp-"
FILE_MODE: Final = 0o600
DIRECTORY_MODE: Final = 0o700

_BLOCK: Final = 4096
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def read(path: Path) -> bytes | None:
    """The content of a file, or None if there is none.

    Raises:
        StoredDataDamaged: There is a file, and the medium does not give its content, or it is not to be trusted.
        StorageUnavailable: The process or the machine is out of file descriptors or memory.
    """
    try:
        with path.open("rb") as file:
            check_trust(path, file.fileno())
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as fault:
        raise unreadable(path, fault) from fault


def check_trust(path: Path, descriptor: int) -> None:
    """Refuse an open file that somebody else may have written: another user's, or one that every user may write.

    Raises:
        StoredDataDamaged: It is such a file.
    """
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid():
        raise StoredDataDamaged(str(path), f"belongs to user {status.st_uid}, not to user {os.geteuid()}")
    if status.st_mode & stat.S_IWOTH:
        raise StoredDataDamaged(str(path), f"may be written by every user (mode {stat.S_IMODE(status.st_mode):04o})")


def unreadable(path: Path, fault: OSError) -> StoredDataDamaged | StorageUnavailable:
    """The error that a refused read stands for."""
    if fault.errno in _EXHAUSTED:
        return StorageUnavailable(describe(fault))
    return StoredDataDamaged(str(path), fault.strerror or type(fault).__name__)


def describe(fault: OSError) -> str:
    """An operating system's error, for the operator's log."""
    return f"{fault.strerror or type(fault).__name__}: {fault.filename}" if fault.filename else str(fault)


def write(path: Path, content: bytes, staging: Path | None = None) -> None:
    """Replace or create a file, atomically and durably.

    Two writers of one path must exclude each other. A temporary file that a crash left is taken over by the next
    write to the same path. It lies beside the file; or in `staging`, a directory in one above the file: so all that
    crashes left of such writes lies in one place.
    """
    previous = read(path)
    temporary = temporary_path(path, staging)
    try:
        _write_new(temporary, content)
        temporary.rename(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    try:
        sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):
            _put_back(path, previous, temporary)
        raise


def write_parts(path: Path, parts: Iterable[bytes]) -> None:
    """Create a file in a directory that nobody else knows of yet, durably. What a fault left of it stays there."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        for part in parts:
            write_all(descriptor, part)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(path.parent)


def temporary_path(path: Path, staging: Path | None = None) -> Path:
    """Where the next content of `path` is prepared: beside it, or in `staging`."""
    if staging is None:
        return path.with_name(TEMPORARY_PREFIX + path.name)
    return staging / (TEMPORARY_PREFIX + "-".join(path.relative_to(staging.parent).parts))


def create_marker(path: Path) -> None:
    """Create an empty file whose name is all it says, durably. One that is there already is no error."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
    sync_directory(path.parent)


def write_all(descriptor: int, content: bytes) -> None:
    """Write all of `content`, however many calls it takes."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def try_writing(directory: Path) -> None:
    """Write a block to a file in a directory, durably. The file is gone whatever happens meanwhile."""
    # It never has a name where the file system can do that; else it has none any more when this returns.
    with tempfile.TemporaryFile(dir=directory) as file:
        write_all(file.fileno(), bytes(_BLOCK))
        os.fsync(file.fileno())


def make_directory(path: Path) -> None:
    """Make a directory that only this user may enter, with its parents, durably.

    One that exists is no error. It is made durable too: whoever made it may have died before, or not have come so far.
    """
    if not path.is_dir():
        if not path.parent.is_dir():
            make_directory(path.parent)
        with suppress(FileExistsError):
            path.mkdir(DIRECTORY_MODE)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def names_in(path: Path) -> list[str]:
    """The names in a directory, in no order; none if there is no such directory."""
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries]
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it, or a file. A missing one is no error."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        path.unlink(missing_ok=True)


def _write_new(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _put_back(path: Path, previous: bytes | None, temporary: Path) -> None:
    if previous is None:
        path.unlink()
        return
    _write_new(temporary, previous)
    temporary.rename(path)
