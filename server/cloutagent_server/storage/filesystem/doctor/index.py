"""Whether the index leads to every record, and to nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.storage import paging
from cloutagent_server.storage.filesystem.doctor.findings import BY_REPAIR, Finding, Folder, Severity
from cloutagent_server.storage.filesystem.index import ExecutionEntry
from cloutagent_server.storage.filesystem.recovery import rebuild_index

_KEYS = ".index/keys"
_PROJECTS = ".index/projects"
_EXECUTIONS = ".index/executions"
_UNFINISHED = ".index/unfinished"
_PLACES = ".index/executions-by-project"
_IDEMPOTENCY = ".index/idempotency"


def check_index(folder: Folder) -> Iterable[Finding]:
    """What the index says of projects and keys, and every entry that leads nowhere."""
    try:
        complete = folder.index.complete()
    except StoredDataDamaged as fault:
        yield folder.damaged(fault, "if no newer server uses the folder, remove .index and run doctor --repair")
        return
    if not complete:
        if folder.project_ids():
            rebuild = partial(rebuild_index, folder.layout, folder.index)
            yield Finding(
                Severity.WARNING,
                ".index",
                "is of an earlier version" if folder.index.outdated() else "was not built to its end",
                BY_REPAIR,
                still=lambda: not folder.index.complete(),
                repair=rebuild,
            )
        return
    yield from _missing(folder)
    yield from _stale_keys(folder)
    yield from _stale_places(folder)
    yield from _stale_executions(folder)


def _missing(folder: Folder) -> Iterator[Finding]:
    for project_id in folder.project_ids():
        if _key_missing(folder, project_id):
            yield _finding(
                project_id,
                "the index does not lead from its API keys to it",
                partial(_key_missing, folder, project_id),
                partial(_put_key, folder, project_id),
            )
        if _place_missing(folder, project_id):
            yield _finding(
                project_id,
                "is not in the list of projects",
                partial(_place_missing, folder, project_id),
                partial(_put_place, folder, project_id),
            )


def _key_missing(folder: Folder, project_id: str) -> bool:
    record = folder.record(project_id)
    try:
        return record is not None and any(folder.index.find_key(digest) != project_id for digest in record.digests)
    except StoredDataDamaged:
        return True


def _put_key(folder: Folder, project_id: str) -> None:
    record = folder.record(project_id)
    for digest in () if record is None else record.digests:
        folder.index.put_key(digest, project_id)


def _place_missing(folder: Folder, project_id: str) -> bool:
    record = folder.record(project_id)
    return record is not None and not folder.index.has_project(record.project.created_at, project_id)


def _put_place(folder: Folder, project_id: str) -> None:
    record = folder.record(project_id)
    if record is not None:
        folder.index.put_project(record.project.created_at, project_id)


def _stale_keys(folder: Folder) -> Iterator[Finding]:
    for digest in folder.index.digests():
        stale = partial(_key_stale, folder, digest)
        if stale():
            path = f"{_KEYS}/{digest[:2]}/{digest}"
            yield _finding(path, "leads to no project with this key", stale, partial(folder.index.drop_key, digest))


def _key_stale(folder: Folder, digest: str) -> bool:
    try:
        project_id = folder.index.find_key(digest)
    except StoredDataDamaged:
        return True
    if project_id is None:
        return False
    record = folder.record(project_id)
    if record is None:
        return not folder.layout.metadata(project_id).exists()
    return digest not in record.digests


def _stale_places(folder: Folder) -> Iterator[Finding]:
    for place in folder.index.places():
        stale = partial(_place_stale, folder, place)
        if stale():
            path = f"{_PROJECTS}/{place[:7]}/{place[7:10]}/{place}"
            yield _finding(path, "leads to no project", stale, partial(folder.index.remove_place, place))
    for stray in folder.index.stray_places():
        lies_about = partial(os.path.lexists, stray)
        yield _finding(folder.relative(stray), "is no place in the list of projects", lies_about, stray.unlink)


def _place_stale(folder: Folder, place: str) -> bool:
    project_id = paging.identifier_at(place)
    if not folder.index.has_place(place):
        return False
    if not paging.is_position(place) or not is_id(project_id):
        return True
    record = folder.record(project_id)
    if record is None:
        return not folder.layout.metadata(project_id).exists()
    return place != paging.position(record.project.created_at, project_id)


def _stale_executions(folder: Folder) -> Iterator[Finding]:
    index = folder.index
    for execution_id in {*index.executions(), *index.unfinished()}:
        stale = partial(_execution_stale, folder, execution_id)
        if stale():
            marked = index.is_unfinished(execution_id)
            path = f"{_UNFINISHED}/{execution_id}" if marked else f"{_EXECUTIONS}/{execution_id[:2]}/{execution_id}"
            yield _finding(path, "leads to no execution", stale, partial(index.remove_execution, execution_id))
    for project_id, place in index.execution_places():
        stale = partial(_execution_place_stale, folder, project_id, place)
        if stale():
            path = f"{_PLACES}/{project_id}/{place}"
            remove = partial(index.remove_execution_place, project_id, place)
            yield _finding(path, "leads to no execution", stale, remove)
    for project_id, key_hash in index.idempotency_hashes():
        stale = partial(_idempotency_stale, folder, project_id, key_hash)
        if stale():
            path = f"{_IDEMPOTENCY}/{project_id}/{key_hash}"
            remove = partial(index.remove_idempotent, project_id, key_hash)
            yield _finding(path, "leads to no execution with this key", stale, remove)


def _entry(folder: Folder, execution_id: str) -> ExecutionEntry | None:
    """The entry of an execution that is there; a damaged one is none."""
    try:
        entry = folder.index.find_execution(execution_id) if is_id(execution_id) else None
    except StoredDataDamaged:
        return None
    there = entry is not None and folder.layout.execution(entry.project_id, execution_id).is_dir()
    return entry if there else None


def _execution_stale(folder: Folder, execution_id: str) -> bool:
    return (folder.index.has_execution(execution_id) or folder.index.is_unfinished(execution_id)) and _entry(
        folder, execution_id
    ) is None


def _execution_place_stale(folder: Folder, project_id: str, place: str) -> bool:
    if not folder.index.has_execution_place(ExecutionEntry(project_id, place, None)):
        return False
    entry = _entry(folder, paging.identifier_at(place))
    return entry is None or (entry.project_id, entry.place) != (project_id, place)


def _idempotency_stale(folder: Folder, project_id: str, key_hash: str) -> bool:
    try:
        execution_id = folder.index.find_idempotent_hash(project_id, key_hash)
    except StoredDataDamaged:
        return True
    if execution_id is None:
        return False
    entry = _entry(folder, execution_id)
    return entry is None or (entry.project_id, entry.idempotency_hash) != (project_id, key_hash)


def _finding(path: str, fault: str, still: Callable[[], bool], repair: Callable[[], None]) -> Finding:
    return Finding(Severity.WARNING, path, fault, BY_REPAIR, still, repair)
