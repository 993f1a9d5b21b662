"""The shape of Anthropic's Messages API: what of a request goes to the vendor, and what the gateway answers itself.

What goes through is listed here, body field by field and header by header. Whatever is not may be a way to a bill that
no price list knows, today or after the vendor's next change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final

from cloutagent_server.domain.project import AgentConfig

MESSAGES_PATH: Final = "/v1/messages"
COUNT_TOKENS_PATH: Final = "/v1/messages/count_tokens"

INPUT_FIELDS: Final[tuple[str, ...]] = (
    "system",
    "tools",
    "tool_choice",
    "cache_control",
    "output_config",
    "output_format",
    "context_management",
    "messages",
)
"""The fields of a body, beside the model and `SET_FIELDS`, that its input tokens are counted of."""
OTHER_FIELDS: Final[tuple[str, ...]] = ("metadata", "stop_sequences", "stream")
"""Fields that go to the vendor and are no input."""
SET_FIELDS: Final[tuple[str, ...]] = ("model", "max_tokens", "temperature", "top_p", "top_k", "thinking")
"""Fields that `configure` has a say in."""

WITHIN: Final[Mapping[str, frozenset[str]]] = {
    "metadata": frozenset({"user_id"}),
    "output_config": frozenset({"effort", "format", "task_budget"}),
}
"""What goes to the vendor of fields that are made of others."""

BETAS: Final = frozenset(
    {
        # What the agent's command line sends.
        "claude-code-20250219",
        "context-management-2025-06-27",
        "effort-2025-11-24",
        "interleaved-thinking-2025-05-14",
        "mid-conversation-system-2026-04-07",
        "mid-conversation-tool-changes-2026-07-01",
        "per-turn-control-2026-07-01",
        "thinking-display-updates-2026-08-18",
        "thinking-token-count-2026-05-13",
        # What others send that speak the plain API, priced as the list says.
        "extended-cache-ttl-2025-04-11",
        "fine-grained-tool-streaming-2025-05-14",
        "prompt-caching-2024-07-31",
        "prompt-caching-scope-2026-01-05",
        "redact-thinking-2026-02-12",
        "structured-outputs-2025-11-13",
        "structured-outputs-2025-12-15",
        "token-counting-2024-11-01",
        "token-efficient-tools-2025-02-19",
    }
)
"""Values of `anthropic-beta` that go to the vendor. None of them has a price, runs a tool at the vendor or asks another
model."""

_API_VERSION: Final = "2023-06-01"
_VERSION: Final = re.compile(r"claude-[a-z]+-(?P<major>\d+)(?:-(?P<minor>\d{1,2}))?(?!\d)")
_FIRST_WITHOUT_SAMPLING: Final = (4, 7)
_SAMPLING: Final = ("temperature", "top_p", "top_k")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_TO_VENDOR: Final = re.compile(r"accept|user-agent|x-app|x-stainless-[a-z-]+|x-claude-code-[a-z-]+")
_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_ONLY_FROM_VENDOR: Final = frozenset({"content-length", "content-encoding", "set-cookie", "location"})


def takes_temperature(model: str) -> bool:
    """Whether the API accepts sampling parameters for `model`; from version 4.7 on it refuses such a request."""
    version = _VERSION.match(model)
    return version is None or (int(version["major"]), int(version["minor"] or 0)) < _FIRST_WITHOUT_SAMPLING


def configure(body: MutableMapping[str, Any], config: AgentConfig, max_tokens: int) -> None:
    """Make the body of a messages request follow the agent's configuration and an allowance of output tokens.

    The configured temperature is the only sampling parameter that goes out, and none does for a model that takes none.
    Thinking is dropped where the API refuses it beside the temperature or the allowance.
    """
    sampled = takes_temperature(body["model"])
    for name in _SAMPLING:
        body.pop(name, None)
    if sampled:
        body["temperature"] = config.temperature
    body["max_tokens"] = max_tokens
    match body.get("thinking"):
        case {"type": "disabled"}:
            pass
        case {"budget_tokens": int(budget)} if budget >= max_tokens:
            del body["thinking"]
        case {} if sampled and config.temperature != 1:
            del body["thinking"]


def betas(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The values of `anthropic-beta` that go to the vendor, in order, each once."""
    asked = (
        value.strip() for name, line in headers.items() if name.lower() == "anthropic-beta" for value in line.split(",")
    )
    return tuple(dict.fromkeys(value for value in asked if value in BETAS))


def request_headers(headers: Mapping[str, str], api_key: str | None) -> dict[str, str]:
    """The headers of a request to the vendor: those of the agent's that are listed, and its credential `api_key`.

    The version is the one whose answers are metered, whatever the agent asks for.
    """
    forwarded = {
        lower: value for name, value in headers.items() if _TO_VENDOR.fullmatch(lower := name.lower()) is not None
    }
    if asked := betas(headers):
        forwarded["anthropic-beta"] = ",".join(asked)
    if api_key:
        forwarded["x-api-key"] = api_key
    return forwarded | {
        "anthropic-version": _API_VERSION,
        "content-type": "application/json",
        "accept-encoding": "identity",
    }


def response_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The vendor's headers as they go to the agent; the body goes unencoded and its length is for the server to say."""
    return _end_to_end(headers, _ONLY_FROM_VENDOR)


def is_text(headers: Mapping[str, str]) -> bool:
    """Whether all headers are UTF-8, so that they can go on; the bytes of others stand in them as surrogates."""
    return not any(_SURROGATE.search(value) for value in headers.values())


def credential(headers: Mapping[str, str]) -> str:
    """The credential that a request carries in `x-api-key` or as a bearer token; empty if none."""
    if key := headers.get("x-api-key"):
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def error_body(kind: str, message: str) -> bytes:
    """An error document of the API."""
    return json.dumps({"type": "error", "error": {"type": kind, "message": message}}).encode()


def _end_to_end(headers: Mapping[str, str], dropped: Iterable[str]) -> dict[str, str]:
    named = (name.strip().lower() for name in headers.get("connection", "").split(","))
    gone = {*_HOP_BY_HOP, *dropped, *named}
    return {name.lower(): value for name, value in headers.items() if name.lower() not in gone}
