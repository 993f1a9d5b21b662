"""The logs that are open: those used last, so that live ones stay open and the number of open files is bounded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.storage.filesystem.batches import Batches
from cloutagent_server.storage.filesystem.log import ExecutionLog, LogReplaced


@dataclass(slots=True, eq=False)
class _Lease:
    log: ExecutionLog
    users: int = 0
    dropped: bool = False


class OpenLogs:
    """Open logs by execution, at most `capacity` beside those in use. For any thread."""

    def __init__(self, locate: Callable[[str], Path | None], capacity: int = 128) -> None:
        """`locate` tells where the log of an execution lies, None if nowhere."""
        self._locate = locate
        self._capacity = capacity
        self._guard = threading.Lock()
        self._leases: OrderedDict[str, _Lease] = OrderedDict()
        self._batches = Batches()

    def peek(self, execution_id: str) -> ExecutionLog | None:
        """The log if it is open, only for what does not block: it may be closed by the next blocking call."""
        lease = self._leases.get(execution_id)
        return None if lease is None else lease.log

    @contextmanager
    def borrow(self, execution_id: str) -> Iterator[ExecutionLog | None]:
        """The log if it is open, which it stays until the end of the block. Does not block."""
        with self._guard:
            lease = self._leases.get(execution_id)
            if lease is not None:
                lease.users += 1
        try:
            yield None if lease is None else lease.log
        except StoredDataDamaged:
            self.drop(execution_id)
            raise
        finally:
            if lease is not None:
                self._give_back(lease)

    @contextmanager
    def use(self, execution_id: str) -> Iterator[ExecutionLog | None]:
        """The log, up to date and open until the end of the block; None if there is no such execution. Blocks.

        Raises:
            StoredDataDamaged: The log cannot be read.
        """
        lease = self._take_fresh(execution_id)
        if lease is None:
            yield None
            return
        try:
            yield lease.log
        except StoredDataDamaged:
            self.drop(execution_id)
            raise
        finally:
            self._give_back(lease)

    def drop(self, execution_id: str) -> None:
        """Forget a log; the next use opens it again, if it is still there."""
        with self._guard:
            lease = self._leases.pop(execution_id, None)
            if lease is not None:
                self._retire(lease)

    def drop_all(self) -> None:
        """Forget all logs."""
        with self._guard:
            while self._leases:
                self._retire(self._leases.popitem()[1])

    def _take_fresh(self, execution_id: str) -> _Lease | None:
        """The log, up to date. One in whose place another file stands by now is opened again."""
        while (lease := self._take(execution_id)) is not None:
            stale = True
            try:
                if lease.log.refresh():
                    stale = False
                    return lease
                return None
            except LogReplaced:
                continue
            finally:
                if stale:
                    self.drop(execution_id)
                    self._give_back(lease)
        return None

    def _take(self, execution_id: str) -> _Lease | None:
        with self._guard:
            lease = self._leases.get(execution_id)
            if lease is not None:
                self._leases.move_to_end(execution_id)
                lease.users += 1
                return lease
        directory = self._locate(execution_id)
        if directory is None:
            return None
        try:
            opened = _Lease(ExecutionLog(directory, self._batches))
        except FileNotFoundError:
            return None
        with self._guard:
            lease = self._leases.setdefault(execution_id, opened)
            lease.users += 1
            if lease is not opened:
                opened.log.close()
            self._shrink()
            return lease

    def _give_back(self, lease: _Lease) -> None:
        with self._guard:
            lease.users -= 1
            if lease.dropped and lease.users == 0:
                lease.log.close()

    def _retire(self, lease: _Lease) -> None:
        lease.dropped = True
        if lease.users == 0:
            lease.log.close()

    def _shrink(self) -> None:
        idle = [key for key, lease in self._leases.items() if lease.users == 0]
        for key in idle[: max(0, len(self._leases) - self._capacity)]:
            self._retire(self._leases.pop(key))
