"""How much input a messages request can have, as far as its bytes tell, and at what price.

A token stands for at least one byte, so the bytes of the JSON text are a bound for whatever of the input is text. What
the vendor adds for tools and the like is not in the request; images and documents are not priced by their bytes; and
what tools of the vendor's own feed to the model is not known before the call.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_PLAIN: Final = frozenset({"model", "messages", "system", "cache_control"})
_NOT_INPUT: Final = frozenset({"max_tokens", "stream", "metadata", "temperature", "top_p", "top_k", "stop_sequences"})
_TEXT_BLOCKS: Final = frozenset({"text", "tool_use", "tool_result", "thinking", "redacted_thinking"})
_AGENT_TOOLS: Final = re.compile(r"custom|(?:bash|text_editor|computer|memory)_\d+")
_SHOWN: Final = re.compile(r"[a-z0-9_]{1,64}")
_FIXED_SOURCES: Final = ("base64", "text", "content", "file")
_TTL: Final = re.compile(rb'"ttl":"(?!5m")')


@dataclass(frozen=True, slots=True)
class InputFacts:
    """What a request tells about its input.

    Attributes:
        text_bytes: Bytes of system prompt and messages; None if they hold something that bytes do not bound.
        added_for: A digest of all else that counts as input (tools, output format); None if there is nothing else.
        unbounded: What makes the input impossible to bound before the call; None if nothing does.
        cache_write: Whether input may be written to the vendor's cache.
        cache_write_1h: Whether it may be written for longer than five minutes.
    """

    text_bytes: int | None
    added_for: str | None
    unbounded: str | None
    cache_write: bool
    cache_write_1h: bool


def counted_part(body: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a messages request that its input tokens are counted of: the body of a count_tokens request."""
    return {name: value for name, value in body.items() if name not in _NOT_INPUT}


def facts_of(body: Mapping[str, Any]) -> InputFacts:
    """What a messages request tells about its input."""
    text = {name: body[name] for name in ("system", "messages") if name in body}
    added = {name: value for name, value in counted_part(body).items() if name not in _PLAIN and not _is_off(value)}
    text_json, added_json = _compact(text), _compact(added)
    cached = "cache_control" in body or b'"cache_control":' in text_json or b'"cache_control":' in added_json
    top = _compact(body.get("cache_control"))
    return InputFacts(
        text_bytes=len(text_json) if _is_text(body) else None,
        added_for=hashlib.sha256(_compact(body["model"]) + added_json).hexdigest() if added else None,
        unbounded=_unbounded(body),
        cache_write=cached,
        cache_write_1h=cached and any(_TTL.search(part) is not None for part in (text_json, added_json, top)),
    )


def _compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _is_off(value: object) -> bool:
    return value is None or value == {"type": "disabled"} or value == [] or value == {}


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
        and block.get("type") in _TEXT_BLOCKS
        and (block["type"] != "tool_result" or _is_text_content(block.get("content", "")))
        for block in content
    )


def _unbounded(body: Mapping[str, Any]) -> str | None:
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        return "tools that are no list"
    for tool in tools:
        kind = tool.get("type", "custom") if isinstance(tool, dict) else None
        if not isinstance(kind, str) or _AGENT_TOOLS.fullmatch(kind) is None:
            # An agent writes the kind: what cannot be one of the vendor's is not repeated.
            shown = isinstance(kind, str) and _SHOWN.fullmatch(kind) is not None
            return f"the vendor's own tool {kind}" if shown else "a tool of an unknown kind"
    for name in ("mcp_servers", "container"):
        if not _is_off(body.get(name)):
            return f"{name} at the vendor"
    if b"compact" in _compact(body.get("context_management")):
        return "compaction at the vendor"
    if _has_loose_source([body.get("messages"), body.get("system")]):
        return "content that the vendor fetches"
    return None


def _has_loose_source(value: object) -> bool:
    """Whether content is named by where it is: it may be another when the vendor counts than when it reads."""
    rest = [value]
    while rest:
        match rest.pop():
            case dict() as found:
                source = found.get("source")
                if isinstance(source, dict) and source.get("type") not in _FIXED_SOURCES:
                    return True
                # What a tool is called with is text, whatever it looks like.
                rest += [item for name, item in found.items() if name != "input" or found.get("type") != "tool_use"]
            case list() as items:
                rest += items
    return False
