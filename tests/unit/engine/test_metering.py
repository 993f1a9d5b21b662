"""The meter counts what an answer reports, however the answer is cut into chunks."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.engine.metering import ApiError, CallMeter, StreamMeter

MODEL = "claude-sonnet-4-5"


def event(document: dict[str, Any], line_end: str = "\n") -> str:
    return f"event: {document['type']}{line_end}data: {json.dumps(document)}{line_end}{line_end}"


def answer(line_end: str = "\n") -> bytes:
    documents: Sequence[dict[str, Any]] = [
        {
            "type": "message_start",
            "message": {
                "id": "msg_1",
                "usage": {
                    "input_tokens": 40,
                    "cache_creation_input_tokens": 30,
                    "cache_read_input_tokens": 20,
                    "cache_creation": {"ephemeral_5m_input_tokens": 25, "ephemeral_1h_input_tokens": 5},
                    "output_tokens": 1,
                },
            },
        },
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 'a "usage" \r\n word'}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 17}},
        {"type": "message_stop"},
    ]
    return "".join(event(document, line_end) for document in documents).encode()


WHOLE = TokenUsage(90, 17, MODEL, cache_read_tokens=20, cache_write_tokens=30, cache_write_1h_tokens=5)


@given(
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, len(answer("\r\n"))), max_size=30),
)
def test_chunk_boundaries_do_not_matter(line_end: str, cuts: list[int]) -> None:
    data = answer(line_end)
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    call = CallMeter(MODEL)
    stream = StreamMeter(call)
    for start, end in itertools.pairwise(bounds):
        stream.feed(data[start:end])
    assert call.usage == WHOLE
    stream.end()
    assert call.usage == WHOLE


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_single_bytes(line_end: str) -> None:
    call = CallMeter(MODEL)
    stream = StreamMeter(call)
    for byte in answer(line_end):
        stream.feed(bytes([byte]))
    assert call.usage == WHOLE


def test_usage_is_known_as_soon_as_its_event_is_complete() -> None:
    data = answer()
    first_event_end = data.index(b"\n\n") + 2
    call = CallMeter(MODEL)
    stream = StreamMeter(call)
    stream.feed(data[: first_event_end - 1])
    assert call.usage is None
    stream.feed(data[first_event_end - 1 : first_event_end])
    assert call.usage == TokenUsage(90, 1, MODEL, 20, 30, 5)


def test_a_stream_cut_before_the_last_blank_line_still_counts() -> None:
    data = answer()
    cut = data.index(b"\n\n", data.index(b"message_delta"))
    call = CallMeter(MODEL)
    stream = StreamMeter(call)
    stream.feed(data[:cut])
    assert call.usage is not None
    assert call.usage.completion_tokens == 1
    stream.end()
    assert call.usage.completion_tokens == 17


def test_a_stream_cut_inside_an_event_counts_what_came_before() -> None:
    data = answer()
    call = CallMeter(MODEL)
    stream = StreamMeter(call)
    stream.feed(data[: data.index(b"message_delta") + 40])
    stream.end()
    assert call.usage == TokenUsage(90, 1, MODEL, 20, 30, 5)


def test_data_over_several_lines_is_one_event() -> None:
    call = CallMeter(MODEL)
    stream = StreamMeter(call)
    stream.feed(b'data: {"type": "message_delta",\ndata: "usage": {"input_tokens": 3, "output_tokens": 4}}\n\n')
    assert call.usage == TokenUsage(3, 4, MODEL)


def test_later_totals_replace_earlier_ones_and_never_take_away() -> None:
    call = CallMeter(MODEL)
    call.report({"input_tokens": 10, "output_tokens": 1})
    call.report({"input_tokens": 12, "output_tokens": 5, "cache_read_input_tokens": None})
    assert call.usage == TokenUsage(12, 5, MODEL)
    call.report({"input_tokens": 0, "output_tokens": 9})
    assert call.usage == TokenUsage(12, 9, MODEL)


@pytest.mark.parametrize("usage", [None, 3, "many", [], {"output_tokens": True}, {"output_tokens": -1}])
def test_what_is_no_count_is_ignored(usage: object) -> None:
    call = CallMeter(MODEL)
    call.report(usage)
    assert call.usage is None


def test_events_that_are_no_usage_are_passed_over() -> None:
    call = CallMeter(MODEL)
    stream = StreamMeter(call)
    stream.feed(
        b'data: "usage"\n\ndata: {"usage": \n\ndata: {"type": "other", "usage": {"output_tokens": 4}}\n\n: hi\n\n'
    )
    assert call.usage is None
    assert stream.error is None


def test_an_error_event_is_kept() -> None:
    stream = StreamMeter(CallMeter(MODEL))
    stream.feed(event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}).encode())
    assert stream.error == ApiError("overloaded_error", "Overloaded")
