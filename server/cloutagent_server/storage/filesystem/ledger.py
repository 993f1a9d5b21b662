"""Ledgers on disk."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import ProjectNotFound
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.domain.ledger import DayUsage, LedgerCall, LedgerTotals, Reservation, Settlement
from cloutagent_server.storage.filesystem import files
from cloutagent_server.storage.filesystem.layout import Layout
from cloutagent_server.storage.filesystem.ledger_files import LedgerFiles
from cloutagent_server.storage.filesystem.locks import Locks, holding
from cloutagent_server.storage.filesystem.offload import off_loop
from cloutagent_server.storage.ledger_book import totals, usage_between
from cloutagent_server.storage.watchers import Watchers

T = TypeVar("T")

_REMEMBERED: Final = 256
_LOOK_SECONDS: Final = 0.2


class _Open:
    """A ledger that this process has read, and whose turn it is to work on it here."""

    def __init__(self, directory: Path) -> None:
        self.files = LedgerFiles(directory)
        self.turn = asyncio.Lock()
        self.scan_turn = asyncio.Lock()

    @property
    def idle(self) -> bool:
        """Whether nobody works on it."""
        return not self.turn.locked() and not self.scan_turn.locked()


class FileSystemLedger:
    """`Ledger` on disk: files under `{project id}/ledger`, and a lock on that directory that other processes honour."""

    def __init__(self, layout: Layout, locks: Locks) -> None:
        self._layout = layout
        self._locks = locks
        self._ledgers: OrderedDict[str, _Open] = OrderedDict()
        self._watchers = Watchers()

    async def reserve(
        self,
        project_id: str,
        now: datetime,
        decide: Callable[[LedgerTotals], Reservation | None],
        storing: Callable[[], None] = lambda: None,
    ) -> LedgerTotals:
        """See `Ledger.reserve`."""
        if not is_id(project_id):
            raise ProjectNotFound(project_id)

        def work(ledger: LedgerFiles) -> LedgerTotals:
            seen = totals(ledger.months, now)
            reservation = decide(seen)
            if reservation is not None:
                ledger.reserve(reservation, storing)
            return seen

        found = await self._with_ledger(project_id, work, now)
        if found is None:
            raise ProjectNotFound(project_id)
        return found

    async def settle(self, project_id: str, settlement: Settlement) -> bool:
        """See `Ledger.settle`."""
        try:
            settled = await self._with_ledger(project_id, lambda ledger: ledger.settle(settlement))
        finally:
            self._watchers.wake(project_id)
        return bool(settled)

    async def totals(self, project_id: str, now: datetime) -> LedgerTotals:
        """See `Ledger.totals`."""
        found = await self._with_ledger(project_id, lambda ledger: totals(ledger.months, now), now)
        return found or LedgerTotals()

    async def wait_for_settlement(self, project_id: str, version: int) -> None:
        """See `Ledger.wait_for_settlement`. What other processes settle is noticed within 0.2 seconds."""
        while True:
            with self._watchers.waiting(project_id, version) as news:
                found = await self._with_ledger(
                    project_id, lambda ledger: sum(book.settlements for book in ledger.months.values())
                )
                if found != version:
                    return
                await asyncio.wait([news], timeout=_LOOK_SECONDS)

    async def calls(
        self, project_id: str, execution_id: str, since: datetime, until: datetime | None = None
    ) -> Sequence[LedgerCall]:
        """See `Ledger.calls`."""
        if not is_id(project_id):
            return ()
        ledger = self._open(project_id)
        # One at a time, so that no project's callers have both threads for this, and those who went away take none.
        async with ledger.scan_turn:
            extent = await self._with_ledger(project_id, lambda files: files.extent(since, until))
            if not extent:
                return ()
            # Months of other runs' calls are read here: nobody's next call shall wait for that.
            return await off_loop(partial(ledger.files.calls, execution_id, extent), scans=True)

    async def usage(self, project_id: str, first_day: str, last_day: str) -> Sequence[DayUsage]:
        """See `Ledger.usage`."""
        between = partial(usage_between, first_day=first_day, last_day=last_day)
        return await self._with_ledger(project_id, lambda ledger: between(ledger.months)) or ()

    async def _with_ledger(
        self, project_id: str, work: Callable[[LedgerFiles], T], now: datetime | None = None
    ) -> T | None:
        """Do blocking work on an up-to-date ledger that nobody else works on; None without the project."""
        if not is_id(project_id):
            return None
        ledger = self._open(project_id)

        def locked_work() -> T | None:
            directory = self._layout.ledger(project_id)
            descriptor = _directory(directory)
            if descriptor is None:
                return None
            try:
                with holding(descriptor, fcntl.LOCK_EX, directory), self._locks.sharing():
                    ledger.files.refresh(now or timestamps.now())
                    return work(ledger.files)
            finally:
                os.close(descriptor)

        async with ledger.turn:
            return await off_loop(locked_work, waits=True)

    def _open(self, project_id: str) -> _Open:
        """The ledger as this process knows it. Those longest out of use are forgotten."""
        ledger = self._ledgers.setdefault(project_id, _Open(self._layout.ledger(project_id)))
        self._ledgers.move_to_end(project_id)
        for idle in [known for known, each in self._ledgers.items() if each.idle and known != project_id]:
            if len(self._ledgers) <= _REMEMBERED:
                break
            del self._ledgers[idle]
        return ledger


def _directory(path: Path) -> int | None:
    """The ledger's directory, open for its lock, made where it is missing; None without the project."""
    try:
        try:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            with suppress(FileExistsError):
                path.mkdir(files.DIRECTORY_MODE)
            files.sync_directory(path.parent)
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
