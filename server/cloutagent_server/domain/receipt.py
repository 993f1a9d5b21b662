"""Receipts: what an execution used, call by call, with a digest of its event log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloutagent_server.domain.cost import Model, Usage
from cloutagent_server.domain.events import SdkCost
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.ledger import LedgerCall, usage_of


@dataclass(frozen=True, slots=True)
class ReceiptPrice:
    """The prices of a model in one version of the price list.

    `prices` is None if they were not kept with the calls, and this server has another version now.
    """

    version: str
    model: str
    prices: Model | None


@dataclass(frozen=True, slots=True)
class LogDigest:
    """SHA-256, in hex, over each event of a range of a log as it is stored, with a line feed after each.

    `size` counts the bytes. The range is the whole log, unless events were removed before a digest of them was kept.
    """

    sha256: str
    first_sequence: int
    last_sequence: int
    size: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an execution that has ended used.

    Attributes:
        calls: Its calls that used tokens, in the order of their reservations.
        prices: The prices behind their costs, by version and model.
        sdk_cost: What the agent SDK says that the run cost; None if it did not say.
        log: The digest of its event log, also of events that were trimmed away.
        first_kept_sequence: The first event that is still there; above 1 when the log was trimmed.
    """

    execution: Execution
    calls: Sequence[LedgerCall]
    prices: Sequence[ReceiptPrice]
    sdk_cost: SdkCost | None
    log: LogDigest
    first_kept_sequence: int

    @property
    def usage(self) -> Usage:
        """The sum of the calls."""
        return usage_of(self.calls)
