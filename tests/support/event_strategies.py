"""Hypothesis strategies of events of every kind."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import strategies as st

from cloutagent_server.domain.cost import ExceededLimit, Usage
from cloutagent_server.domain.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    Failure,
    FailureReason,
    LimitWarning,
    Message,
    Payload,
    Queued,
    Started,
    TextDelta,
    TokenUsed,
    ToolResult,
    ToolUse,
)

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
_COUNT = st.integers(0, 2**31 - 1)
_PERCENT = st.floats(0, 1e9)
_COST = st.decimals(Decimal(0), Decimal(100_000), places=9)

# What a tool's input may hold: JSON whose numbers every reader of JSON takes for the same.
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e15, 1e15) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)

_USAGE = st.builds(Usage, _COUNT, _COUNT, _COUNT, _COUNT, _COST, _COUNT)
_FAILURE = st.builds(Failure, st.sampled_from(FailureReason), _TEXT, st.none() | st.sampled_from(ExceededLimit))

_BY_KIND: dict[type[Payload], st.SearchStrategy[Payload]] = {
    Queued: st.builds(Queued, _COUNT),
    Started: st.builds(Started, _TEXT),
    TextDelta: st.builds(TextDelta, _TEXT),
    Message: st.builds(Message, _TEXT),
    ToolUse: st.builds(ToolUse, _TEXT, _TEXT, st.dictionaries(_TEXT, _JSON, max_size=4)),
    ToolResult: st.builds(ToolResult, _TEXT, _TEXT, st.booleans()),
    TokenUsed: st.builds(TokenUsed, _USAGE, _PERCENT, _PERCENT, _TEXT),
    LimitWarning: st.builds(LimitWarning, st.sampled_from(ExceededLimit), _PERCENT),
    Completed: st.builds(Completed, _TEXT, _USAGE, _COUNT),
    Failed: st.builds(Failed, _FAILURE, _USAGE, _COUNT),
    Cancelled: st.builds(Cancelled, _USAGE, _COUNT),
}

PAYLOAD_TYPES = frozenset(_BY_KIND)


def payloads() -> st.SearchStrategy[Payload]:
    """Payloads of every kind."""
    return st.one_of(*_BY_KIND.values())


def events() -> st.SearchStrategy[Event]:
    """Events of every kind, at whole milliseconds."""
    times = st.integers(0, 4_000_000_000_000).map(
        lambda milliseconds: datetime.fromtimestamp(milliseconds // 1000, UTC).replace(
            microsecond=milliseconds % 1000 * 1000
        )
    )
    return st.builds(Event, st.uuids().map(str), st.integers(1, 2**31 - 1), times, payloads())
