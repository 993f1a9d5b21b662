"""Which server answers for which execution, for several servers on one folder.

A server at work holds a lease: a file of its own under a lock that goes with its process, however that ends, and
whatever the clocks say. `owner.json` in an execution's directory names the server that answers for the execution. It
needs no fsync: after a loss of power no server named in any of them is at work.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.identifiers import is_id, new_id
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.documents import dump, load
from cloutagent_server.storage.filesystem.layout import OWNER, Layout
from cloutagent_server.storage.filesystem.schema import Schema

_OWNER: Final = Schema(1)
_SUFFIX: Final = ".lease"

_log = structlog.get_logger(__name__)


class Ownership:
    """This server's lease and those of the others. Everything here blocks, for moments."""

    def __init__(self, layout: Layout) -> None:
        self.server_id = new_id()
        self._directory = layout.servers
        self._cancels = layout.cancels
        self._staging = layout.staging
        self._lease: int | None = None

    def begin(self) -> None:
        """Take this server's lease. It appears under its name once it is held, so nobody finds it free."""
        files.make_directory(self._directory)
        files.make_directory(self._cancels)
        if self._lease is not None:
            return
        path = self._path(self.server_id)
        temporary = files.temporary_path(path, self._staging)
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, files.FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            temporary.rename(path)
        except BaseException:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)
            raise
        self._lease = descriptor

    def end(self) -> None:
        """Give the lease back: what this server owns is anybody's."""
        if self._lease is not None:
            with suppress(OSError):
                self._path(self.server_id).unlink(missing_ok=True)
            os.close(self._lease)
            self._lease = None

    def is_at_work(self, server_id: str) -> bool:
        """Whether a server holds its lease. Raises OSError if that cannot be told."""
        try:
            descriptor = os.open(self._path(server_id), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def drop_dead_leases(self, in_use: Mapping[str, bool]) -> None:
        """Remove the leases of dead servers but those that somebody still names: `in_use` has the servers' names."""
        for name in files.names_in(self._directory):
            server_id = name.removesuffix(_SUFFIX)
            if is_id(server_id) and server_id not in in_use and not self.is_at_work(server_id):
                self._path(server_id).unlink(missing_ok=True)

    def owner_of(self, directory: Path) -> str | None:
        """The server that the execution in `directory` belongs to; None if to none."""
        try:
            return load(directory / OWNER, _server_id)
        except StoredDataDamaged as fault:
            _log.warning("owner_unreadable", location=fault.location, fault=fault.fault)
            return None

    def own(self, directory: Path) -> None:
        """Make this server the owner of the execution in `directory`."""
        path = directory / OWNER
        temporary = files.temporary_path(path, self._staging)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, files.FILE_MODE)
        try:
            try:
                files.write_all(descriptor, dump(_OWNER.stamp({"serverId": self.server_id})))
            finally:
                os.close(descriptor)
            temporary.rename(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise

    def request_cancel(self, execution_id: str) -> None:
        """Leave word that an execution is to be cancelled."""
        files.create_marker(self._cancels / execution_id)

    def cancel_requests(self) -> Sequence[str]:
        """The executions that are to be cancelled."""
        return list(filter(is_id, files.names_in(self._cancels)))

    def drop_cancel_request(self, execution_id: str) -> None:
        """Forget that an execution is to be cancelled."""
        (self._cancels / execution_id).unlink(missing_ok=True)

    def _path(self, server_id: str) -> Path:
        return self._directory / (server_id + _SUFFIX)


def _server_id(document: object) -> str:
    fields = _OWNER.open(document)
    server_id = fields.identifier("serverId")
    fields.end()
    return server_id
