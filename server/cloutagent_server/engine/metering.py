"""Reads the token usage of one model call from its answer while the answer passes by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cloutagent_server.domain.cost import TokenUsage

_LINE_ENDS: Final = (b"\r\n", b"\n", b"\r")


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error that the Messages API reported. `kind` is its type, such as `overloaded_error`."""

    kind: str
    message: str


class CallMeter:
    """The usage of one call to the Messages API.

    The vendor reports totals: input at the start of a stream, output at its end and, for some calls, either again. The
    meter keeps the largest total that it has seen of each, so a report that leaves something out takes nothing away.
    """

    def __init__(self, model: str) -> None:
        self._model = model
        self._totals: dict[str, int] = {}

    @property
    def usage(self) -> TokenUsage | None:
        """What the call has used so far; None before the first report."""
        if not self._totals:
            return None
        read = self._totals.get("cache_read_input_tokens", 0)
        written = self._totals.get("cache_creation_input_tokens", 0)
        return TokenUsage(
            prompt_tokens=self._totals.get("input_tokens", 0) + read + written,
            completion_tokens=self._totals.get("output_tokens", 0),
            model=self._model,
            cache_read_tokens=read,
            cache_write_tokens=written,
            cache_write_1h_tokens=min(self._totals.get("ephemeral_1h_input_tokens", 0), written),
        )

    def report(self, usage: object) -> None:
        """Take in a `usage` object of the API. What is not a count of tokens in it is ignored."""
        if not isinstance(usage, Mapping):
            return
        self._keep(usage, "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        by_lifetime = usage.get("cache_creation")
        if isinstance(by_lifetime, Mapping):
            self._keep(by_lifetime, "ephemeral_1h_input_tokens")

    def _keep(self, counts: Mapping[str, Any], *names: str) -> None:
        for name in names:
            count = counts.get(name)
            if type(count) is int and count >= 0:
                self._totals[name] = max(count, self._totals.get(name, 0))


class StreamMeter:
    """Follows a call's server-sent events in chunks of any size, holding back nothing but the line under way."""

    def __init__(self, call: CallMeter) -> None:
        self._call = call
        self._line = bytearray()
        self._data: list[bytes] = []
        self._after_return = False
        self.error: ApiError | None = None
        """The error event of the stream, if there was one."""
        self.final = False
        """Whether the stream told what the call used in the end."""

    def feed(self, chunk: bytes) -> None:
        """Take in the next bytes of the stream; events that they complete are counted when this returns."""
        if not chunk:
            return
        if self._after_return:
            chunk = chunk.removeprefix(b"\n")
        self._after_return = chunk.endswith(b"\r")
        for part in chunk.splitlines(keepends=True):
            self._line += part
            if part.endswith(_LINE_ENDS):
                self._end_line()

    def end(self) -> None:
        """The stream has ended, perhaps in the middle of an event: count what can still be read."""
        self._end_line()
        self._end_event()

    def _end_line(self) -> None:
        line = bytes(self._line).rstrip(b"\r\n")
        self._line.clear()
        if line.startswith(b"data:"):
            self._data.append(line[5:])
        elif not line:
            self._end_event()

    def _end_event(self) -> None:
        data = b"\n".join(self._data)
        self._data.clear()
        # Most events are text and say nothing about usage; they are not worth parsing twice.
        if b'"usage"' in data or b'"error"' in data:
            self._read(data)

    def _read(self, data: bytes) -> None:
        try:
            event = json.loads(data)
        except ValueError:
            return
        match event:
            case {"type": "message_start", "message": {"usage": usage}}:
                self._call.report(usage)
            case {"type": "message_delta", "usage": usage}:
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
