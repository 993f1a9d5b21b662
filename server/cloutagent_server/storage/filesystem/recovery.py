"""Making a folder ready: whatever a crash left half done is completed or undone. Everything here blocks."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import structlog

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.index import Index
from cloutagent_server.storage.filesystem.keys import KeyFiles
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.storage.filesystem.log import read_execution
from cloutagent_server.storage.filesystem.lost_tail import cut_lost_tail
from cloutagent_server.storage.filesystem.pages import readable
from cloutagent_server.storage.filesystem.project_records import ProjectRecord, load_project
from cloutagent_server.storage.filesystem.removal import Removal
from cloutagent_server.storage.filesystem.replacing import complete_replacements

_log = structlog.get_logger(__name__)


def recover(layout: Layout, index: Index, removal: Removal, keys: KeyFiles) -> None:
    """Clean up after a crash. Nobody else may change the folder meanwhile.

    Whatever may be half done has a mark in a directory that holds such marks only, so this takes time for what is half
    done, not for what there is. The index is built anew when it is missing or was never completed, for example in a
    folder that was put back from a copy of the projects alone; one of an earlier version is brought into today's form.
    """
    for name in files.names_in(layout.servers):
        if name.startswith(files.TEMPORARY_PREFIX):
            (layout.servers / name).unlink(missing_ok=True)
    if not index.complete():
        _make_current(layout, index, removal)
    for name in files.names_in(layout.staging):
        removal.undo_unborn_project(layout.staging / name)
    removal.empty_trash()
    complete_replacements(layout, index, removal)
    for execution_id in filter(is_id, index.unfinished()):
        _check_unfinished(layout, index, removal, execution_id)
    index.remove_unwritten_key_changes()
    for project_id in index.key_changes():
        _settle_keys(keys, project_id)


def _make_current(layout: Layout, index: Index, removal: Removal) -> None:
    """Bring the folder into today's form, whatever server it comes from. The one time that everything is walked.

    Earlier versions prepared new projects beside the others, and new contents of files beside the old ones.
    """
    if index.outdated():
        index.upgrade()
    for name in files.names_in(layout.root):
        if name.startswith(files.TEMPORARY_PREFIX):
            removal.undo_unborn_project(layout.root / name)
        elif is_id(name):
            for path in (layout.metadata(name), layout.secrets(name), layout.manifest(name), layout.key_uses(name)):
                files.temporary_path(path).unlink(missing_ok=True)
    if index.outdated():
        index.set_complete()
    else:
        rebuild_index(layout, index)


def rebuild_index(layout: Layout, index: Index) -> None:
    """Build the index anew from the records. Nobody else may change the folder meanwhile."""
    index.clear()
    index.prepare()
    for project_id, record in readable(files.names_in(layout.root), partial(_project, layout)):
        for key in record.keys:
            index.put_key(key.credential.digest, project_id)
        index.put_project(record.project.created_at, project_id)
        for execution_id in filter(is_id, files.names_in(layout.executions(project_id))):
            _index_execution(layout, index, project_id, execution_id)
    index.set_complete()


def _index_execution(layout: Layout, index: Index, project_id: str, execution_id: str) -> None:
    directory = layout.execution(project_id, execution_id)
    try:
        execution = _read_after_crash(directory)
    except StoredDataDamaged as fault:
        _log.error("damaged_record_indexed", location=fault.location, fault=fault.fault)
        changed_at = datetime.fromtimestamp(directory.stat().st_mtime, UTC)
        index.put_execution(project_id, execution_id, changed_at, None)
        return
    if execution is not None:
        key = execution.idempotency.key if execution.idempotency else None
        index.put_execution(project_id, execution_id, execution.created_at, key)
        if execution.status.terminal:
            index.set_finished(execution_id)


def _settle_keys(keys: KeyFiles, project_id: str) -> None:
    try:
        keys.settle(project_id)
    except StoredDataDamaged as fault:
        _log.error("damaged_record_left_out", location=fault.location, fault=fault.fault)


def _check_unfinished(layout: Layout, index: Index, removal: Removal, execution_id: str) -> None:
    """Undo a creation that was cut short, and take the mark from an execution that has ended."""
    try:
        entry = index.find_execution(execution_id)
        execution = None if entry is None else _read_after_crash(layout.execution(entry.project_id, execution_id))
    except StoredDataDamaged as fault:
        _log.error("damaged_record_left_out", location=fault.location, fault=fault.fault)
        return
    if execution is None:
        unborn = [] if entry is None else [layout.unborn_execution(entry.project_id, execution_id)]
        removal.undo_execution(execution_id, unborn)
    elif execution.status.terminal:
        index.set_finished(execution_id)


def _read_after_crash(directory: Path) -> Execution | None:
    try:
        return read_execution(directory)
    except StoredDataDamaged:
        if not cut_lost_tail(directory):
            raise
        return read_execution(directory)


def _project(layout: Layout, project_id: str) -> ProjectRecord | None:
    return load_project(layout.metadata(project_id), project_id)
