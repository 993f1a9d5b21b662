"""Redaction of one run, without holding up what else the server does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from cloutagent_server.domain.events import ToolUse
from cloutagent_server.service.redaction import PIECE_CHARACTERS, RedactedStream, Redactor, Steps

P = ParamSpec("P")
T = TypeVar("T")

# One for all runs: more would only take the interpreter from the event loop. Each run has one piece of text waiting for
# it at most, so that runs take turns.
_THREAD: Final = ThreadPoolExecutor(1, thread_name_prefix="redaction")


class RunRedaction:
    """Takes the secrets of a run out of what it shows. Only what is short and has none of them stays on the event loop.

    One call at a time, and each to its end.
    """

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._text = redactor.stream()

    @classmethod
    async def of(cls, values: Iterable[str]) -> RunRedaction:
        """The redaction of these values, with all ways to write them found out in a thread."""
        return cls(await _in_thread(Redactor, tuple(values)))

    async def push(self, piece: str) -> str:
        """See `RedactedStream.push`. The stream is the text that the agent writes."""
        return await _pushed(self._text, piece)

    async def flush(self) -> str:
        """See `RedactedStream.flush`."""
        return await _flushed(self._text)

    async def whole(self, text: str) -> str:
        """See `Redactor.whole`."""
        stream = self._redactor.stream()
        return await _pushed(stream, text) + await _flushed(stream)

    async def tool_use(self, use: ToolUse) -> ToolUse:
        """The call of a tool without the values: in its arguments and in its name, which the model writes too."""
        name, arguments = await self._document(use.name), await self._document(use.input)
        return ToolUse(use.tool_use_id, name, arguments if isinstance(arguments, Mapping) else {})

    async def _document(self, value: object) -> Any:
        """A JSON value without the values, in such parts that other runs have their turns between them."""
        if self._redactor.idle:
            return self._redactor.document(value)
        steps, ended = self._redactor.document_in_steps(value), list[object]()
        while not ended:
            await _in_thread(_advance, steps, ended)
        return ended[0]


def _advance(steps: Steps[object], ended: list[object]) -> None:
    """Go on for as long as a piece of text takes; put what comes out at the end into `ended`."""
    seen = 0
    while seen < PIECE_CHARACTERS:
        try:
            seen += next(steps)
        except StopIteration as end:
            ended.append(end.value)
            return


async def _pushed(stream: RedactedStream, text: str) -> str:
    shown = []
    for at in range(0, len(text), PIECE_CHARACTERS):
        piece = text[at : at + PIECE_CHARACTERS]
        shown.append(await _in_thread(stream.push, piece) if stream.takes_long(piece) else stream.push(piece))
    return "".join(shown)


async def _flushed(stream: RedactedStream) -> str:
    return await _in_thread(stream.flush) if stream.takes_long() else stream.flush()


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.get_running_loop().run_in_executor(_THREAD, partial(work, *args, **kwargs))
