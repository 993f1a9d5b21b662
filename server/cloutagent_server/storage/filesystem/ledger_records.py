"""The JSON form of a ledger's lines, each with a checksum at its end, and of the totals of a month that is over."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import Model, TokenUsage
from cloutagent_server.domain.ledger import DayUsage, Reservation, Settlement
from cloutagent_server.storage.filesystem.schema import Fields, Schema, parse
from cloutagent_server.storage.ledger_book import MonthBook

LINE: Final = Schema(2, {1: dict})
"""A record. Settlements of version 1 have no prices."""
TOTALS: Final = Schema(1)

_MARK: Final = b',"checksum":"'
_PRICES: Final = b',"prices":'


def reserved_line(reservation: Reservation) -> bytes:
    """The line of a reservation."""
    return _line(
        {
            "kind": "reserved",
            "callId": reservation.call_id,
            "executionId": reservation.execution_id,
            "time": timestamps.to_text(reservation.time),
            **_usage_to_json(reservation.usage),
            "cost": f"{reservation.cost:f}",
        }
    )


def settled_line(settlement: Settlement) -> bytes:
    """The line of a settlement."""
    return _line(
        {
            "kind": "settled",
            "callId": settlement.call_id,
            **_usage_to_json(settlement.usage),
            "cost": f"{settlement.cost:f}",
            "priceVersion": settlement.price_version,
            "estimated": settlement.estimated,
            **({} if settlement.prices is None else {"prices": _prices_to_json(settlement.prices)}),
        }
    )


def read_line(line: bytes) -> Reservation | Settlement:
    """What a line, without its end, records. Raises ValueError for one that is no such line, whole and unchanged."""
    # Thousands of lines name the same prices. They are the last field, and no text holds a bare quotation mark.
    body, mark, prices = check_line(line).partition(_PRICES)
    fields = LINE.open(parse(body + b"}"))
    kind = fields.text("kind")
    if kind == "settled":
        record: Reservation | Settlement | None = _settlement(fields, _prices(prices) if mark else None)
    else:
        record = _reservation(fields) if kind == "reserved" and not mark else None
    if record is None:
        raise ValueError(f"kind {kind} is not known")
    fields.end()
    return record


def check_line(line: bytes) -> bytes:
    """What the checksum of a line, without its end, stands for. Raises ValueError if it does not fit."""
    body, mark, rest = line.rpartition(_MARK)
    if not mark or rest != b'%08x"}' % zlib.crc32(body):
        raise ValueError("its checksum does not fit")
    return body


def quoted(text: str) -> bytes:
    """A text as it stands in a line that holds it."""
    return json.dumps(text, ensure_ascii=False).encode("utf-8", "replace")


def totals_to_json(book: MonthBook, log_size: int) -> dict[str, Any]:
    """The document that holds what a month, whose log has this size, adds up to."""
    return TOTALS.stamp(
        {
            "logSize": log_size,
            "settlements": book.settlements,
            "usage": [
                {
                    "day": part.day,
                    **_usage_to_json(part.usage),
                    "cost": f"{part.cost:f}",
                    "calls": part.calls,
                    "estimatedCost": f"{part.estimated_cost:f}",
                }
                for part in book.usage.values()
            ],
        }
    )


def totals_from_json(document: object) -> tuple[MonthBook, int]:
    """The month that a document holds, and the size of its log. Raises ValueError."""
    fields = TOTALS.open(document)
    size, settlements = fields.whole("logSize"), fields.whole("settlements")
    usage = [_day_usage(part) for part in fields.items("usage")]
    fields.end()
    return MonthBook(usage, settlements), size


def _line(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(LINE.stamp(document), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    body = text[:-1].encode("utf-8", "replace")
    return body + _MARK + b'%08x"}\n' % zlib.crc32(body)


def _usage_to_json(usage: TokenUsage) -> dict[str, Any]:
    parts = {
        "cacheReadTokens": usage.cache_read_tokens,
        "cacheWriteTokens": usage.cache_write_tokens,
        "cacheWrite1hTokens": usage.cache_write_1h_tokens,
    }
    return {
        "model": usage.model or "",
        "promptTokens": usage.prompt_tokens,
        "completionTokens": usage.completion_tokens,
        **{name: tokens for name, tokens in parts.items() if tokens},
    }


def _usage(fields: Fields) -> TokenUsage:
    return TokenUsage(
        model=fields.text("model"),
        prompt_tokens=fields.whole("promptTokens"),
        completion_tokens=fields.whole("completionTokens"),
        cache_read_tokens=fields.optional(fields.whole, "cacheReadTokens") or 0,
        cache_write_tokens=fields.optional(fields.whole, "cacheWriteTokens") or 0,
        cache_write_1h_tokens=fields.optional(fields.whole, "cacheWrite1hTokens") or 0,
    )


def _money(fields: Fields, name: str) -> Decimal:
    try:
        amount = Decimal(fields.text(name))
    except InvalidOperation:
        raise ValueError(f"{name} is not an amount") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{name} is not an amount")
    return amount


def _reservation(fields: Fields) -> Reservation:
    return Reservation(
        call_id=fields.text("callId"),
        execution_id=fields.text("executionId"),
        time=fields.time("time"),
        usage=_usage(fields),
        cost=_money(fields, "cost"),
    )


def _settlement(fields: Fields, prices: Model | None) -> Settlement:
    return Settlement(
        call_id=fields.text("callId"),
        usage=_usage(fields),
        cost=_money(fields, "cost"),
        price_version=fields.text("priceVersion"),
        estimated=fields.truth("estimated"),
        prices=prices,
    )


def _prices_to_json(model: Model) -> dict[str, Any]:
    prices = {
        "promptTokenPrice": model.prompt_token_price,
        "completionTokenPrice": model.completion_token_price,
        "cacheReadTokenPrice": model.cache_read_token_price,
        "cacheWriteTokenPrice": model.cache_write_token_price,
    }
    return {
        "id": model.id,
        "displayName": model.display_name,
        **{name: f"{price:f}" for name, price in prices.items() if price is not None},
        **({} if model.context_window is None else {"contextWindow": model.context_window}),
    }


@lru_cache(maxsize=64)
def _prices(content: bytes) -> Model:
    document = parse(content)
    if not isinstance(document, dict):
        raise ValueError("prices is not an object")
    fields = Fields(document, "prices.")

    def price(name: str) -> Decimal:
        return _money(fields, name)

    model = Model(
        fields.text("id"),
        fields.text("displayName"),
        price("promptTokenPrice"),
        price("completionTokenPrice"),
        fields.optional(price, "cacheReadTokenPrice"),
        fields.optional(price, "cacheWriteTokenPrice"),
        fields.optional(fields.whole, "contextWindow"),
    )
    fields.end()
    return model


def _day_usage(fields: Fields) -> DayUsage:
    usage = _usage(fields)
    part = DayUsage(
        day=fields.text("day"),
        model=usage.model or "",
        usage=usage,
        cost=_money(fields, "cost"),
        calls=fields.whole("calls"),
        estimated_cost=_money(fields, "estimatedCost"),
    )
    fields.end()
    return part
