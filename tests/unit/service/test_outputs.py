"""Outputs of agents as events of bounded size."""

from __future__ import annotations

import pytest

from cloutagent_server.domain import event_json, timestamps
from cloutagent_server.domain.events import AgentOutput, Event, Message, TextDelta, ToolResult, ToolUse
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.service.outputs import CUT, MAX_EVENT_BYTES, parts_of, size_of

LARGE = 3 << 20


def bytes_of(output: AgentOutput) -> int:
    return len(event_json.encode(Event(new_id(), 2**40, timestamps.now(), output)).data)


@pytest.mark.parametrize("character", ["a", "\0", '"', "é", "漢", "\U0001f600", "\ud800"])
@pytest.mark.parametrize("kind", [TextDelta, Message])
def test_a_long_text_is_several_events(kind: type[TextDelta | Message], character: str) -> None:
    parts = list(parts_of(kind(character * LARGE)))
    assert all(bytes_of(part) <= MAX_EVENT_BYTES for part in parts)
    assert "".join(part.text for part in parts if isinstance(part, kind)) == character * LARGE


@pytest.mark.parametrize("character", ["a", "\0"])
def test_what_tools_are_asked_and_say_is_cut(character: str) -> None:
    long = character * LARGE
    [use] = parts_of(ToolUse(long, long, {"text": long, "more": [long]}))
    [result] = parts_of(ToolResult(long, long, False))
    assert max(bytes_of(use), bytes_of(result)) <= MAX_EVENT_BYTES
    assert isinstance(use, ToolUse) and isinstance(result, ToolResult)
    assert use.tool_use_id == result.tool_use_id
    assert result.content.startswith(character * 1000) and result.content.endswith(CUT)
    assert list(use.input) == ["cut"] and str(use.input["cut"]).startswith('{"text": "')


def test_what_is_small_enough_stays_as_it_is() -> None:
    text = "a" * (MAX_EVENT_BYTES - (1 << 16) - 100)
    for output in (TextDelta(text), Message(text), ToolUse("id", "name", {"text": text}), ToolResult("id", text, True)):
        assert list(parts_of(output)) == [output]


def test_a_size_covers_the_event() -> None:
    for text in ("", "text", '\0"\u4f60' * 1000):
        for output in (
            TextDelta(text),
            Message(text),
            ToolUse("id", "name", {"k": text}),
            ToolResult("id", text, True),
        ):
            assert bytes_of(output) <= size_of(output) <= bytes_of(output) + 256
