"""Calls that nobody drives any more, because their execution has ended or its server died: they count in full."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import Usage
from cloutagent_server.domain.errors import CloutAgentError
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.ledger import LedgerTotals, Settlement, usage_of
from cloutagent_server.engine.base import PriceList
from cloutagent_server.storage.base import Ledger, Storage

log: Final = logging.getLogger(__name__)


async def settle_orphaned(storage: Storage, execution: Execution, totals: LedgerTotals, prices: PriceList) -> None:
    """Settle in full what executions that have ended, or are gone, left reserved when they could not store it.

    Those of the project of `execution` are meant, which itself is at work.
    """
    others = {call.execution_id for call in totals.open.values()} - {execution.id}
    for execution_id in others:
        try:
            other = await storage.executions.read(execution_id)
        except CloutAgentError:
            # Nobody knows whether it has ended, and this run is not to fail for that.
            log.warning("an execution with reservations cannot be read", extra={"execution_id": execution_id})
            continue
        if other is None or other.status.terminal:
            await _settle_in_full(storage.ledger, execution.project_id, execution_id, totals, prices)


async def usage_after_crash(ledger: Ledger, execution: Execution, prices: PriceList) -> Usage:
    """What an execution used whose server died, with what was under way counted in full, as estimated.

    Where the ledger does not tell, that is what its log told last, as an estimate: its end waits for no repair.
    """
    try:
        totals = await ledger.totals(execution.project_id, timestamps.now())
        await _settle_in_full(ledger, execution.project_id, execution.id, totals, prices)
        calls = await ledger.calls(execution.project_id, execution.id, execution.created_at)
    except CloutAgentError:
        log.exception("the ledger does not tell what an execution used", extra={"execution_id": execution.id})
        return replace(execution.usage, estimated=True)
    return usage_of(calls) if calls else execution.usage


async def _settle_in_full(
    ledger: Ledger, project_id: str, execution_id: str, totals: LedgerTotals, prices: PriceList
) -> None:
    """Settle an execution's calls that nobody drives any more: each counts in full, as estimated."""
    for call in totals.open.values():
        if call.execution_id == execution_id:
            model = prices.model(call.usage.model or "", call.time)
            await ledger.settle(project_id, Settlement.in_full(call, prices.version, model))
