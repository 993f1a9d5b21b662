"""Answers made of events: made once, however many watch."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import accumulate
from typing import Final, Generic, TypeVar

from cloutagent_server.domain.events import StoredEvent, data_of
from cloutagent_server.service.watch import BATCH_EVENTS

MAX_PART_BYTES: Final = 131_072

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

Answers = Sequence[tuple[bytes, int]]
"""Encoded answers, each with the sequence number of its last event."""


class SharedAnswers:
    """Answers by the batch of events that they hold. Those sent last are kept for the other watchers."""

    def __init__(
        self,
        encode: Callable[[Sequence[StoredEvent]], bytes],
        most_events: int = BATCH_EVENTS,
        max_bytes: int = 4 << 20,
    ) -> None:
        """`encode` makes an answer of up to `most_events`. `max_bytes` bounds what is kept."""
        self._encode = encode
        self._most_events = most_events
        self._kept = Kept[tuple[bytes, bytes], Answers](max_bytes)

    def of(self, batch: Sequence[StoredEvent]) -> Answers:
        """The answers that hold these events of one execution."""
        # The first and the last event stand for all between them. Watchers at the end of a log share the events
        # themselves, so that their bytes are hashed once.
        key = (batch[0].data, batch[-1].data)
        answers = self._kept.get(key)
        if answers is None:
            answers = tuple((self._encode(part), part[-1].sequence) for part in parts(batch, self._most_events))
            self._kept.keep(key, answers, sum(len(answer) for answer, _ in answers))
        return answers


def parts(batch: Sequence[StoredEvent], most: int) -> Iterator[Sequence[StoredEvent]]:
    """Cuts a batch of more than `most` events behind every sequence number that `most` divides.

    So whoever catches up gets the same parts as others do, wherever they began. Any batch is cut where its bytes would
    pass 128 KiB. Every part has an event at least.
    """
    start = 0
    while start < len(batch):
        part = batch[start:]
        if len(batch) > most:
            part = part[: most - (part[0].sequence - 1) % most]
        ends = list(accumulate(map(len, data_of(part))))
        if ends[-1] > MAX_PART_BYTES:
            part = part[: max(1, bisect_right(ends, MAX_PART_BYTES))]
        yield part
        start += len(part)


class Kept(Generic[K, V]):
    """Values by key, those kept last, up to so many bytes together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """What is kept under a key."""
        kept = self._values.get(key)
        return None if kept is None else kept[0]

    def keep(self, key: K, value: V, size: int) -> None:
        """Keep a value that is not kept yet and takes `size` bytes."""
        self._values[key] = (value, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            _, (_, size) = self._values.popitem(last=False)
            self._bytes -= size
