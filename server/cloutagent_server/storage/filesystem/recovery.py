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
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.storage.filesystem.log import read_execution
from cloutagent_server.storage.filesystem.lost_tail import cut_lost_tail
from cloutagent_server.storage.filesystem.pages import readable
from cloutagent_server.storage.filesystem.records import ProjectRecord, load, project_from_json
from cloutagent_server.storage.filesystem.removal import Removal

_log = structlog.get_logger(__name__)


def recover(layout: Layout, index: Index, removal: Removal) -> None:
    """Clean up after a crash. Nobody else may change the folder meanwhile.

    The index is built anew when it is missing or was never completed, for example in a folder that was put back from
    a copy of the projects alone.
    """
    for name in files.names_in(layout.root):
        if name.startswith(files.TEMPORARY_PREFIX):
            removal.undo_unborn_project(layout.root / name)
    removal.empty_trash()
    if not index.complete():
        index.clear()
        index.prepare()
        _rebuild(layout, index)
        index.set_complete()
    for execution_id in filter(is_id, index.unfinished()):
        _check_unfinished(layout, index, removal, execution_id)
    for project_id in filter(is_id, files.names_in(layout.root)):
        for path in (layout.metadata(project_id), layout.secrets(project_id)):
            files.temporary_path(path).unlink(missing_ok=True)


def _rebuild(layout: Layout, index: Index) -> None:
    for project_id, record in readable(files.names_in(layout.root), partial(_project, layout)):
        index.put_key(record.credential.digest, project_id)
        index.put_project(record.project.created_at, project_id)
        for execution_id in filter(is_id, files.names_in(layout.executions(project_id))):
            _index_execution(layout, index, project_id, execution_id)


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
    return load(layout.metadata(project_id), project_from_json)
