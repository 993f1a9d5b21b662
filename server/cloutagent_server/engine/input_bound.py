"""How much input a messages request can have, as far as its bytes tell, and at what price.

A token stands for at least one byte, so the bytes of the JSON text are a bound for whatever of the input is text. What
the vendor adds for tools and the like is not in the request; images and documents are not priced by their bytes; and
what tools of the vendor's own, blocks of an unknown kind and the like feed to the model is not known before the call.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

_TEXT_BLOCKS: Final = frozenset({"text", "tool_use", "tool_result", "thinking", "redacted_thinking"})
_BLOCKS: Final = _TEXT_BLOCKS | {"image", "document", "search_result"}
_MESSAGE_FIELDS: Final = frozenset({"role", "content", "output_config"})
_AGENT_TOOLS: Final = re.compile(r"custom|(?:bash|text_editor|computer|memory)_\d+")
_EDITS: Final = re.compile(r"clear_[a-z_]+_\d+")
_SHOWN: Final = re.compile(r"[a-z0-9_]{1,64}")
_FIXED_SOURCES: Final = ("base64", "text", "content", "file")
_AT_VENDOR: Final = ("mcp_servers", "container", "compaction", "thread")


@dataclass(frozen=True, slots=True)
class InputFacts:
    """What a request tells about its input.

    Attributes:
        is_text: Whether system prompt and messages hold nothing that their bytes do not bound.
        unbounded: What makes the input impossible to bound before the call; None if nothing does.
        cache_write: Whether input may be written to the vendor's cache.
        cache_write_1h: Whether it may be written for longer than five minutes.
    """

    is_text: bool
    unbounded: str | None
    cache_write: bool
    cache_write_1h: bool


def facts_of(body: Mapping[str, Any]) -> InputFacts:
    """What a messages request tells about its input."""
    controls = list(_cache_controls(body))
    return InputFacts(
        is_text=_is_text(body),
        unbounded=_unbounded(body),
        cache_write=bool(controls),
        # A lifetime that is not known may be the dearest.
        cache_write_1h=any(not isinstance(one, Mapping) or one.get("ttl", "5m") != "5m" for one in controls),
    )


def is_off(value: object) -> bool:
    """Whether a field with this value is as good as left out."""
    return value is None or value == {"type": "disabled"} or value == [] or value == {}


def _cache_controls(value: object) -> Iterator[object]:
    """Every `cache_control`, however deep, also where it may be none: one too many never makes a call look cheaper."""
    rest = [value]
    while rest:
        match rest.pop():
            case dict() as found:
                if "cache_control" in found:
                    yield found["cache_control"]
                rest += found.values()
            case list() as items:
                rest += items


def _is_text(body: Mapping[str, Any]) -> bool:
    messages = body.get("messages")
    if not isinstance(messages, list) or not _is_text_content(body.get("system", "")):
        return False
    return all(isinstance(message, dict) and _is_text_content(message.get("content", "")) for message in messages)


def _is_text_content(content: object) -> bool:
    if isinstance(content, str):
        return True
    return isinstance(content, list) and all(
        isinstance(block, dict)
        and _is_kind(block, _TEXT_BLOCKS)
        and (block["type"] != "tool_result" or _is_text_content(block.get("content", "")))
        for block in content
    )


def _is_kind(block: Mapping[str, Any], kinds: frozenset[str]) -> bool:
    kind = block.get("type")
    return isinstance(kind, str) and kind in kinds


def _unbounded(body: Mapping[str, Any]) -> str | None:
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        return "tools that are no list"
    for tool in tools:
        kind = tool.get("type", "custom") if isinstance(tool, dict) else None
        if not isinstance(kind, str) or _AGENT_TOOLS.fullmatch(kind) is None:
            return _named("the vendor's own tool", "a tool of an unknown kind", kind)
    for name in _AT_VENDOR:
        if not is_off(body.get(name)):
            return f"{name} at the vendor"
    return _of_edits(body.get("context_management")) or _of_content(body)


def _of_edits(management: object) -> str | None:
    if is_off(management):
        return None
    edits = management["edits"] if isinstance(management, Mapping) and management.keys() == {"edits"} else None
    for edit in edits if isinstance(edits, list) else [None]:
        kind = edit.get("type") if isinstance(edit, dict) else None
        if not isinstance(kind, str) or _EDITS.fullmatch(kind) is None:
            return _named("the vendor's edit", "an edit of an unknown kind", kind)
    return None


def _of_content(body: Mapping[str, Any]) -> str | None:
    """What of the messages and the system prompt nobody can count: a block that is not known, what is elsewhere."""
    messages = body.get("messages")
    contents: list[object] = [body.get("system")]
    for message in messages if isinstance(messages, list) else []:
        if not isinstance(message, dict):
            return "a message of an unknown kind"
        own = message.get("output_config") or {}
        if not message.keys() <= _MESSAGE_FIELDS or not isinstance(own, dict) or not own.keys() <= {"effort"}:
            return "a message with an unknown field"
        contents.append(message.get("content"))
    while contents:
        content = contents.pop()
        for block in content if isinstance(content, list) else []:
            if not isinstance(block, dict) or not _is_kind(block, _BLOCKS):
                kind = block.get("type") if isinstance(block, dict) else None
                return _named("a block", "a block of an unknown kind", kind)
            source = block.get("source")
            if isinstance(source, dict):
                if source.get("type") not in _FIXED_SOURCES:
                    # It may be another when the vendor counts than when it reads.
                    return "content that the vendor fetches"
                contents.append(source.get("content"))
            contents.append(block.get("content"))
    return None


def _named(known: str, unknown: str, kind: object) -> str:
    """What to call something of this kind. An agent writes it: what cannot be one of the vendor's is not repeated."""
    return f"{known} {kind}" if isinstance(kind, str) and _SHOWN.fullmatch(kind) is not None else unknown
