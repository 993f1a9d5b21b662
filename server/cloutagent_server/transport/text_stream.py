"""Executions' events as text streams over google.api.HttpBody."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

from google.api.httpbody_pb2 import HttpBody

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import InvalidRequest
from cloutagent_server.domain.events import StoredEvent
from cloutagent_server.service.usage import UsageService
from cloutagent_server.service.watch import WatchService
from cloutagent_server.transport.context import Context, answer_with, metadata_of, progress, request_id
from cloutagent_server.transport.errors import to_status
from cloutagent_server.transport.event_codec import TEXT_STREAMS, TextStream, heartbeat, text_stream_for
from cloutagent_server.transport.shared_answers import SharedAnswers
from cloutagent_server.transport.usage_codec import update_to_proto

LAST_EVENT_ID_METADATA: Final = "last-event-id"


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


class TextEvents:
    """Executions' events as text, encoded once for all watchers of one form."""

    def __init__(self, watches: WatchService) -> None:
        self._watches = watches
        self._shared = {form.content_type: SharedAnswers(_encoder(form)) for form in TEXT_STREAMS}

    async def after(
        self, context: Context, execution_id: str, sequence: int, *, reconnects: bool = False
    ) -> AsyncGenerator[HttpBody | bytes, None]:
        """The events after a sequence number in the form that the caller's `Accept` asks for, encoded or to be encoded.

        A caller that `reconnects` until it is told to stop is told so when nothing can follow: a REST caller gets 204.

        Errors before the first byte are raised, so that the caller gets their status; later ones are also written to
        the stream, since HTTP has no status left to give.
        """
        if not await self._watches.check_cursor(execution_id, sequence) and reconnects:
            await answer_with(context, 204)
        stream = text_stream_for(metadata_of(context, "accept"))
        shared = self._shared[stream.content_type]
        yield HttpBody(content_type=stream.content_type, data=stream.opening())
        sent = progress()
        sent.cursor = sequence
        try:
            async with aclosing(self._watches.watch(execution_id, sequence)) as batches:
                async for batch in batches:
                    if batch:
                        for answer, cursor in shared.of(batch):
                            yield answer
                            sent.cursor = cursor
                    else:
                        beat = heartbeat(execution_id, sent.cursor, timestamps.now())
                        yield HttpBody(data=stream.heartbeat(beat))
        except Exception as fault:
            yield HttpBody(data=stream.error(to_status(fault, request_id())))
            raise


def _encoder(stream: TextStream) -> Callable[[Sequence[StoredEvent]], bytes]:
    return lambda events: HttpBody(data=stream.events(events)).SerializeToString()


async def text_usage(
    usage: UsageService, context: Context, project_id: str, first: str | None, last: str | None
) -> AsyncGenerator[HttpBody, None]:
    """A project's usage and its changes in the form that the caller's `Accept` asks for; errors as in `TextEvents`."""
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
