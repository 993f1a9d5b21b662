"""Pages of a list whose order stands in the index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import structlog

from cloutagent_server.domain.errors import StoredDataDamaged
from cloutagent_server.domain.execution import Execution, ExecutionFilter
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.storage import paging
from cloutagent_server.storage.base import Page
from cloutagent_server.storage.selection import MAX_LOOKED_AT

T = TypeVar("T")
Places = Callable[[str | None, int], Sequence[str]]

_log = structlog.get_logger(__name__)


def collect(scope: str, page_size: int, start: str | None, places: Places, read: Callable[[str], T | None]) -> Page[T]:
    """A page of the records that `read` gives for the identifiers at `places` behind `start`.

    Places whose record is gone are passed over, damaged records also, and logged. Blocks.
    """
    items: list[T] = []
    last = ""
    for place, item in _records(page_size, start, places, read):
        if len(items) == page_size:
            return Page(tuple(items), paging.to_token(scope, last))
        items.append(item)
        last = place
    return Page(tuple(items), None)


def executions_at(
    places: Places,
    start: str | None,
    count: int,
    wanted: ExecutionFilter,
    read: Callable[[str], Execution | None],
) -> Iterator[tuple[str, Execution | None]]:
    """The places in front of `start` that may hold a wanted execution, with what stands there. Blocks.

    `places` is asked for `count` of them at first, and for more at a time when the filter passes over many. What the
    time of creation, which is in the place, rules out is not read.
    """
    before = None if wanted.created_before is None else paging.position_after(wanted.created_before)
    start = min((place for place in (start, before) if place is not None), default=None)
    end = "" if wanted.created_after is None else paging.position_before(wanted.created_after)
    while True:
        chosen = [place for place in places(start, count) if place > end]
        for place in chosen:
            identifier = paging.identifier_at(place)
            yield place, next((record for _, record in readable([identifier], read)), None)
        if len(chosen) < count:
            return
        start, count = chosen[-1], min(2 * count, MAX_LOOKED_AT)


def readable(identifiers: Iterable[str], read: Callable[[str], T | None]) -> Iterator[tuple[str, T]]:
    """The identifiers whose record is there, with what `read` gives for them. Damaged records are logged."""
    for identifier in filter(is_id, identifiers):
        try:
            record = read(identifier)
        except StoredDataDamaged as fault:
            _log.error("damaged_record_left_out", location=fault.location, fault=fault.fault)
            continue
        if record is not None:
            yield identifier, record


def _records(
    page_size: int, start: str | None, places: Places, read: Callable[[str], T | None]
) -> Iterator[tuple[str, T]]:
    count = page_size + 1
    while True:
        chosen = places(start, count)
        by_identifier = {paging.identifier_at(place): place for place in chosen}
        for identifier, record in readable(by_identifier, read):
            yield by_identifier[identifier], record
        if len(chosen) < count:
            return
        start = chosen[-1]
