"""Records as files in a folder that several processes of one machine may share."""

from __future__ import annotations

from pathlib import Path

from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.audit import FileSystemAuditLog
from cloutagent_server.storage.filesystem.executions import FileSystemExecutions
from cloutagent_server.storage.filesystem.index import Index
from cloutagent_server.storage.filesystem.keys import KeyFiles
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.storage.filesystem.ledger import FileSystemLedger
from cloutagent_server.storage.filesystem.locks import Locks
from cloutagent_server.storage.filesystem.offload import off_loop
from cloutagent_server.storage.filesystem.ownership import Ownership
from cloutagent_server.storage.filesystem.projects import FileSystemProjects
from cloutagent_server.storage.filesystem.recovery import recover
from cloutagent_server.storage.filesystem.removal import Removal
from cloutagent_server.storage.filesystem.secrets import FileSystemSecrets


class FileSystemStorage:
    """A storage backend in the folder `root`, which `start` creates. For one event loop."""

    def __init__(self, root: Path) -> None:
        self._layout = Layout(root.absolute())
        self._index = Index(self._layout.index)
        self._locks = Locks(self._layout.locks)
        self._removal = Removal(self._layout, self._index)
        self._ownership = Ownership(self._layout)
        self._executions = FileSystemExecutions(self._layout, self._index, self._locks, self._removal, self._ownership)
        self._keys = KeyFiles(self._layout, self._index)
        self._projects = FileSystemProjects(
            self._layout, self._index, self._locks, self._removal, self._keys, self._executions.forget
        )
        self._secrets = FileSystemSecrets(self._layout, self._locks)
        self._audit = FileSystemAuditLog(self._layout)
        self._ledger = FileSystemLedger(self._layout, self._locks)

    @property
    def projects(self) -> FileSystemProjects:
        """Projects."""
        return self._projects

    @property
    def secrets(self) -> FileSystemSecrets:
        """Secrets."""
        return self._secrets

    @property
    def executions(self) -> FileSystemExecutions:
        """Executions."""
        return self._executions

    @property
    def audit(self) -> FileSystemAuditLog:
        """The audit log."""
        return self._audit

    @property
    def ledger(self) -> FileSystemLedger:
        """Ledgers."""
        return self._ledger

    async def start(self) -> None:
        """See `Storage.start`."""
        await off_loop(self._start)

    async def stop(self) -> None:
        """See `Storage.stop`."""
        await self._executions.stop()
        await self._audit.stop()
        await off_loop(self._ownership.end)

    async def check_writable(self) -> None:
        """See `Storage.check_writable`."""
        await off_loop(self._try_writing)

    def _try_writing(self) -> None:
        files.try_writing(self._layout.staging)

    def _start(self) -> None:
        if not self._layout.root.is_dir():
            files.make_directory(self._layout.root)
        for directory in (self._layout.staging, self._layout.trash, self._layout.locks):
            files.make_directory(directory)
        with self._locks.alone():
            recover(self._layout, self._index, self._removal, self._keys)
            self._ownership.begin()


__all__ = ["FileSystemStorage"]
