"""The index: short ways to records. Derived from them, written before the record it leads to and removed after it.

An entry may therefore lead to a record that is not there (yet, or any more); whoever follows it looks at the record.
Everything here blocks, but for `known_key`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from heapq import nlargest
from pathlib import Path
from typing import Any, Final

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.storage import paging
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.documents import dump, load
from cloutagent_server.storage.filesystem.order import ProjectOrder
from cloutagent_server.storage.filesystem.schema import DIGEST, Schema
from cloutagent_server.storage.filesystem.unchanged import Unchanged

_ENTRY: Final = Schema(1)
# Directories whose names this process has made durable.
_MOST_KNOWN: Final = 4_096
# Version 1 had the markers of projects side by side.
_INDEX: Final = Schema(2, {1: lambda fields: {**fields, "outdated": True}})
_KEY_CHANGE: Final = Schema(1)


@dataclass(frozen=True, slots=True)
class ExecutionEntry:
    """Where an execution stands: its project, its place among the project's executions, its idempotency key's hash."""

    project_id: str
    place: str
    idempotency_hash: str | None


class Index:
    """The entries under one directory, each a file of its own. Large directories are split by two digits."""

    def __init__(self, directory: Path) -> None:
        """The entries in `directory`; `.staging` beside it is where they are prepared, which every start clears."""
        self._directory = directory
        self._staging = directory.with_name(".staging")
        self._made: set[Path] = set()
        self._version = directory / "version.json"
        self._keys = directory / "keys"
        self._owners = Unchanged[str]()
        self._projects = directory / "projects"
        self._order = ProjectOrder(self._projects)
        self._executions = directory / "executions"
        self._unfinished = directory / "unfinished"
        self._places = directory / "executions-by-project"
        self._idempotency = directory / "idempotency"
        self._key_changes = directory / "key-changes"

    def prepare(self) -> None:
        """Create the directories."""
        for directory in (
            self._keys,
            self._projects,
            self._executions,
            self._unfinished,
            self._places,
            self._idempotency,
            self._key_changes,
        ):
            files.make_directory(directory)

    def clear(self) -> None:
        """Remove all entries; first the note that they are complete, so that a crash leaves none that seem to be."""
        if self._version.exists():
            self._version.unlink()
            files.sync_directory(self._directory)
        files.remove_tree(self._directory)

    def complete(self) -> bool:
        """Whether the index was built to its end and has today's form. Raises StoredDataDamaged if a newer one."""
        return load(self._version, _current) or False

    def outdated(self) -> bool:
        """Whether an earlier version of the server built the index to its end, in its form."""
        return load(self._version, _current) is False

    def upgrade(self) -> None:
        """Bring an outdated index into today's form, except for the note of it: `set_complete` comes last."""
        self._order.upgrade()

    def set_complete(self) -> None:
        """Note that the index leads to every record."""
        files.write(self._version, dump(_INDEX.stamp({})))

    def put_key(self, digest: str, project_id: str) -> None:
        """Let the digest of an API key lead to its project."""
        self._put(self._key(digest), {"projectId": project_id})

    def find_key(self, digest: str) -> str | None:
        """The project that a key's digest leads to."""
        path = self._key(digest)
        return self._owners.read(path, lambda: _get(path, "projectId"))

    def known_key(self, digest: str) -> str | None:
        """What `find_key` found, if nothing has changed since; None otherwise. May be called on the event loop."""
        return self._owners.get(self._key(digest))

    def remove_key(self, digest: str, project_id: str) -> None:
        """Forget a key's digest, unless it leads to another project."""
        _remove_if(self._key(digest), "projectId", project_id)

    def drop_key(self, digest: str) -> None:
        """Forget a key's digest, wherever it leads."""
        _remove(self._key(digest))

    def put_key_change(self, project_id: str, digests: Iterable[str]) -> None:
        """Note, before a project's keys change, the digests that come or go with it."""
        files.make_directory(self._key_changes)
        files.write(self._key_changes / project_id, dump(_KEY_CHANGE.stamp({"digests": sorted(digests)})))

    def key_changes(self) -> Sequence[str]:
        """The projects whose change of keys was noted and not settled, in no order."""
        return list(filter(is_id, files.names_in(self._key_changes)))

    def find_key_change(self, project_id: str) -> Sequence[str]:
        """The digests that a project's noted change concerns; none if there is no such note."""
        return load(self._key_changes / project_id, _key_change) or ()

    def remove_key_change(self, project_id: str) -> None:
        """Take the note away once the change is settled. It need not be durable: settling again changes nothing."""
        _remove(self._key_changes / project_id)

    def remove_unwritten_key_changes(self) -> None:
        """Remove what a crash left of writing such a note."""
        for name in files.names_in(self._key_changes):
            if name.startswith(files.TEMPORARY_PREFIX):
                _remove(self._key_changes / name)

    def put_project(self, created_at: datetime, project_id: str) -> None:
        """Give a project its place in the list."""
        self._order.put(paging.position(created_at, project_id))

    def remove_project(self, project_id: str, created_at: datetime | None) -> None:
        """Take a project, and its executions as a group, out of the lists. It takes longer without `created_at`."""
        if created_at is not None:
            self._order.remove(paging.position(created_at, project_id))
        else:
            for place in self._order.all():
                if place.endswith(project_id):
                    self._order.remove(place)
        files.remove_tree(self._places / project_id)
        files.remove_tree(self._idempotency / project_id)

    def oldest_projects(self, after: str | None, count: int) -> Sequence[str]:
        """The first `count` places of projects, only those behind `after` if it is given."""
        return self._order.oldest(after, count)

    def put_execution(
        self, project_id: str, execution_id: str, created_at: datetime, idempotency_key: str | None
    ) -> None:
        """Let an unfinished execution be found by its identifier, in the lists, and by its idempotency key.

        The mark as unfinished comes first, so that cleaning up after a crash finds whatever else was written.
        """
        place = paging.position(created_at, execution_id)
        entry = {"projectId": project_id, "place": place}
        if idempotency_key is not None:
            entry["idempotencyHash"] = hash_of(idempotency_key)
        files.create_marker(self._unfinished / execution_id)
        self._put(self._execution(execution_id), entry)
        self._make(self._places / project_id)
        files.create_marker(self._places / project_id / place)
        if idempotency_key is not None:
            self._put(self._idempotency / project_id / hash_of(idempotency_key), {"executionId": execution_id})

    def find_execution(self, execution_id: str) -> ExecutionEntry | None:
        """Where an execution stands."""
        return load(self._execution(execution_id), _execution_entry)

    def remove_execution(self, execution_id: str) -> None:
        """Forget an execution. Its key is left alone if it leads to another one."""
        entry = None
        with suppress(StoredDataDamaged):
            entry = self.find_execution(execution_id)
        if entry is not None:
            _remove(self._places / entry.project_id / entry.place)
            if entry.idempotency_hash is not None:
                _remove_if(self._idempotency / entry.project_id / entry.idempotency_hash, "executionId", execution_id)
        _remove(self._execution(execution_id))
        _remove(files.temporary_path(self._execution(execution_id)))
        self.set_finished(execution_id)

    def newest_executions(self, project_id: str, before: str | None, count: int) -> Sequence[str]:
        """The last `count` places of a project's executions, last first, only those in front of `before` if given."""
        names = files.names_in(self._places / project_id)
        return nlargest(count, (name for name in names if before is None or name < before))

    def find_idempotent(self, project_id: str, key: str) -> str | None:
        """The execution that an idempotency key leads to."""
        return _get(self._idempotency / project_id / hash_of(key), "executionId")

    def unfinished(self) -> Sequence[str]:
        """The executions that are marked as unfinished, in no order."""
        return files.names_in(self._unfinished)

    def set_finished(self, execution_id: str) -> None:
        """Take away the mark as unfinished. It need not be durable: a mark too many is found out."""
        _remove(self._unfinished / execution_id)

    def has_project(self, created_at: datetime, project_id: str) -> bool:
        """Whether a project stands at its place in the list."""
        return self._order.has(paging.position(created_at, project_id))

    def places(self) -> Iterator[str]:
        """The places of all projects, first to last."""
        return self._order.all()

    def stray_places(self) -> Iterator[Path]:
        """What lies among the places of projects and is none."""
        return self._order.strays()

    def has_place(self, place: str) -> bool:
        """Whether there is such a place in the list of projects."""
        return self._order.has(place)

    def is_unfinished(self, execution_id: str) -> bool:
        """Whether an execution is marked as unfinished."""
        return (self._unfinished / execution_id).exists()

    def has_execution(self, execution_id: str) -> bool:
        """Whether there is an entry of an execution, damaged or not."""
        return self._execution(execution_id).exists()

    def has_execution_place(self, entry: ExecutionEntry) -> bool:
        """Whether an execution stands at its place among its project's."""
        return (self._places / entry.project_id / entry.place).exists()

    def digests(self) -> Iterator[str]:
        """The digests of all keys, in no order."""
        return _names_split(self._keys)

    def executions(self) -> Iterator[str]:
        """All executions that have an entry, in no order."""
        return _names_split(self._executions)

    def execution_places(self) -> Iterator[tuple[str, str]]:
        """All places of executions with their project, in no order."""
        return _names_of_projects(self._places)

    def idempotency_hashes(self) -> Iterator[tuple[str, str]]:
        """The hashes of all idempotency keys with their project, in no order."""
        return _names_of_projects(self._idempotency)

    def find_idempotent_hash(self, project_id: str, key_hash: str) -> str | None:
        """The execution that the hash of an idempotency key leads to."""
        return _get(self._idempotency / project_id / key_hash, "executionId")

    def remove_place(self, place: str) -> None:
        """Take a place out of the list of projects."""
        self._order.remove(place)

    def remove_execution_place(self, project_id: str, place: str) -> None:
        """Take a place out of the list of a project's executions."""
        _remove(self._places / project_id / place)

    def remove_idempotent(self, project_id: str, key_hash: str) -> None:
        """Forget the hash of an idempotency key."""
        _remove(self._idempotency / project_id / key_hash)

    def _key(self, digest: str) -> Path:
        return self._keys / digest[:2] / digest

    def _execution(self, execution_id: str) -> Path:
        return self._executions / execution_id[:2] / execution_id

    def _put(self, path: Path, document: dict[str, str]) -> None:
        self._make(path.parent)
        files.write(path, dump(_ENTRY.stamp(document)), self._staging)

    def _make(self, directory: Path) -> None:
        """Make a directory durably, if this process has not done so already."""
        if directory in self._made and directory.is_dir():
            return
        files.make_directory(directory)
        if len(self._made) >= _MOST_KNOWN:
            self._made.clear()
        self._made.add(directory)


def _current(document: object) -> bool:
    fields = _INDEX.open(document)
    outdated = fields.optional(fields.truth, "outdated") or False
    fields.end()
    return not outdated


def _execution_entry(document: object) -> ExecutionEntry:
    fields = _ENTRY.open(document)
    entry = ExecutionEntry(
        fields.identifier("projectId"),
        fields.text("place"),
        fields.optional(fields.hexadecimal, "idempotencyHash"),
    )
    fields.end()
    if not paging.is_position(entry.place):
        raise ValueError("place is not a position")
    return entry


def _key_change(document: object) -> Sequence[str]:
    fields = _KEY_CHANGE.open(document)
    digests = fields.texts("digests")
    fields.end()
    if not all(map(DIGEST.fullmatch, digests)):
        raise ValueError("digests holds something that is no digest")
    return digests


def _get(path: Path, field: str) -> str | None:
    def read(document: Any) -> str:
        fields = _ENTRY.open(document)
        identifier = fields.identifier(field)
        fields.end()
        return identifier

    return load(path, read)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _remove_if(path: Path, field: str, identifier: str) -> None:
    """Remove an entry that leads to `identifier`, and what a crash left of writing it."""
    with suppress(StoredDataDamaged):
        if _get(path, field) == identifier:
            _remove(path)
    _remove(files.temporary_path(path))


def _names_split(directory: Path) -> Iterator[str]:
    for part in sorted(files.names_in(directory)):
        yield from _entries(directory / part)


def _names_of_projects(directory: Path) -> Iterator[tuple[str, str]]:
    for project_id in files.names_in(directory):
        for name in _entries(directory / project_id):
            yield project_id, name


def _entries(directory: Path) -> Iterator[str]:
    return (name for name in files.names_in(directory) if not name.startswith(files.TEMPORARY_PREFIX))


def hash_of(key: str) -> str:
    """What stands for an idempotency key in the index."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
