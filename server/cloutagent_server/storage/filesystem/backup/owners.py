"""Whose keys and executions are: the index leads from each to one project, so no backup may lead it to another."""

from __future__ import annotations

import os
from contextlib import suppress

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.storage.filesystem.index import Index
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.storage.filesystem.project_records import ProjectRecord, load_project


class Owners:
    """The owners of the API keys and of the executions of one backup."""

    def __init__(self) -> None:
        self._of_keys: dict[str, str] = {}
        self._of_executions: dict[str, str] = {}

    def add_keys(self, record: ProjectRecord) -> None:
        """Note a project's keys. Raises ValueError, and notes nothing, if one is another project's."""
        project_id = record.project.id
        for key in record.keys:
            owner = self._of_keys.get(key.credential.digest, project_id)
            if owner != project_id:
                raise ValueError(f"API key {key.id} is one of project {owner} too")
        self._of_keys |= dict.fromkeys(record.digests, project_id)

    def add_execution(self, execution_id: str, project_id: str) -> None:
        """Note whose an execution is. Raises ValueError if it is another project's."""
        owner = self._of_executions.setdefault(execution_id, project_id)
        if owner != project_id:
            raise ValueError(f"execution {execution_id} is one of project {owner} too")


class PresentOwners:
    """The owners of the API keys and of the executions in a data folder, as far as its index has been built."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._index = Index(layout.index)

    def check_keys(self, record: ProjectRecord) -> None:
        """Raises ValueError if a key of this project is another one's, as that one's record says or may say."""
        for key in record.keys:
            owner = None
            with suppress(StoredDataDamaged):
                owner = self._index.find_key(key.credential.digest)
            if owner not in (None, record.project.id) and self._may_have(owner, key.credential.digest):
                raise ValueError(f"API key {key.id} of project {record.project.id} is one of project {owner} here")

    def check_execution(self, execution_id: str, project_id: str) -> None:
        """Raises ValueError if an execution of this project is another one's."""
        entry = None
        with suppress(StoredDataDamaged):
            entry = self._index.find_execution(execution_id)
        if entry is None or entry.project_id == project_id:
            return
        if os.path.lexists(self._layout.execution(entry.project_id, execution_id)):
            raise ValueError(
                f"execution {execution_id} of project {project_id} is one of project {entry.project_id} here"
            )

    def _may_have(self, project_id: str, digest: str) -> bool:
        try:
            record = load_project(self._layout.metadata(project_id), project_id)
        except StoredDataDamaged:
            return True
        return record is not None and digest in record.digests
