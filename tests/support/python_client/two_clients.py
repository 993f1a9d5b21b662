"""The blocking client in the clothes of the one for asyncio, so that a scenario is written once for both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any, Final, Literal, cast

from cloutagent import AsyncClient, Client

Kind = Literal["sync", "async"]
KINDS: Final[tuple[Kind, ...]] = ("sync", "async")


def make_client(kind: Kind, **options: Any) -> AsyncClient:
    """A client of this kind. The blocking one makes each of its calls in a thread."""
    return AsyncClient(**options) if kind == "async" else cast(AsyncClient, _Threaded(Client(**options)))


class _Threaded:
    """Any object of the blocking client: its methods become coroutines, its iterators asynchronous ones."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if not callable(value):
            return _Threaded(value) if type(value).__module__.startswith("cloutagent._sync") else value
        if name in ("list", "watch"):
            return lambda *arguments, **options: _Answer(value, arguments, options)

        async def call(*arguments: Any, **options: Any) -> Any:
            return await asyncio.to_thread(value, *arguments, **options)

        return call

    def __repr__(self) -> str:
        return repr(self._inner)

    async def __aenter__(self) -> _Threaded:
        await asyncio.to_thread(self._inner.__enter__)
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await asyncio.to_thread(self._inner.__exit__, *raised)


class _Answer:
    """What `list` and `watch` return: awaited or iterated over, as the scenario likes."""

    def __init__(self, method: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._make: Callable[[], Any] = partial(method, *arguments, **options)
        self._iterator: Any = None

    def __await__(self) -> Any:
        return asyncio.to_thread(self._make).__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self._iterator is None:
            self._iterator = iter(self._make())
        item = await asyncio.to_thread(next, cast(Iterator[Any], self._iterator), _END)
        if item is _END:
            raise StopAsyncIteration
        return item

    async def __aenter__(self) -> _Answer:
        self._iterator = iter(self._make())
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self.close()

    async def close(self) -> None:
        """End it."""
        if self._iterator is not None:
            await asyncio.to_thread(self._iterator.close)

    @property
    def last_sequence(self) -> int:
        """That of the watch."""
        number: int = self._iterator.last_sequence
        return number


_END: Final = object()
