"""Receipts of executions that have ended."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final

from cloutagent_server.domain import event_json
from cloutagent_server.domain.errors import CursorOutOfRange, ExecutionNotFinished, ExecutionNotFound
from cloutagent_server.domain.events import Cancelled, Completed, Failed, SdkCost, StoredEvent
from cloutagent_server.domain.ledger import LedgerCall, Settlement
from cloutagent_server.domain.receipt import LogDigest, Receipt, ReceiptPrice
from cloutagent_server.engine.base import PriceList
from cloutagent_server.storage.base import Storage

_BATCH_EVENTS: Final = 256
# The end of an execution may be told as earlier than its last call where the clock was set back between the two.
_SET_BACK: Final = timedelta(days=1)


class ReceiptService:
    """Makes receipts from the ledger and the event log."""

    def __init__(self, storage: Storage, prices: PriceList) -> None:
        self._storage = storage
        self._prices = prices

    async def receipt(self, execution_id: str) -> Receipt:
        """The receipt of an execution.

        Raises:
            ExecutionNotFound: There is no such execution.
            ExecutionNotFinished: It has not ended.
        """
        execution = await self._storage.executions.read(execution_id)
        if execution is None:
            raise ExecutionNotFound(execution_id)
        if not execution.status.terminal:
            raise ExecutionNotFinished(execution_id)
        log, first_kept, last = await self._log(execution_id)
        until = None if execution.finished_at is None else execution.finished_at + _SET_BACK
        reserved = await self._storage.ledger.calls(execution.project_id, execution_id, execution.created_at, until)
        calls = [call for call in reserved if call.settlement is None or call.settlement.amount.tokens]
        return Receipt(execution, calls, self._used_prices(calls), _sdk_cost(last), log, first_kept)

    async def _log(self, execution_id: str) -> tuple[LogDigest, int, StoredEvent]:
        """The digest of the log, the first event that is there, and the last."""
        try:
            digest, last = await self._log_from(execution_id, 1)
        except CursorOutOfRange as trimmed:
            # It was trimmed before, or just now: what is left of it stays, and the digest that was taken of all of it.
            first = trimmed.first_sequence
            left, last = await self._log_from(execution_id, first)
            return await self._storage.executions.trimmed_digest(execution_id) or left, first, last
        return digest, 1, last

    async def _log_from(self, execution_id: str, first: int) -> tuple[LogDigest, StoredEvent]:
        digest, size, last = hashlib.sha256(), 0, None
        cursor = first - 1
        while events := await self._storage.executions.read_events(execution_id, cursor, _BATCH_EVENTS):
            data = b"".join(event.data + b"\n" for event in events)
            digest.update(data)
            size += len(data)
            last = events[-1]
            cursor = last.sequence
        if last is None:
            raise ExecutionNotFound(execution_id)
        return LogDigest(digest.hexdigest(), first, cursor, size), last

    def _used_prices(self, calls: Iterable[LedgerCall]) -> Sequence[ReceiptPrice]:
        settlements = [call.settlement for call in calls if call.settlement is not None]
        # More than one for a model if its price changed during the run, as it may within a version from some day on.
        used = dict.fromkeys(map(self._price_of, settlements))
        return sorted(used, key=lambda price: (price.version, price.model))

    def _price_of(self, settlement: Settlement) -> ReceiptPrice:
        version, model = settlement.price_version, settlement.usage.model or ""
        prices = settlement.prices
        if prices is None and version == self._prices.version:
            # Settled by an earlier version, which did not keep them.
            prices = self._prices.model(model)
        return ReceiptPrice(version, model, prices)


def _sdk_cost(last: StoredEvent) -> SdkCost | None:
    payload = event_json.decode(last.data).payload
    return payload.sdk_cost if isinstance(payload, Completed | Failed | Cancelled) else None
