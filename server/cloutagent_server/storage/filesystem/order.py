"""The order of projects: a marker for each, named by its position, in directories that stay small.

A marker's path follows from its position alone: `{7 digits}/{3 digits}/{position}`, the digits being the first ones of
the creation time in milliseconds. So a directory holds what was created within 100 seconds, at most 1,000 of these
stand in one of about 28 hours, and no more than a few directories are read for a page, however many projects there
are. Several processes need no lock for it: nothing is ever moved, and a directory that got empty goes only if it still
is. Everything here blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from cloutagent_server.storage import paging
from cloutagent_server.storage.filesystem import files

_OUTER: Final = 7
_INNER: Final = 10

# Each try fails only if another process took an empty directory away between two calls of this one.
_TRIES: Final = 100


class ProjectOrder:
    """The markers under one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, place: str) -> None:
        """Put a project at its place, durably. One that is there already is no error."""
        path = self.path(place)
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):
                files.make_directory(path.parent)
                files.create_marker(path)
                return
        files.create_marker(path)

    def remove(self, place: str) -> None:
        """Take a place away, and the directories that it leaves empty. A missing one is no error."""
        path = self.path(place)
        path.unlink(missing_ok=True)
        with suppress(OSError):
            path.parent.rmdir()
            path.parent.parent.rmdir()

    def has(self, place: str) -> bool:
        """Whether a project stands at this place."""
        return self.path(place).exists()

    def oldest(self, after: str | None, count: int) -> Sequence[str]:
        """The first `count` places, only those behind `after` if it is given."""
        found: list[str] = []
        for names in self._groups(after):
            found += names
            if len(found) >= count:
                break
        return found[:count]

    def all(self) -> Iterator[str]:
        """All places, first to last."""
        for names in self._groups(None):
            yield from names

    def strays(self) -> Iterator[Path]:
        """Whatever lies about that is no marker in the directory that it belongs into."""
        for outer in files.names_in(self._directory):
            if not (self._directory / outer).is_dir():
                yield self._directory / outer
            for inner in files.names_in(self._directory / outer):
                directory = self._directory / outer / inner
                if not directory.is_dir():
                    yield directory
                for name in files.names_in(directory):
                    if not paging.is_position(name) or self.path(name) != directory / name:
                        yield directory / name

    def upgrade(self) -> None:
        """Move the markers of version 1, which stood side by side, to where they belong; durable when it returns.

        What is moved already when a crash ends this stays there, and the next call moves the rest.
        """
        for name in filter(paging.is_position, files.names_in(self._directory)):
            path = self.path(name)
            for directory in (path.parent.parent, path.parent):
                directory.mkdir(files.DIRECTORY_MODE, exist_ok=True)
            (self._directory / name).rename(path)
        # At the end, when it costs little: a file system makes many changes durable at once.
        for outer in files.names_in(self._directory):
            with suppress(NotADirectoryError):
                for inner in files.names_in(self._directory / outer):
                    files.sync_directory(self._directory / outer / inner)
                files.sync_directory(self._directory / outer)
        files.sync_directory(self._directory)

    def path(self, place: str) -> Path:
        """Where the marker of a place lies."""
        return self._directory / place[:_OUTER] / place[_OUTER:_INNER] / place

    def _groups(self, after: str | None) -> Iterator[Sequence[str]]:
        start = after or ""
        for outer in self._names(self._directory, start[:_OUTER]):
            beyond = outer > start[:_OUTER]
            for inner in self._names(self._directory / outer, "" if beyond else start[_OUTER:_INNER]):
                names = files.names_in(self._directory / outer / inner)
                yield sorted(name for name in names if name > start and name.startswith(outer + inner))

    @staticmethod
    def _names(directory: Path, least: str) -> Sequence[str]:
        return sorted(name for name in files.names_in(directory) if name >= least)
