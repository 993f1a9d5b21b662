"""The calls by which a storage changes its folder, so that a test can count, record, refuse or not survive each.

The store reaches its medium through functions of `os` (and `io.open` to read); `intercepted` puts a handler in front of
them, for calls that concern one folder and no others.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

CHANGES: Final = (
    "fdatasync",
    "fsync",
    "ftruncate",
    "link",
    "mkdir",
    "pwrite",
    "remove",
    "rename",
    "replace",
    "rmdir",
    "symlink",
    "truncate",
    "unlink",
    "write",
    "writev",
)
READS: Final = ("pread", "scandir")
_BY_DESCRIPTOR: Final = frozenset({"fdatasync", "fsync", "ftruncate", "pread", "pwrite", "write", "writev"})
_FOR_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True, slots=True)
class Call:
    """One call.

    `path` is what it concerns (of a rename, the old name); `name` is "read" for opening a file by `io.open`.
    """

    name: str
    path: str
    args: tuple[Any, ...]
    go_on: Callable[..., Any]

    @property
    def changes(self) -> bool:
        """Whether the call may change what is stored or make it durable."""
        return self.name in CHANGES or (self.name == "open" and bool(self.args[1] & _FOR_WRITING))

    @property
    def moves(self) -> bool:
        """Whether the call changes what a process that comes later sees, be the medium in time or not."""
        match self.name:
            case "fsync" | "fdatasync":
                return False
            case "open":
                return self.changes and (bool(self.args[1] & os.O_TRUNC) or not os.path.lexists(self.path))
            case "unlink" | "remove" | "rmdir":
                return os.path.lexists(self.path)
            case _:
                return self.changes

    def complete(self) -> Any:
        """Do what was asked for."""
        return self.go_on()

    def write_half(self) -> Any:
        """Of a write: do the first half of it. Gives how much was written."""
        return self.go_on(self.args[0], self.args[1][: len(self.args[1]) // 2])


Handler = Callable[[Call], Any]


@contextmanager
def intercepted(root: Path, handler: Handler) -> Iterator[None]:
    """Let `handler` answer each call that concerns `root` or what is in it."""
    names = ("open", *READS, *CHANGES)
    real = {name: getattr(os, name) for name in names}
    real_open = io.open
    prefix = str(root)

    def concerns(path: str) -> bool:
        return path == prefix or path.startswith(prefix + "/")

    def intercept(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            path = _path(name, args, kwargs)
            if not concerns(path):
                return real[name](*args, **kwargs)

            def go_on(*other: Any) -> Any:
                return real[name](*(other or args), **kwargs)

            return handler(Call(name, path, args, go_on))

        return call

    def open_file(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if isinstance(file, int) or not concerns(str(Path(file).absolute())):
            return real_open(file, mode, *args, **kwargs)
        if kwargs.get("opener") is not None:
            return real_open(file, mode, *args, **kwargs)
        if set(mode) & set("wax+"):
            raise AssertionError(f"{file} is written beside the functions that the suite knows")
        return handler(Call("read", os.fspath(file), (), lambda: real_open(file, mode, *args, **kwargs)))

    try:
        for name in names:
            setattr(os, name, intercept(name))
        io.open = open_file
        yield
    finally:
        io.open = real_open
        for name, function in real.items():
            setattr(os, name, function)


def without_syncing(call: Call) -> Any:
    """A handler that leaves out each fsync.

    Killing a process loses nothing that it wrote, synced or not, so a test of that need not wait for the medium.
    """
    return None if call.name in ("fsync", "fdatasync") else call.complete()


@contextmanager
def unsynced() -> Iterator[None]:
    """Leave out each fsync of this process, as `without_syncing` does, where no call has to be looked at."""
    real = os.fsync, os.fdatasync

    def nothing(_: int) -> None:
        return None

    os.fsync = os.fdatasync = nothing  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync, os.fdatasync = real


def _path(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    first: Any = args[0] if args else "."
    if name in _BY_DESCRIPTOR or isinstance(first, int):
        return _of_descriptor(first)
    directory = kwargs.get("dir_fd", kwargs.get("src_dir_fd"))
    path = os.fsdecode(first)
    if directory is not None:
        return f"{_of_descriptor(directory)}/{path}"
    return str(Path(path).absolute())


def _of_descriptor(descriptor: int) -> str:
    with suppress(OSError):
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    return ""
