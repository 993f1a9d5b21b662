"""What an agent says, as it may stand in a log: in events of bounded size, whatever the agent sends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final, assert_never

from cloutagent_server.domain.event_json import text_bytes
from cloutagent_server.domain.events import AgentOutput, Message, TextDelta, ToolResult, ToolUse

MAX_EVENT_BYTES: Final = 1 << 20
"""The most bytes that an event has as JSON; clients of gRPC take messages of 4 MiB."""
MAX_LOG_BYTES: Final = 256 << 20
"""The most bytes of what an agent says in one log."""
MAX_NAME_CHARACTERS: Final = 1_000
CUT: Final = " [cut]"

# Besides one text, an event has names and numbers.
_MAX_TEXT_BYTES: Final = MAX_EVENT_BYTES - (1 << 16)
# A character takes at most six bytes in JSON.
_MAX_TEXT_CHARACTERS: Final = _MAX_TEXT_BYTES // 6
_ALL_BUT_TEXT_BYTES: Final = 256


def parts_of(output: AgentOutput) -> Iterator[AgentOutput]:
    """An output as events that are small enough: texts in several, arguments and answers of tools cut, with a mark."""
    match output:
        case TextDelta(text):
            yield from map(TextDelta, _pieces(text))
        case Message(text):
            yield from map(Message, _pieces(text))
        case ToolUse(tool_use_id, name, arguments):
            written = _written(arguments)
            fits = len(written.encode("utf-8", "replace")) <= _MAX_TEXT_BYTES
            shown = arguments if fits else {"cut": _beginning(written, _MAX_TEXT_CHARACTERS)}
            yield ToolUse(_name(tool_use_id), _name(name), shown)
        case ToolResult(tool_use_id, content, is_error):
            shown_content = content if _fits(content) else _beginning(content, _MAX_TEXT_CHARACTERS)
            yield ToolResult(_name(tool_use_id), shown_content, is_error)
        case _:
            assert_never(output)


def size_of(output: AgentOutput) -> int:
    """About the bytes that an output takes in a log."""
    match output:
        case TextDelta(text) | Message(text) | ToolResult(content=text):
            return text_bytes(text) + _ALL_BUT_TEXT_BYTES
        case ToolUse(input=arguments):
            return len(_written(arguments).encode("utf-8", "replace")) + _ALL_BUT_TEXT_BYTES
        case _:
            assert_never(output)


def cut(text: str, characters: int) -> str:
    """`text` as it is, or its beginning with a mark. It must be redacted before: half a secret is not found."""
    return text if len(text) <= characters else _beginning(text, characters)


def _written(arguments: Mapping[str, object]) -> str:
    return json.dumps(arguments, ensure_ascii=False, default=str)


def _name(text: str) -> str:
    return cut(text, MAX_NAME_CHARACTERS)


def _beginning(text: str, characters: int) -> str:
    return text[: characters - len(CUT)] + CUT


def _pieces(text: str) -> Iterator[str]:
    if _fits(text):
        yield text
        return
    for start in range(0, len(text), _MAX_TEXT_CHARACTERS):
        yield text[start : start + _MAX_TEXT_CHARACTERS]


def _fits(text: str) -> bool:
    return len(text) <= _MAX_TEXT_CHARACTERS or text_bytes(text) <= _MAX_TEXT_BYTES
