"""The shape of Anthropic's Messages API: what the gateway sets in a request, drops from headers, and answers itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final

from cloutagent_server.domain.project import AgentConfig

MESSAGES_PATH: Final = "/v1/messages"
COUNT_TOKENS_PATH: Final = "/v1/messages/count_tokens"

_VERSION: Final = re.compile(r"claude-[a-z]+-(?P<major>\d+)(?:-(?P<minor>\d{1,2}))?(?!\d)")
_FIRST_WITHOUT_SAMPLING: Final = (4, 7)
_SAMPLING: Final = ("temperature", "top_p", "top_k")
_PRICED_APART: Final = ("service_tier", "speed", "inference_geo")
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
_ONLY_TO_GATEWAY: Final = frozenset(
    {"host", "content-length", "accept-encoding", "expect", "cookie", "authorization", "x-api-key"}
)
_ONLY_FROM_VENDOR: Final = frozenset({"content-length", "content-encoding", "set-cookie", "location"})


def takes_temperature(model: str) -> bool:
    """Whether the API accepts sampling parameters for `model`; from version 4.7 on it refuses such a request."""
    version = _VERSION.match(model)
    return version is None or (int(version["major"]), int(version["minor"] or 0)) < _FIRST_WITHOUT_SAMPLING


def configure(body: MutableMapping[str, Any], config: AgentConfig, max_tokens: int) -> None:
    """Make the body of a messages request follow the agent's configuration and an allowance of output tokens.

    The configured temperature is the only sampling parameter that goes out, and none does for a model that takes none.
    Thinking is dropped where the API refuses it beside the temperature or the allowance, and what would be billed at
    another price than the list's is dropped always.
    """
    sampled = takes_temperature(body["model"])
    for name in (*_SAMPLING, *_PRICED_APART):
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


def request_headers(headers: Mapping[str, str], api_key: str | None) -> dict[str, str]:
    """The agent's headers as they go to the vendor: the agent's own credential replaced by `api_key`, if any."""
    forwarded = _end_to_end(headers, _ONLY_TO_GATEWAY)
    if api_key:
        forwarded["x-api-key"] = api_key
    forwarded["accept-encoding"] = "identity"
    return forwarded


def response_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The vendor's headers as they go to the agent; the body goes unencoded and its length is for the server to say."""
    return _end_to_end(headers, _ONLY_FROM_VENDOR)


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
