"""Sealed secrets on disk: one file for each project."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from cloutagent_server.domain.errors import ProjectNotFound
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.domain.secret import SealedSecret
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.storage.filesystem.locks import Locks
from cloutagent_server.storage.filesystem.offload import off_loop
from cloutagent_server.storage.filesystem.records import (
    dump,
    key_check_from_json,
    key_check_to_json,
    load,
    secrets_from_json,
    secrets_to_json,
)


class FileSystemSecrets:
    """`SecretStorage` on disk."""

    def __init__(self, layout: Layout, locks: Locks) -> None:
        self._layout = layout
        self._locks = locks

    async def read(self, project_id: str) -> Mapping[str, SealedSecret]:
        """See `SecretStorage.read`."""
        return await off_loop(partial(self._load, project_id)) if is_id(project_id) else {}

    async def put(self, project_id: str, name: str, sealed: SealedSecret) -> None:
        """See `SecretStorage.put`."""
        if not is_id(project_id):
            raise ProjectNotFound(project_id)
        await self._locks.run_for_project(project_id, partial(self._put, project_id, name, sealed))

    async def remove(self, project_id: str, name: str) -> bool:
        """See `SecretStorage.remove`."""
        if not is_id(project_id):
            return False
        return await self._locks.run_for_project(project_id, partial(self._remove, project_id, name))

    async def read_key_check(self) -> SealedSecret | None:
        """See `SecretStorage.read_key_check`."""
        return await off_loop(partial(load, self._layout.key_check, key_check_from_json))

    async def put_key_check(self, sealed: SealedSecret) -> None:
        """See `SecretStorage.put_key_check`."""
        await off_loop(partial(self._put_key_check, sealed))

    def _put_key_check(self, sealed: SealedSecret) -> None:
        with self._locks.alone():
            if not self._layout.key_check.exists():
                files.write(self._layout.key_check, dump(key_check_to_json(sealed)))

    def _load(self, project_id: str) -> Mapping[str, SealedSecret]:
        return load(self._layout.secrets(project_id), secrets_from_json) or {}

    def _save(self, project_id: str, secrets: Mapping[str, SealedSecret]) -> None:
        path = self._layout.secrets(project_id)
        files.make_directory(path.parent)
        files.write(path, dump(secrets_to_json(secrets)))

    def _put(self, project_id: str, name: str, sealed: SealedSecret) -> None:
        if not self._layout.metadata(project_id).exists():
            raise ProjectNotFound(project_id)
        self._save(project_id, {**self._load(project_id), name: sealed})

    def _remove(self, project_id: str, name: str) -> bool:
        secrets = dict(self._load(project_id))
        if secrets.pop(name, None) is None:
            return False
        self._save(project_id, secrets)
        return True
