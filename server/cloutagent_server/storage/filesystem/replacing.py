"""Putting a project that was read from a backup in the place of one that is there.

What is to be put there stands ready in `.restore/{project id}` before anything is changed, and is moved away when all
is done: so a crash in between is completed at the next start. The project's executions stay, and those that only the
backup has are added. Everything here blocks; nobody else may work for the project meanwhile.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.storage import paging
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.index import Index
from cloutagent_server.storage.filesystem.layout import EXECUTIONS, METADATA, SECRETS, Layout
from cloutagent_server.storage.filesystem.log import read_execution
from cloutagent_server.storage.filesystem.project_records import ProjectRecord, load_project
from cloutagent_server.storage.filesystem.removal import Removal

_log = structlog.get_logger(__name__)


def complete_replacements(layout: Layout, index: Index, removal: Removal) -> None:
    """Complete what a crash left half done. What is damaged stays, and is logged."""
    for project_id in filter(is_id, files.names_in(layout.restores)):
        try:
            complete_replacement(layout, index, removal, project_id)
        except StoredDataDamaged as fault:
            _log.error("replacement_not_completed", location=fault.location, fault=fault.fault)


def complete_replacement(layout: Layout, index: Index, removal: Removal, project_id: str) -> None:
    """Put in place what stands ready for a project."""
    ready, home = layout.restores / project_id, layout.project(project_id)
    record = load_project(ready / METADATA, project_id)
    if record is None:
        raise StoredDataDamaged(str(ready / METADATA), "is missing")
    before = _present(layout, project_id)
    for digest in record.digests:
        index.put_key(digest, project_id)
    index.put_project(record.project.created_at, project_id)
    files.make_directory(home / SECRETS)
    files.make_directory(home / EXECUTIONS)
    wanted = files.names_in(ready / SECRETS)
    for name in wanted:
        files.write(home / SECRETS / name, files.read(ready / SECRETS / name) or b"", layout.staging)
    for name in files.names_in(home / SECRETS):
        if name not in wanted:
            (home / SECRETS / name).unlink(missing_ok=True)
    files.sync_directory(home / SECRETS)
    for execution_id in files.names_in(ready / EXECUTIONS):
        if not (home / EXECUTIONS / execution_id).exists():
            index_execution(index, ready, project_id, execution_id)
            (ready / EXECUTIONS / execution_id).rename(home / EXECUTIONS / execution_id)
    files.sync_directory(home / EXECUTIONS)
    files.write(home / METADATA, files.read(ready / METADATA) or b"", layout.staging)
    for digest in () if before is None else before.digests:
        if digest not in record.digests:
            index.remove_key(digest, project_id)
    if before is not None and before.project.created_at != record.project.created_at:
        index.remove_place(paging.position(before.project.created_at, project_id))
    removal.discard(ready)


def index_execution(index: Index, home: Path, project_id: str, execution_id: str) -> None:
    """Let an execution that is about to appear be found, also if its log is damaged: the backup had it so."""
    try:
        execution = read_execution(home / EXECUTIONS / execution_id)
    except StoredDataDamaged as fault:
        _log.error("damaged_record_restored", location=fault.location, fault=fault.fault)
        index.put_execution(project_id, execution_id, timestamps.now(), None)
        return
    if execution is not None:
        key = None if execution.idempotency is None else execution.idempotency.key
        index.put_execution(execution.project_id, execution_id, execution.created_at, key)
        if execution.status.terminal:
            index.set_finished(execution_id)


def _present(layout: Layout, project_id: str) -> ProjectRecord | None:
    try:
        return load_project(layout.metadata(project_id), project_id)
    except StoredDataDamaged:
        return None
