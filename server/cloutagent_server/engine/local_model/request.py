"""Reading a Messages API request as far as the local model needs it, and the API's errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_ERROR_TYPES: Final = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_REMINDER: Final = "<system-reminder>"


class ApiError(Exception):
    """The answer is this error. `retry_after` is seconds."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after

    def body(self, request_id: str) -> dict[str, object]:
        """The error as the API words it."""
        kind = _ERROR_TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}, "request_id": request_id}


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """What the local model looks at in a request.

    Attributes:
        body: The request as it came.
        model: Model asked for.
        stream: Whether a stream is asked for.
        max_tokens: The most output tokens; None where the endpoint does not ask for it.
        temperature: None if absent.
        prompt: Text of the last message of the user that is no tool result, without the agent's own reminders.
        tool_results: Number of tool results after the prompt.
        last_result: Text of the last one of them, without such reminders; empty if there is none.
    """

    body: dict[str, object]
    model: str
    stream: bool
    max_tokens: int | None
    temperature: float | None
    prompt: str
    tool_results: int
    last_result: str = ""


def read_request(raw: bytes, *, needs_max_tokens: bool) -> MessagesRequest:
    """Check a request body.

    Raises:
        ApiError: 400, the body is not what the API takes; 404, the model's name is not one of the vendor's.
    """
    try:
        body = json.loads(raw)
    except ValueError:
        raise ApiError(400, "the request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise ApiError(400, "the request body must be a JSON object")
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise ApiError(400, "model: Field required")
    if not model.startswith("claude-"):
        raise ApiError(404, f"model: {model}")
    max_tokens = body.get("max_tokens")
    if needs_max_tokens and (not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1):
        raise ApiError(400, "max_tokens: a number of at least 1 is required")
    temperature = body.get("temperature")
    if temperature is not None:
        if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 <= temperature <= 1:
            raise ApiError(400, "temperature: range: 0..1")
        thinking = body.get("thinking")
        if temperature != 1 and isinstance(thinking, dict) and thinking.get("type") != "disabled":
            raise ApiError(400, "`temperature` may only be set to 1 when thinking is enabled")
    prompt, results = _prompt(_messages(body))
    return MessagesRequest(
        body,
        model,
        body.get("stream") is True,
        max_tokens if needs_max_tokens else None,
        None if temperature is None else float(temperature),
        prompt,
        len(results),
        results[-1] if results else "",
    )


def _messages(body: dict[str, object]) -> list[dict[str, object]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError(400, "messages: at least one message is required")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise ApiError(400, "messages: each message needs a role of user or assistant")
        if not isinstance(message.get("content"), str | list):
            raise ApiError(400, "messages: the content of a message is a text or a list of blocks")
    return messages


def _prompt(messages: list[dict[str, object]]) -> tuple[str, list[str]]:
    """The prompt, and the texts of the tool results after it in their order."""
    results: list[str] = []
    for message in reversed(messages):
        if message["role"] != "user":
            continue
        blocks = list(_blocks(message))
        here = [_text(block) for block in blocks if block.get("type") == "tool_result"]
        results = here + results
        texts = [block.get("text") for block in blocks if block.get("type") == "text"]
        written = [text for text in texts if isinstance(text, str) and not text.startswith(_REMINDER)]
        if not here and written:
            return "\n".join(written), results
    return "", results


def _text(block: dict[str, object]) -> str:
    parts = (part.get("text") for part in _blocks(block))
    return "\n".join(part.partition(_REMINDER)[0].rstrip() for part in parts if isinstance(part, str)).strip()


def _blocks(message: dict[str, object]) -> Iterator[dict[str, object]]:
    content = message.get("content")
    if isinstance(content, str):
        yield {"type": "text", "text": content}
    elif isinstance(content, list):
        yield from (block for block in content if isinstance(block, dict))
