"""Events as they lie in streamed answers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloutagent.v1.execution_pb2 import ExecuteStreamResponse, ExecutionEvent, WatchExecutionResponse
from cloutagent_server.domain import event_json
from cloutagent_server.domain.events import Event, StoredEvent
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.transport import event_frames, shared_answers
from cloutagent_server.transport.event_codec import to_proto
from cloutagent_server.transport.event_frames import EventFrames, frames
from cloutagent_server.transport.shared_answers import SharedAnswers, parts
from tests.support import builders
from tests.support.event_strategies import events


def stored(count: int) -> Sequence[StoredEvent]:
    return [event_json.encode(event) for event in builders.texts(new_id(), count)]


def decoded(lines: Sequence[StoredEvent]) -> Sequence[ExecutionEvent]:
    return list(WatchExecutionResponse.FromString(b"".join(frames(lines))).events)


@given(st.lists(events(), min_size=1, max_size=4))
def test_every_event_is_encoded_as_its_message(several: list[Event]) -> None:
    execution_id = several[0].execution_id
    numbers = itertools.count(min(several[0].sequence, 2**31 - len(several)))
    lines = [event_json.encode(replace(event, execution_id=execution_id, sequence=next(numbers))) for event in several]
    assert decoded(lines) == [to_proto(line) for line in lines]


@given(st.text(), st.integers(1, 2**31 - 1), st.integers(-(10**12), 10**12))
@example("x" * 16_384, 16_383, 0)
@example("x", 16_384, 1)
def test_so_is_text_of_any_kind_at_any_time(text: str, sequence: int, milliseconds: int) -> None:
    time = builders.at(milliseconds)
    line = event_json.encode(replace(builders.event(new_id(), sequence, builders.text_delta(text)), time=time))
    assert decoded([line]) == [to_proto(line)]


@pytest.mark.parametrize("count", [1, 16, 255, 256])
@pytest.mark.parametrize("answer", [WatchExecutionResponse, ExecuteStreamResponse])
def test_an_answer_holds_its_events_in_order(
    count: int, answer: type[WatchExecutionResponse | ExecuteStreamResponse]
) -> None:
    lines = stored(count)
    assert list(answer.FromString(EventFrames().answer(lines)).events) == [to_proto(line) for line in lines]


def test_batches_are_answered_in_parts_that_are_kept() -> None:
    made: list[int] = []

    def encode(events: Sequence[StoredEvent]) -> bytes:
        made.append(len(events))
        return b"".join(data for _, data in events)

    shared, lines = SharedAnswers(encode, 256), stored(1_024)
    for _ in range(3):
        answers = shared.of(lines[100:600])
        assert [last for _, last in answers] == [256, 512, 600]
        assert b"".join(answer for answer, _ in answers) == encode(lines[100:600])
    assert [count for count in made if count != 500] == [156, 256, 88]


def test_what_is_kept_is_bounded() -> None:
    made: list[int] = []

    def encode(events: Sequence[StoredEvent]) -> bytes:
        made.append(events[0].sequence)
        return b"x" * 400

    shared, lines = SharedAnswers(encode, max_bytes=1_000), stored(3)
    for line in (*lines, lines[2], lines[0]):
        shared.of([line])
    assert made == [1, 2, 3, 1]


@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=60), st.integers(1, 300), st.integers(1, 20))
def test_parts_are_the_batch_cut_where_all_cut(sizes: list[int], first: int, most: int) -> None:
    batch = [StoredEvent(first + at, b"x" * size) for at, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_answers, "MAX_PART_BYTES", 4_000)
        cut = list(parts(batch, most))
    assert [event for part in cut for event in part] == batch
    for part, following in zip(cut, [*cut[1:], None], strict=True):
        size = sum(len(event.data) for event in part)
        assert size <= 4_000 or len(part) == 1
        assert len(part) <= most
        assert len(batch) <= most or not any(event.sequence % most == 0 for event in part[:-1])
        if following is not None:
            assert part[-1].sequence % most == 0 or size + len(following[0].data) > 4_000


def test_a_live_event_is_encoded_once_whatever_batches_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    def counted(events: Sequence[StoredEvent]) -> Iterator[bytes]:
        encoded.extend(event.sequence for event in events)
        return frames(events)

    monkeypatch.setattr(event_frames, "frames", counted)
    live, lines = EventFrames(), stored(40)
    for first, last in ((0, 1), (0, 32), (1, 32), (20, 40), (0, 40)):
        answer = WatchExecutionResponse.FromString(live.answer(lines[first:last]))
        assert list(answer.events) == [to_proto(line) for line in lines[first:last]]
    assert encoded == list(range(1, 41))


def test_an_event_in_the_place_of_another_is_not_answered_with_that_one() -> None:
    # A log that was put back from a backup goes on from where that one ended.
    live, lines = EventFrames(), stored(6)
    live.answer(lines)
    other = [*lines[:3], *(event_json.encode(event) for event in builders.texts(execution_of(lines), 3, after=3))]
    other = [*other[:3], *(replaced(line) for line in other[3:])]
    for first, last in ((2, 4), (3, 6), (0, 6)):
        answer = WatchExecutionResponse.FromString(live.answer(other[first:last]))
        assert list(answer.events) == [to_proto(line) for line in other[first:last]]


@given(st.lists(st.tuples(st.integers(0, 59), st.integers(1, 20)), max_size=12))
def test_any_batches_in_any_order_are_answered_with_their_events(batches: list[tuple[int, int]]) -> None:
    live, lines = EventFrames(most_bytes=2_000, most_logs=1), LINES
    for first, count in batches:
        batch = lines[first : first + count]
        assert list(WatchExecutionResponse.FromString(live.answer(batch)).events) == [to_proto(line) for line in batch]


def execution_of(lines: Sequence[StoredEvent]) -> str:
    return event_json.decode(lines[0].data).execution_id


def replaced(line: StoredEvent) -> StoredEvent:
    return StoredEvent(line.sequence, line.data.replace(b'"text":"', b'"text":"other '))


LINES = stored(60)
