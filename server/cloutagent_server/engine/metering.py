"""Reads the token usage of one model call from its answer while the answer passes by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloutagent_server.domain.cost import TokenUsage
from cloutagent_server.engine.prices import undated

MOST_TOKENS: Final = 10_000_000
"""The most tokens of a kind that a call can have. No model takes or writes so many; a larger number is none."""
MOST_EVENT_BYTES: Final = 4 * 1024 * 1024
"""The longest event of a stream, and the longest line of one."""

_LINE_ENDS: Final = (b"\r\n", b"\n", b"\r")
_COUNTS: Final = ("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
_WRITTEN: Final = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
# Most events are text and say nothing about usage; they are not worth parsing twice.
_WORTH_READING: Final = (b'"usage"', b'"error"', b'"message_start"')


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error that the Messages API reported. `kind` is its type, such as `overloaded_error`."""

    kind: str
    message: str


class CallMeter:
    """The usage of one call to the Messages API.

    The vendor reports totals: input at the start of a stream, output at its end and, for some calls, either again. The
    meter keeps the largest total that it has seen of each, so a report that leaves something out takes nothing away.

    Attributes:
        others: Models other than the one that was asked which have answered, or taken part.
        repeated: Whether the vendor asked models more than once for this call.
    """

    def __init__(self, model: str) -> None:
        self.others: set[str] = set()
        self.repeated = False
        self._model = model
        self._totals: dict[str, int] = {}
        self._unreadable = False

    @property
    def usage(self) -> TokenUsage | None:
        """What the call has used so far; None before its input was told, and when a count was none that can be."""
        if self._unreadable or "input_tokens" not in self._totals:
            return None
        read = self._totals.get("cache_read_input_tokens", 0)
        parts = sum(self._totals.get(name, 0) for name in _WRITTEN)
        written = max(self._totals.get("cache_creation_input_tokens", 0), parts)
        return TokenUsage(
            prompt_tokens=self._totals["input_tokens"] + read + written,
            completion_tokens=self._totals.get("output_tokens", 0),
            model=self._model,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=self._totals.get("ephemeral_1h_input_tokens", 0),
        )

    @property
    def exact(self) -> bool:
        """Whether input and output were told, and nothing speaks against it that they are all there is to be billed."""
        told = self.usage is not None and "output_tokens" in self._totals
        return told and not self.others and not self.repeated

    def answered_by(self, model: object) -> None:
        """Take in the model that the vendor says answers. A dated version of the one that was asked is the same."""
        if isinstance(model, str) and undated(model) != undated(self._model):
            self.others.add(model)

    def report(self, usage: object) -> None:
        """Take in a `usage` object of the API."""
        if not isinstance(usage, Mapping):
            return
        self._keep({name: self._count(usage, name) for name in _COUNTS})
        self._keep(self._lifetimes(usage))
        self._repetitions(usage.get("iterations"))

    def _lifetimes(self, usage: Mapping[str, Any]) -> dict[str, int | None]:
        by_lifetime = usage.get("cache_creation")
        return {name: self._count(by_lifetime, name) for name in _WRITTEN} if isinstance(by_lifetime, Mapping) else {}

    def _repetitions(self, iterations: object) -> None:
        """What the vendor did for the call one after the other: all of it is billed, not only the last."""
        if not isinstance(iterations, list) or len(iterations) < 2:
            return
        self.repeated = True
        sums: dict[str, int] = {}
        for one in iterations:
            if not isinstance(one, Mapping) or self._count(one, "input_tokens") is None:
                self._unreadable = True
                return
            self.answered_by(one.get("model"))
            for name, count in {**{name: self._count(one, name) for name in _COUNTS}, **self._lifetimes(one)}.items():
                sums[name] = sums.get(name, 0) + (count or 0)
        self._keep(sums)

    def _count(self, counts: Mapping[str, Any], name: str) -> int | None:
        """A count of tokens; None if it is not told. One that cannot be makes all that was told unreadable."""
        count = counts.get(name)
        if type(count) is int and 0 <= count <= MOST_TOKENS:
            return count
        self._unreadable = self._unreadable or count is not None
        return None

    def _keep(self, counts: Mapping[str, int | None]) -> None:
        for name, count in counts.items():
            if count is not None:
                self._totals[name] = max(count, self._totals.get(name, 0))


class StreamMeter:
    """Follows a call's server-sent events in chunks of any size, holding back nothing but the event under way."""

    def __init__(self, call: CallMeter) -> None:
        self._call = call
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._after_return = False
        self.error: ApiError | None = None
        """The error event of the stream, if there was one."""
        self.begun = False
        """Whether the stream began to answer. An error before that was not billed."""
        self.final = False
        """Whether the stream told what the call used in the end."""
        self.overlong = False
        """Whether an event was longer than any that the API sends. The meter takes in nothing after it."""

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes of the stream; events that they complete are counted when this returns."""
        if not chunk or self.overlong:
            return
        if self._after_return:
            chunk = chunk.removeprefix(b"\n")
        self._after_return = chunk.endswith(b"\r")
        for part in chunk.splitlines(keepends=True):
            self._line += part
            if self._size + len(self._line) > MOST_EVENT_BYTES:
                self.overlong = True
                return
            if part.endswith(_LINE_ENDS):
                self._end_line()

    def end(self) -> None:
        """The stream has ended, perhaps in the middle of an event: count what can still be read."""
        if not self.overlong:
            self._end_line()
            self._end_event()

    def _end_line(self) -> None:
        line = bytes(self._line).rstrip(b"\r\n")
        self._line.clear()
        if line.startswith(b"data:"):
            self._data.append(line[5:])
            self._size += len(line)
        elif not line:
            self._end_event()

    def _end_event(self) -> None:
        data = b"\n".join(self._data)
        self._data.clear()
        self._size = 0
        if any(word in data for word in _WORTH_READING):
            self._read(data)

    def _read(self, data: bytes) -> None:
        try:
            event = json.loads(data)
        except (ValueError, RecursionError):
            return
        match event:
            case {"type": "message_start", "message": {**message}}:
                self.begun = True
                self._call.answered_by(message.get("model"))
                self._call.report(message.get("usage"))
            case {"type": "message_delta", "usage": usage}:
                self.begun = True
                self._call.report(usage)
                self.final = self.final or (tells_output(usage) and _stop_reason(event) is not None)
            case {"type": "error"}:
                self.error = error_of(event)


def tells_output(usage: object) -> bool:
    """Whether a `usage` object of the API says how many tokens were written."""
    return isinstance(usage, Mapping) and type(usage.get("output_tokens")) is int


def _stop_reason(event: Mapping[str, Any]) -> object:
    delta = event.get("delta")
    return delta.get("stop_reason") if isinstance(delta, Mapping) else None


def error_of(document: object) -> ApiError | None:
    """The error in an error document of the API; None if it is no such document."""
    match document:
        case {"error": {"type": str(kind), "message": str(message)}}:
            return ApiError(kind, message)
    return None
