"""The API keys of a project on disk: the change of them, and when they were last used. Everything here blocks.

A key works when the index leads to its project and the project's record has it. So it lives and dies with the record,
which is replaced in one step, whatever the index says. A note of the digests concerned stands in the index while the
keys change: after a crash it tells which entries to bring into line with the record.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import structlog

from cloutagent_server.domain.api_key import ApiKeys
from cloutagent_server.domain.errors import StorageUnavailable, StoredDataDamaged
from cloutagent_server.storage.changes import used
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.documents import dump, load
from cloutagent_server.storage.filesystem.index import Index
from cloutagent_server.storage.filesystem.key_records import key_uses_from_json, key_uses_to_json
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.storage.filesystem.project_records import ProjectRecord, project_from_json, project_to_json

_log = structlog.get_logger(__name__)


class KeyFiles:
    """Changes keys and notes their uses. Callers hold the project's lock."""

    def __init__(self, layout: Layout, index: Index) -> None:
        self._layout = layout
        self._index = index

    def change(self, record: ProjectRecord, keys: ApiKeys) -> None:
        """Replace the keys of a stored project. What raised has left no trace, or one that the next start removes."""
        project_id = record.project.id
        stored, wanted = _digests(record.keys), _digests(keys)
        try:
            self._index.put_key_change(project_id, stored ^ wanted)
            for digest in wanted - stored:
                self._index.put_key(digest, project_id)
            content = dump(project_to_json(ProjectRecord(record.project, keys)))
            files.write(self._layout.metadata(project_id), content, self._layout.staging)
        except BaseException:
            self._try_to_settle(project_id)
            raise
        self._try_to_settle(project_id)

    def settle(self, project_id: str) -> None:
        """Bring the index into line with the project's record after a change of its keys, however far that came.

        Raises:
            StoredDataDamaged: The record or the note cannot be read; both stay as they are.
        """
        digests = self._index.find_key_change(project_id)
        record = load(self._layout.metadata(project_id), project_from_json)
        stored = frozenset() if record is None else _digests(record.keys)
        for digest in digests:
            if digest not in stored:
                self._index.remove_key(digest, project_id)
            elif self._index.find_key(digest) != project_id:
                self._index.put_key(digest, project_id)
        self._index.remove_key_change(project_id)

    def uses(self, project_id: str) -> Mapping[str, datetime]:
        """When the project's keys were last used, by key id."""
        return load(self._layout.key_uses(project_id), key_uses_from_json) or {}

    def note_uses(self, record: ProjectRecord, uses: Mapping[str, datetime]) -> None:
        """Note later uses of the project's keys."""
        path = self._layout.key_uses(record.project.id)
        noted = self.uses(record.project.id)
        known = used(noted, uses, record.keys)
        if known != noted:
            files.make_directory(path.parent)
            files.write(path, dump(key_uses_to_json(known)), self._layout.staging)

    def _try_to_settle(self, project_id: str) -> None:
        try:
            self.settle(project_id)
        except (OSError, StorageUnavailable) as fault:
            cause = fault.cause if isinstance(fault, StorageUnavailable) else files.describe(fault)
            _log.warning("key_change_not_settled", project_id=project_id, fault=cause)
        except StoredDataDamaged as fault:
            _log.error("key_change_not_settled", project_id=project_id, location=fault.location, fault=fault.fault)


def _digests(keys: ApiKeys) -> frozenset[str]:
    return frozenset(key.credential.digest for key in keys)
