"""Removing records: moved aside first, which is the moment at which they are gone, then removed for good."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.documents import load
from cloutagent_server.storage.filesystem.index import Index
from cloutagent_server.storage.filesystem.layout import METADATA, Layout
from cloutagent_server.storage.filesystem.project_records import ProjectRecord, project_from_json

_PROJECT: Final = "project-"
_EXECUTION: Final = "execution-"
_OTHER: Final = "other-"

_log = structlog.get_logger(__name__)


class Removal:
    """Takes projects and executions out of the folder and the index. Everything here blocks."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index

    def remove_project(self, project_id: str) -> None:
        """Remove a project with all that is its. A missing one is no error."""
        self._remove(self._layout.project(project_id), self._layout.trash / (_PROJECT + project_id))

    def remove_execution(self, project_id: str, execution_id: str) -> None:
        """Remove an execution. A missing one is no error."""
        directory = self._layout.execution(project_id, execution_id)
        self._remove(directory, self._layout.trash / (_EXECUTION + execution_id))

    def discard(self, directory: Path) -> None:
        """Remove a directory that no record lies in, at one moment. A missing one is no error."""
        self._remove(directory, self._layout.trash / (_OTHER + directory.name))

    def empty_trash(self) -> None:
        """Remove for good what was moved aside and is still there."""
        for name in files.names_in(self._layout.trash):
            self._finish(self._layout.trash / name)

    def undo_project(self, record: ProjectRecord, directories: Iterable[Path]) -> None:
        """Take back the creation of a project that was prepared in one of `directories`, as far as it came."""
        with suppress(OSError, StorageUnavailable):
            for key in record.keys:
                self._index.remove_key(key.credential.digest, record.project.id)
        with suppress(OSError, StorageUnavailable):
            self._index.remove_project(record.project.id, record.project.created_at)
        _remove_all(directories)

    def undo_execution(self, execution_id: str, directories: Iterable[Path]) -> None:
        """Take back the creation of an execution that was prepared in one of `directories`, as far as it came.

        The index goes last: by it the next start finds what a crash in the middle of this leaves.
        """
        _remove_all(directories)
        with suppress(OSError, StorageUnavailable):
            self._index.remove_execution(execution_id)

    def undo_unborn_project(self, directory: Path) -> None:
        """Take back the creation of a project that a crash left in `directory`.

        A project that is there was not about to be created but to be replaced: what leads to it stays.
        """
        project_id = directory.name.removeprefix(files.TEMPORARY_PREFIX)
        if not (is_id(project_id) and os.path.lexists(self._layout.project(project_id))):
            self._forget_project(directory, project_id)
        files.remove_tree(directory)

    def _remove(self, directory: Path, aside: Path) -> None:
        try:
            directory.rename(aside)
        except FileNotFoundError:
            return
        try:
            files.sync_directory(directory.parent)
        except OSError:
            with suppress(OSError):
                aside.rename(directory)
            raise
        self._finish(aside)

    def _finish(self, aside: Path) -> None:
        name = aside.name
        try:
            if name.startswith(_PROJECT):
                self._forget_project(aside, name.removeprefix(_PROJECT))
            elif name.startswith(_EXECUTION) and is_id(name.removeprefix(_EXECUTION)):
                self._index.remove_execution(name.removeprefix(_EXECUTION))
            files.remove_tree(aside)
        except (OSError, StorageUnavailable) as fault:
            cause = fault.cause if isinstance(fault, StorageUnavailable) else files.describe(fault)
            _log.warning("removal_not_finished", location=str(aside), fault=cause)

    def _forget_project(self, directory: Path, project_id: str) -> None:
        if not is_id(project_id):
            return
        record = None
        with suppress(StoredDataDamaged):
            record = load(directory / METADATA, project_from_json)
        if record is not None:
            for key in record.keys:
                self._index.remove_key(key.credential.digest, project_id)
        for execution_id in filter(is_id, files.names_in(directory / "executions")):
            self._index.remove_execution(execution_id)
        self._index.remove_project(project_id, None if record is None else record.project.created_at)


def _remove_all(directories: Iterable[Path]) -> None:
    for directory in directories:
        with suppress(OSError):
            files.remove_tree(directory)
