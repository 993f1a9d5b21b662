"""Executions' events as text streams over google.api.HttpBody."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from itertools import accumulate
from typing import Final

from google.api.httpbody_pb2 import HttpBody

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import InvalidRequest
from cloutagent_server.domain.events import StoredEvent
from cloutagent_server.service.usage import UsageService
from cloutagent_server.service.watch import BATCH_EVENTS, WatchService
from cloutagent_server.transport.context import Context, metadata_of, note_cursor, request_id
from cloutagent_server.transport.errors import to_status
from cloutagent_server.transport.event_codec import heartbeat, text_stream_for
from cloutagent_server.transport.usage_codec import update_to_proto

LAST_EVENT_ID_METADATA: Final = "last-event-id"
MAX_CHUNK_BYTES: Final = 131_072


def last_event_id(context: Context) -> int | None:
    """The sequence number in the caller's `Last-Event-ID`; None if there is none.

    Raises:
        InvalidRequest: It is not a number that this server could have sent.
    """
    text = metadata_of(context, LAST_EVENT_ID_METADATA)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise InvalidRequest.of("Last-Event-ID", "must be the id of an event of this stream")
    return int(text)


async def text_events(
    watches: WatchService, context: Context, execution_id: str, after_sequence: int
) -> AsyncGenerator[HttpBody, None]:
    """The events after a sequence number in the form that the caller's `Accept` asks for.

    Errors before the first byte are raised, so that the caller gets their status; later ones are also written to the
    stream, since HTTP has no status left to give.
    """
    await watches.check_cursor(execution_id, after_sequence)
    stream = text_stream_for(metadata_of(context, "accept"))
    yield HttpBody(content_type=stream.content_type, data=stream.opening())
    cursor = after_sequence
    note_cursor(cursor)
    try:
        async with aclosing(watches.watch(execution_id, after_sequence)) as batches:
            async for batch in batches:
                if not batch:
                    beat = heartbeat(execution_id, cursor, timestamps.now())
                    yield HttpBody(data=stream.heartbeat(beat))
                    continue
                for part in parts(batch):
                    yield HttpBody(data=stream.events(part))
                    cursor = part[-1].sequence
                    note_cursor(cursor)
    except Exception as fault:
        yield HttpBody(data=stream.error(to_status(fault, request_id())))
        raise


async def text_usage(
    usage: UsageService, context: Context, project_id: str, first: str | None, last: str | None
) -> AsyncGenerator[HttpBody, None]:
    """A project's usage and its changes in the form that the caller's `Accept` asks for; errors as in `text_events`."""
    stream = text_stream_for(metadata_of(context, "accept"))
    async with aclosing(usage.watch(project_id, first, last)) as reports:
        opened = False
        try:
            async for report in reports:
                update = update_to_proto(report, timestamps.now())
                text = stream.heartbeat(update) if report is None else stream.message("usage", update)
                yield (
                    HttpBody(data=text)
                    if opened
                    else HttpBody(content_type=stream.content_type, data=stream.opening() + text)
                )
                opened = True
        except Exception as fault:
            if opened:
                yield HttpBody(data=stream.error(to_status(fault, request_id())))
            raise


def parts(batch: Sequence[StoredEvent], most: int = BATCH_EVENTS) -> Iterator[Sequence[StoredEvent]]:
    """Cuts a batch behind every sequence number that `most` divides, and where its bytes would pass a chunk's size.

    So whoever catches up gets the same parts as others do, wherever they began. Every part has an event at least.
    """
    start = 0
    while start < len(batch):
        part = batch[start : start + most - (batch[start].sequence - 1) % most]
        sizes = [len(data) for _, data in part]
        if sum(sizes) > MAX_CHUNK_BYTES:
            part = part[: max(1, bisect_right(list(accumulate(sizes)), MAX_CHUNK_BYTES))]
        yield part
        start += len(part)
