"""ListProjects: pages from the beginning, from the middle, and the last one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.harness import MILLISECONDS, Row, compare
from benchmarks.stores import Store, Stores

PAGE_SIZES = (50, 1_000)


async def measure(stores: Stores, rounds: int) -> Sequence[Row]:
    """Pages of every size that a store can fill twice, so that its pages cost what pages cost."""
    rows = []
    for page_size in PAGE_SIZES:
        large = {size: store for size, store in stores.items() if size >= 2 * page_size}
        tokens = {size: await _tokens(store, size, page_size) for size, store in large.items()}
        for place in ("first", "middle", "last") if large else ():
            works = {size: partial(_page, store, page_size, tokens[size][place]) for size, store in large.items()}
            name = f"ListProjects, {place} page of {page_size:,} (ms)"
            rows.append(await compare(name, works, rounds=rounds, scale=MILLISECONDS))
    return rows


async def _page(store: Store, page_size: int, token: str | None) -> None:
    page = await store.storage.projects.list(page_size, token)
    assert len(page.items) == page_size


async def _tokens(store: Store, size: int, page_size: int) -> Mapping[str, str | None]:
    """The tokens with which the pages begin."""
    middle, last = size // 2 // page_size * page_size, size - page_size
    to_middle = await _skip(store, None, middle)
    return {"first": None, "middle": to_middle, "last": await _skip(store, to_middle, last - middle)}


async def _skip(store: Store, token: str | None, count: int) -> str | None:
    while count:
        page = await store.storage.projects.list(min(count, max(PAGE_SIZES)), token)
        count, token = count - len(page.items), page.next_page_token
    return token
