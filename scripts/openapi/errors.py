"""The errors of the API: which statuses a method may answer with, and what their bodies look like."""

from __future__ import annotations

from typing import Any

from scripts.openapi.descriptors import Api, Route
from scripts.openapi.rules import Json

_STATUSES: dict[int, tuple[str, str]] = {
    400: (
        "Invalid",
        "The request is not valid: its body is no such request, a query parameter is unknown, or a field breaks its "
        "rule (INVALID_ARGUMENT, with a `fieldViolations` entry for each faulty field), lies outside of what exists "
        "(OUT_OF_RANGE), or does not fit how things stand (FAILED_PRECONDITION).",
    ),
    401: ("Unauthenticated", "The API key is missing or not valid."),
    403: ("Denied", "The API key may not do this: it belongs to another project, or the admin key is needed."),
    404: ("NotFound", "What the path names does not exist."),
    405: ("MethodNotAllowed", "The path has no such method; `Allow` names those it has."),
    408: ("RequestTimeout", "The request's body did not arrive in time."),
    409: (
        "Conflict",
        "Somebody else changed the same thing at that time, or the idempotency key stands for another request.",
    ),
    413: ("TooLarge", "The request's body is larger than 2 MiB."),
    415: ("UnsupportedMediaType", "The request's body is of a type that is not JSON."),
    429: (
        "TooMany",
        "Too much at a time: requests, keys that are not valid, or executions in the queue. `Retry-After`, or "
        "RetryInfo in the details, says when to try again.",
    ),
    431: (
        "HeadersTooLarge",
        "The request's headers are larger than 60 KiB, or more than 100. Over HTTP/2 the stream is reset instead.",
    ),
    499: ("Cancelled", "The call was cancelled before it had an answer."),
    500: ("Internal", "A fault of the server, which its log explains under the request id."),
    503: ("Unavailable", "The server is stopping, cannot be reached or cannot store anything now. Try again."),
    504: ("Timeout", "The server did not answer in time."),
}
_ALWAYS = {400, 405, 429, 431, 499, 500, 503, 504}

_TYPE = "type.googleapis.com/google.rpc."


def statuses(api: Api, method: Any, route: Route) -> list[int]:
    """The statuses of errors that a method may answer with, besides its success."""
    access = api.option(method, "cloutagent.v1.access")
    found = set(_ALWAYS)
    if not access.anyone:
        found.add(401)
    if not (access.anyone or access.any_key):
        found.add(403)
    if route.variables:
        found.add(404)
    if route.body:
        found |= {408, 413, 415}
    if route.verb != "get" and api.option(method, "cloutagent.v1.audit") is not None:
        found.add(409)
    return sorted(found)


def reference(status: int) -> Json:
    """A reference to the answer with this status."""
    return {"$ref": f"#/components/responses/{_STATUSES[status][0]}"}


def responses() -> Json:
    """The answers that are errors, by name."""
    return {name: _response(status, text) for status, (name, text) in _STATUSES.items()}


def _response(status: int, text: str) -> Json:
    # Headers that are refused are not read: no id is known, or made.
    headers: Json = {} if status == 431 else {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
    if status == 405:
        headers["Allow"] = {"$ref": "#/components/headers/Allow"}
    if status in (429, 503):
        headers["Retry-After"] = {"$ref": "#/components/headers/RetryAfter"}
    schema = {"$ref": "#/components/schemas/Status"}
    return {"description": text, "headers": headers, "content": {"application/json": {"schema": schema}}}


def headers() -> Json:
    """Headers of answers, by name."""
    return {
        "RequestId": {
            "description": "Id of the request: the caller's own `X-Request-Id`, or one made for it. The log has it.",
            "schema": {"type": "string"},
        },
        "Allow": {"description": "The methods that the path has.", "schema": {"type": "string"}},
        "RetryAfter": {
            "description": "In how many seconds the same request may succeed.",
            "schema": {"type": "integer", "minimum": 0},
        },
    }


def schemas(api: Api) -> Json:
    """The schemas of an error's body, by name."""
    reasons = api.enum("ErrorReason")
    named = [value for value in reasons.values if value.number != 0]
    texts = [f"- `{value.name}`: {api.value_text(reasons, value)}" for value in named]
    details = [{"$ref": f"#/components/schemas/{name}"} for name in _DETAILS]
    return {
        "Status": _object(
            "An error, in the JSON form of google.rpc.Status.",
            code={
                "type": "integer",
                "minimum": 1,
                "maximum": 16,
                "description": "The gRPC status code, which the HTTP status follows from.",
            },
            message={"type": "string", "description": "What is wrong, for people."},
            details={
                "type": "array",
                "items": {"oneOf": details},
                "description": "More about it, for programs. Pass over types you do not know.",
            },
        ),
        "ErrorReason": {
            "type": "string",
            "enum": [value.name for value in named],
            "description": "\n".join([api.text(reasons), "", *texts]),
        },
        **{name: _detail(name, *said) for name, said in _DETAILS.items()},
    }


def _object(description: str, **properties: Json) -> Json:
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": list(properties),
    }


def _detail(name: str, description: str, properties: Json) -> Json:
    schema = _object(description, **properties)
    schema["properties"] = {"@type": {"const": f"{_TYPE}{name}"}, **properties}
    schema["required"] = ["@type", *properties]
    return schema


_VIOLATION = {
    "type": "object",
    "properties": {
        "field": {"type": "string", "description": "The field, for example `agent.maxTokens`."},
        "description": {"type": "string", "description": "What is wrong with it."},
        "reason": {"type": "string", "description": "Empty."},
    },
    "required": ["field", "description"],
}
_DETAILS: dict[str, tuple[str, Json]] = {
    "ErrorInfo": (
        "Why, for programs.",
        {
            "reason": {"$ref": "#/components/schemas/ErrorReason"},
            "domain": {"const": "cloutagent"},
            "metadata": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": "What the reason's description names.",
            },
        },
    ),
    "BadRequest": (
        "What is wrong with the request, field by field: 10 fields at most.",
        {"fieldViolations": {"type": "array", "items": _VIOLATION, "description": "The faulty fields."}},
    ),
    "RetryInfo": (
        "When to try again.",
        {"retryDelay": {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?s$", "description": "For example `5s`."}},
    ),
    "RequestInfo": (
        "Which request it was.",
        {
            "requestId": {"type": "string", "description": "The id that the server's log has."},
            "servingData": {"type": "string", "description": "Empty."},
        },
    ),
}
