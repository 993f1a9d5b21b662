"""The stored form of events: one line, read back as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloutagent_server.domain import event_json
from cloutagent_server.domain.cost import Usage
from cloutagent_server.domain.events import Event, Payload, TextDelta, ToolUse
from tests.support import builders
from tests.support.event_strategies import events


@given(events())
def test_an_event_is_read_back_as_it_was(event: Event) -> None:
    stored = event_json.encode(event)
    assert (stored.sequence, stored.kind) == (event.sequence, event.payload.kind)
    assert event_json.decode(stored.data) == event


@given(events())
def test_an_event_is_one_line(event: Event) -> None:
    data = event_json.encode(event).data
    assert b"\n" not in data and b"\r" not in data
    assert json.loads(data)["kind"] == event.payload.kind


@given(events())
def test_the_kind_of_a_line_is_known_without_parsing_it(event: Event) -> None:
    assert event_json.encode(event).kind == event.payload.kind


def test_the_form_of_a_line() -> None:
    event = Event("e-1", 7, datetime(2026, 1, 31, 12, 0, 0, 5000, tzinfo=UTC), TextDelta('Grüße "x"\n'))
    assert event_json.encode(event).data.decode() == (
        '{"executionId":"e-1","sequence":7,"time":"2026-01-31T12:00:00.005Z","kind":"text_delta",'
        '"textDelta":{"text":"Grüße \\"x\\"\\n"}}'
    )


def test_a_kind_in_what_was_said_does_not_mislead() -> None:
    payload: Payload = ToolUse("t", "Write", {"text": '"kind":"completed"', "kind": "failed"})
    stored = event_json.encode(builders.event("e", 1, payload))
    assert stored.kind == "tool_use"


def test_text_that_is_no_unicode_is_stored_all_the_same() -> None:
    stored = event_json.encode(builders.event("e", 1, TextDelta("half \ud83d pair")))
    assert event_json.decode(stored.data).payload == TextDelta("half ? pair")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no json",
        b"[]",
        b"7",
        b'"text"',
        b"{}",
        b"\xff\xfe",
        b'{"executionId":"e","sequence":1,"time":"2026-01-31T12:00:00Z","kind":"unknown","unknown":{}}',
        b'{"executionId":"e","sequence":1,"time":"2026-01-31T12:00:00Z","kind":"queued"}',
        b'{"executionId":"e","sequence":1,"time":"2026-01-31T12:00:00Z","kind":"queued","queued":7}',
        b'{"executionId":"e","sequence":1,"time":"2026-01-31T12:00:00","kind":"queued","queued":{"position":0}}',
        b'{"executionId":"e","sequence":1,"time":"yesterday","kind":"queued","queued":{"position":0}}',
        b'{"executionId":"e","sequence":1,"time":7,"kind":"queued","queued":{"position":0}}',
        b'{"executionId":"e","sequence":1,"time":"2026-01-31T12:00:00Z","kind":7,"queued":{"position":0}}',
        b'{"executionId":"e","sequence":1,"time":"2026-01-31T12:00:00Z","kind":["queued"],"queued":{"position":0}}',
        b'{"executionId":"e","sequence":1,"time":"2026-01-31T12:00:00Z","kind":"limit_warning",'
        b'"limitWarning":{"limit":"time","percent":1}}',
    ],
)
def test_a_line_that_is_no_event_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (whatever it says: the storage names file and line)
        event_json.decode(data)


@given(st.decimals(0, 100_000, places=9))
def test_a_cost_is_read_back_to_the_last_digit(cost: Decimal) -> None:
    usage = Usage(1, 2, 0, 0, cost, 1)
    document: Mapping[str, object] = json.loads(json.dumps(event_json.usage_to_json(usage)))
    assert event_json.usage_from_json(document) == usage
