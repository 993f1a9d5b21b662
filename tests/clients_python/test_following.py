"""How a watch takes answers: each event once and in order, whatever comes twice and whatever it does not know."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from cloutagent._following import EventFollowing, UsageFollowing
from cloutagent.types import UsageReport
from cloutagent.v1.execution_pb2 import (
    CompletedEvent,
    ExecutionEvent,
    HeartbeatEvent,
    TextDeltaEvent,
    WatchExecutionResponse,
    WatchUsageResponse,
)

EVENTS = 30


def text(sequence: int) -> ExecutionEvent:
    """An event of a known kind."""
    return ExecutionEvent(sequence=sequence, kind="text_delta", text_delta=TextDeltaEvent(text=str(sequence)))


def unknown(sequence: int) -> ExecutionEvent:
    """An event of a kind that this version does not know: field 99."""
    return ExecutionEvent.FromString(
        ExecutionEvent(sequence=sequence, kind="new").SerializeToString() + b"\x9a\x06\x00"
    )


def heartbeat(sequence: int) -> ExecutionEvent:
    """A sign of life."""
    return ExecutionEvent(sequence=sequence, kind="heartbeat", heartbeat=HeartbeatEvent())


def completed(sequence: int) -> ExecutionEvent:
    """The last event."""
    return ExecutionEvent(sequence=sequence, kind="completed", completed=CompletedEvent())


def answer(*events: ExecutionEvent) -> WatchExecutionResponse:
    """An answer with these events."""
    return WatchExecutionResponse(events=events)


@settings(deadline=None)
@given(st.data())
def test_whatever_is_cut_each_event_comes_once_and_in_order(data: st.DataObject) -> None:
    unknown_ones = data.draw(st.sets(st.integers(1, EVENTS - 1)))
    log = [unknown(n) if n in unknown_ones else text(n) for n in range(1, EVENTS)] + [completed(EVENTS)]
    following = EventFollowing("e", 0)
    taken: list[int] = []
    for _ in range(200):
        at = following.request().after_sequence
        for size in data.draw(st.lists(st.integers(1, 9), max_size=4)) or [EVENTS]:
            # An answer may begin before the cursor, and have a heartbeat.
            begin = max(0, at - data.draw(st.integers(0, 3)))
            batch = log[begin : at + size]
            taken += [event.sequence for event in following.take(answer(heartbeat(at), *batch))]
            at += size
        if following.over:
            break
    assert taken == [n for n in range(1, EVENTS + 1) if n not in unknown_ones]


def test_a_stream_that_brings_nothing_and_ends_was_at_the_end() -> None:
    following = EventFollowing("e", 7)
    assert following.request().after_sequence == 7
    following.take(answer(heartbeat(7)))
    following.closed()
    assert following.over


def test_a_stream_that_ends_behind_a_kind_that_is_not_known_is_asked_once_more() -> None:
    following = EventFollowing("e", 0)
    following.request()
    assert list(following.take(answer(text(1), unknown(2)))) == [text(1)]
    following.closed()
    assert not following.over
    assert following.request().after_sequence == 2
    following.closed()
    assert following.over


def test_a_report_comes_once() -> None:
    following = UsageFollowing("p", "2026-01-01", None)
    one, other = UsageReport(project_id="p"), UsageReport(project_id="p", from_day="2026-01-02")
    came = [
        report
        for given in (one, None, one, other, other)
        for report in following.take(WatchUsageResponse(report=given))
    ]
    assert came == [one, other]
    request = following.request()
    assert (request.project_id, request.from_day, request.HasField("to_day")) == ("p", "2026-01-01", False)
