"""Events as they lie in streamed answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloutagent.v1.execution_pb2 import ExecuteStreamResponse, ExecutionEvent, WatchExecutionResponse
from cloutagent_server.domain import event_json
from cloutagent_server.domain.events import Event, StoredEvent
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.transport import event_frames, text_stream
from cloutagent_server.transport.event_codec import to_proto
from cloutagent_server.transport.event_frames import EventFrames, encode
from cloutagent_server.transport.text_stream import parts
from tests.support import builders
from tests.support.event_strategies import events


def stored(count: int) -> Sequence[StoredEvent]:
    return [event_json.encode(event) for event in builders.texts(new_id(), count)]


@given(events())
def test_every_event_is_encoded_as_its_message(event: Event) -> None:
    line = event_json.encode(event)
    assert ExecutionEvent.FromString(encode(line)) == to_proto(line)


@given(st.text(), st.integers(1, 2**31 - 1), st.integers(-(10**12), 10**12))
def test_so_is_text_of_any_kind_at_any_time(text: str, sequence: int, milliseconds: int) -> None:
    time = builders.at(milliseconds)
    line = event_json.encode(replace(builders.event(new_id(), sequence, builders.text_delta(text)), time=time))
    assert ExecutionEvent.FromString(encode(line)) == to_proto(line)


@pytest.mark.parametrize("count", [1, 16, 17, 256])
@pytest.mark.parametrize("answer", [WatchExecutionResponse, ExecuteStreamResponse])
def test_an_answer_holds_its_events_in_order(
    count: int, answer: type[WatchExecutionResponse | ExecuteStreamResponse]
) -> None:
    lines = stored(count)
    assert list(answer.FromString(EventFrames().answer(lines)).events) == [to_proto(line) for line in lines]


def test_those_who_catch_up_share_answers_wherever_they_began(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    def counted(event: StoredEvent) -> bytes:
        encoded.append(event.sequence)
        return encode(event)

    monkeypatch.setattr(event_frames, "encode", counted)
    frames, lines = EventFrames(), stored(1_024)
    for begin in (0, 100, 255, 256, 300, 1_000):
        sent = b"".join(frames.answer(part) for part in parts(lines[begin:], 256))
        assert list(WatchExecutionResponse.FromString(sent).events) == [to_proto(line) for line in lines[begin:]]
    # Those who begin within a part need its events once more, one by one, and the others find these.
    assert len(encoded) == 1_024 + 156 + 212 + 24


@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=60), st.integers(1, 300), st.integers(1, 20))
def test_parts_are_the_batch_cut_where_all_cut(sizes: list[int], first: int, most: int) -> None:
    batch = [StoredEvent(first + at, b"x" * size) for at, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_stream, "MAX_CHUNK_BYTES", 4_000)
        cut = list(parts(batch, most))
    assert [event for part in cut for event in part] == batch
    for part, following in zip(cut, [*cut[1:], None], strict=True):
        size = sum(len(event.data) for event in part)
        assert size <= 4_000 or len(part) == 1
        assert not any(event.sequence % most == 0 for event in part[:-1])
        if following is not None:
            assert part[-1].sequence % most == 0 or size + len(following[0].data) > 4_000


def test_a_live_event_is_encoded_once_for_all_watchers(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []

    def counted(event: StoredEvent) -> bytes:
        encoded.append(event.sequence)
        return encode(event)

    monkeypatch.setattr(event_frames, "encode", counted)
    frames, [line] = EventFrames(), stored(1)
    assert len({frames.answer([line]) for _ in range(100)}) == 1
    assert encoded == [1]
