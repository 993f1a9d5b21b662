"""What counts for a model call that has ended, whatever the vendor told of it."""

from __future__ import annotations

from dataclasses import replace

from cloutagent_server.domain.cost import ZERO, TokenUsage
from cloutagent_server.domain.ledger import Reservation, Settlement
from cloutagent_server.engine.base import CallEnd, PriceList


def settlement_of(reservation: Reservation, end: CallEnd, told: TokenUsage | None, prices: PriceList) -> Settlement:
    """The settlement of a call. What the vendor did not tell counts as the most that it can be."""
    model, version = reservation.usage.model, prices.version
    if end is CallEnd.FREE:
        return Settlement(reservation.call_id, TokenUsage(0, 0, model), ZERO, version)
    # The prices are those that the call was reserved at, so that midnight changes nothing.
    at = reservation.time
    if told is None or not told.possible:
        return Settlement.in_full(reservation, version, prices.model(model or "", at))
    if end is CallEnd.TOLD:
        priced = prices.model(told.model or "", at)
        return Settlement(reservation.call_id, told, prices.cost(told, at), version, prices=priced)
    # The input is told at the start of an answer; the model may have written all that it was allowed to. Where
    # another model may have answered it is named in what was told, and the dearer of both counts.
    written = max(told.completion_tokens, reservation.usage.completion_tokens)
    usages = [replace(told, completion_tokens=written, model=name) for name in {model, told.model or model}]
    cost, usage = max(((prices.cost(usage, at), usage) for usage in usages), key=lambda pair: pair[0])
    priced = prices.model(usage.model or "", at)
    return Settlement(reservation.call_id, usage, cost, version, estimated=True, prices=priced)
