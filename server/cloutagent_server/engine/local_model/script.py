"""The directive language of the local model: from text to the steps of one answer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cloutagent_server.engine.local_model.tokens import filler

MAX_FILLER_TOKENS: Final = 1_000_000
MAX_DELAY_SECONDS: Final = 3600.0


class ScriptError(ValueError):
    """A directive has a wrong argument; the message says which and what is right."""


@dataclass(frozen=True, slots=True)
class Say:
    """Write text."""

    text: str


@dataclass(frozen=True, slots=True)
class Result:
    """Write what the last tool answered."""


@dataclass(frozen=True, slots=True)
class Tool:
    """Call a tool; this ends the answer."""

    name: str
    input: dict[str, object]


@dataclass(frozen=True, slots=True)
class Delay:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Rate:
    """Write so many tokens a second from here on."""

    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class ReportUsage:
    """Report these input counts; None is what is counted, or 0 for the cache."""

    input: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None


@dataclass(frozen=True, slots=True)
class Error:
    """Fail with an HTTP status. `retry_after` is seconds."""

    status: int
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Drop the connection."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """Send what no client understands."""


@dataclass(frozen=True, slots=True)
class Silence:
    """Send nothing until the client goes away."""


Fault = Error | Cut | Garbage | Silence


@dataclass(frozen=True, slots=True)
class FailOnce:
    """Carry out the fault the first time only."""

    fault: Fault


Step = Say | Result | Tool | Delay | Rate | ReportUsage | Fault | FailOnce

_BARE: Final[dict[str, Fault]] = {"cut": Cut(), "garbage": Garbage(), "silence": Silence()}
_OPENING = re.compile(r"\[\[(say|result|tool|delay|tokens|rate|usage|error|fail-once|cut|garbage|silence)(?=:|\]\])")
_TOOL_NAME = re.compile(r"\s*([A-Za-z0-9_.-]{1,128})\s*")
_CLOSING = re.compile(r"\s*\]\]")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s)")
_RATE = re.compile(r"(\d+(?:\.\d+)?)/s")
_ERROR = re.compile(r"([45]\d\d)(?:\s+retry-after=(\d{1,4}))?")
_USAGE = re.compile(r"(input|cache_read|cache_write)=(\d{1,9})")


def parse(text: str) -> list[Step]:
    """The steps that the directives in `text` ask for, in order.

    Raises:
        ScriptError: A directive has a wrong argument.
    """
    steps: list[Step] = []
    position = 0
    while opening := _OPENING.search(text, position):
        name = opening[1]
        start = opening.end()
        if text.startswith("]]", start):
            steps.append(_step(name, None))
            position = start + 2
        elif name == "tool":
            step, position = _tool(text, start + 1)
            steps.append(step)
        else:
            end = text.find("]]", start)
            if end < 0:
                raise ScriptError(f"[[{name}: is not closed by ]]")
            steps.append(_step(name, text[start + 1 : end]))
            position = end + 2
    return steps


def turn(steps: Sequence[Step], number: int) -> list[Step]:
    """The steps of the answer after `number` tool results, led by the rate that holds when it begins."""
    rate: list[Step] = []
    current: list[Step] = []
    passed = 0
    for step in steps:
        if passed == number:
            current.append(step)
        elif isinstance(step, Rate):
            rate = [step]
        if isinstance(step, Tool):
            if passed == number:
                break
            passed += 1
    return rate + current


def _tool(text: str, start: int) -> tuple[Tool, int]:
    name = _TOOL_NAME.match(text, start)
    if name is None:
        raise ScriptError('a tool call is [[tool: Name {"key": "value"}]]')
    arguments: object = {}
    position = name.end()
    if text.startswith("{", position):
        try:
            arguments, position = json.JSONDecoder().raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise ScriptError(f"the input of [[tool: {name[1]}]] is not JSON: {error.msg}") from error
    closing = _CLOSING.match(text, position)
    if closing is None or not isinstance(arguments, dict):
        raise ScriptError(f"[[tool: {name[1]}]] takes one JSON object and is closed by ]]")
    return Tool(name[1], arguments), closing.end()


def _step(name: str, argument: str | None) -> Step:
    if name == "result" or name in _BARE:
        if argument is not None:
            raise ScriptError(f"[[{name}]] takes no argument")
        return _BARE[name] if name in _BARE else Result()
    if argument is None:
        raise ScriptError(f"[[{name}: ...]] needs an argument")
    if name == "say":
        return Say(argument.removeprefix(" "))
    argument = argument.strip()
    match name:
        case "tokens":
            if not argument.isdecimal() or not 1 <= int(argument) <= MAX_FILLER_TOKENS:
                raise ScriptError(f"[[tokens: {argument}]]: a number from 1 to {MAX_FILLER_TOKENS} is needed")
            return Say(filler(int(argument)))
        case "delay":
            duration = _DURATION.fullmatch(argument)
            seconds = float(duration[1]) / (1000 if duration[2] == "ms" else 1) if duration else -1
            if not 0 <= seconds <= MAX_DELAY_SECONDS:
                raise ScriptError(f"[[delay: {argument}]]: a time up to an hour such as 200ms or 1.5s is needed")
            return Delay(seconds)
        case "rate":
            rate = _RATE.fullmatch(argument)
            if rate is None or float(rate[1]) <= 0:
                raise ScriptError(f"[[rate: {argument}]]: a rate above 0 such as 50/s is needed")
            return Rate(float(rate[1]))
        case "usage":
            return _usage(argument)
        case "error":
            return _error(argument)
        case _:
            return FailOnce(_BARE[argument] if argument in _BARE else _error(argument))


def _usage(argument: str) -> ReportUsage:
    counts: dict[str, int] = {}
    for part in argument.split():
        count = _USAGE.fullmatch(part)
        if count is None:
            raise ScriptError(f"[[usage: {argument}]]: input=N, cache_read=N and cache_write=N are known")
        counts[count[1]] = int(count[2])
    return ReportUsage(counts.get("input"), counts.get("cache_read"), counts.get("cache_write"))


def _error(argument: str) -> Error:
    error = _ERROR.fullmatch(argument)
    if error is None:
        raise ScriptError(f"{argument!r} is no fault: a status such as 529, or 429 retry-after=1, is needed")
    return Error(int(error[1]), int(error[2]) if error[2] else None)
