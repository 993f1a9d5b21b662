"""The JSON form of events: one line each, on disk and on every text stream alike.

It is protobuf's JSON form of `cloutagent.v1.ExecutionEvent` with every field printed that is not an absent optional
and times always in milliseconds; a test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import BudgetExceeded, BudgetScope, ExceededLimit, Usage
from cloutagent_server.domain.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    Failure,
    FailureReason,
    LimitWarning,
    Message,
    Payload,
    Queued,
    SdkCost,
    Started,
    StoredEvent,
    TerminalPayload,
    TextDelta,
    TokenUsed,
    ToolResult,
    ToolUse,
)

_TEXT: Final = json.JSONEncoder(ensure_ascii=False).encode


def encode(event: Event) -> StoredEvent:
    """The event as it is stored and sent."""
    payload = event.payload
    if isinstance(payload, TextDelta):
        # Most events by far.
        line = (
            f'{{"executionId":"{event.execution_id}","sequence":{event.sequence},'
            f'"time":"{timestamps.to_text(event.time)}","kind":"text_delta",'
            f'"textDelta":{{"text":{_TEXT(payload.text)}}}}}'
        )
        return StoredEvent(event.sequence, line.encode("utf-8", "replace"))
    document = {
        "executionId": event.execution_id,
        "sequence": event.sequence,
        "time": timestamps.to_text(event.time),
        "kind": payload.kind,
        _camel(payload.kind): _payload_to_json(payload),
    }
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return StoredEvent(event.sequence, data)


def text_bytes(text: str) -> int:
    """How many bytes a text takes in an event."""
    return len(_TEXT(text).encode("utf-8", "replace"))


def decode(data: bytes) -> Event:
    """The event that a stored line holds.

    Raises:
        ValueError: The line is not an event of a kind that this version knows.
    """
    try:
        document = json.loads(data)
        kind = document["kind"]
        return Event(
            document["executionId"],
            document["sequence"],
            timestamps.from_text(document["time"]),
            _READERS[kind](document[_camel(kind)]),
        )
    except (KeyError, TypeError, AttributeError) as fault:
        raise ValueError(f"not an event: {fault!r}") from None


def usage_to_json(usage: Usage) -> dict[str, Any]:
    """The JSON form of a usage."""
    return {
        "promptTokens": usage.prompt_tokens,
        "completionTokens": usage.completion_tokens,
        "cacheReadTokens": usage.cache_read_tokens,
        "cacheWriteTokens": usage.cache_write_tokens,
        "totalCost": float(usage.total_cost),
        "modelCalls": usage.model_calls,
        **({"estimated": True} if usage.estimated else {}),
    }


def usage_from_json(document: Mapping[str, Any]) -> Usage:
    """The usage that `usage_to_json` wrote."""
    return Usage(
        document["promptTokens"],
        document["completionTokens"],
        document["cacheReadTokens"],
        document["cacheWriteTokens"],
        Decimal(str(document["totalCost"])),
        document["modelCalls"],
        document.get("estimated", False),
    )


def budget_to_json(budget: BudgetExceeded) -> dict[str, Any]:
    """The JSON form of which limit was exceeded."""
    return {
        "scope": budget.scope.value,
        "exceeded": budget.exceeded.value,
        "limit": float(budget.limit),
        "used": float(budget.used),
        "left": float(budget.left),
    }


def budget_from_json(document: Mapping[str, Any]) -> BudgetExceeded:
    """What `budget_to_json` wrote."""
    return BudgetExceeded(
        BudgetScope(document["scope"]),
        ExceededLimit(document["exceeded"]),
        Decimal(str(document["limit"])),
        Decimal(str(document["used"])),
    )


def _camel(kind: str) -> str:
    head, *rest = kind.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _payload_to_json(payload: Payload) -> dict[str, Any]:
    match payload:
        case Queued(position=position):
            return {"position": position}
        case Started(model=model):
            return {"model": model}
        case TextDelta(text=text) | Message(text=text):
            return {"text": text}
        case ToolUse():
            return {"toolUseId": payload.tool_use_id, "name": payload.name, "input": payload.input}
        case ToolResult():
            return {"toolUseId": payload.tool_use_id, "content": payload.content, "isError": payload.is_error}
        case TokenUsed():
            return {
                "usage": usage_to_json(payload.usage),
                "percentOfTokenLimit": payload.percent_of_token_limit,
                "percentOfCostLimit": payload.percent_of_cost_limit,
                "model": payload.model,
            }
        case LimitWarning(limit=limit, percent=percent):
            return {"limit": limit.value, "percent": percent}
        case Completed(result=result):
            cut = {"resultTruncated": True} if payload.truncated else {}
            return {"result": result, **_end_to_json(payload), **cut}
        case Failed(failure=failure):
            return {"failure": _failure_to_json(failure), **_end_to_json(payload)}
        case Cancelled():
            return _end_to_json(payload)


def _end_to_json(end: TerminalPayload) -> dict[str, Any]:
    document: dict[str, Any] = {"usage": usage_to_json(end.usage), "duration": end.duration}
    if end.sdk_cost is not None:
        document["sdkCost"] = {"cost": float(end.sdk_cost.cost), "differs": end.sdk_cost.differs}
    return document


def _sdk_cost(document: Mapping[str, Any]) -> SdkCost | None:
    said = document.get("sdkCost")
    return None if said is None else SdkCost(Decimal(str(said["cost"])), said["differs"])


def _failure_to_json(failure: Failure) -> dict[str, Any]:
    document: dict[str, Any] = {"reason": failure.reason.value, "message": failure.message}
    if failure.exceeded is not None:
        document["exceeded"] = failure.exceeded.value
    if failure.budget is not None:
        document["budget"] = budget_to_json(failure.budget)
    return document


def _failure_from_json(document: Mapping[str, Any]) -> Failure:
    exceeded = document.get("exceeded")
    return Failure(
        FailureReason(document["reason"]),
        document["message"],
        None if exceeded is None else ExceededLimit(exceeded),
        budget_from_json(document["budget"]) if "budget" in document else None,
    )


_READERS: Final[Mapping[str, Callable[[Any], Payload]]] = {
    Queued.kind: lambda d: Queued(d["position"]),
    Started.kind: lambda d: Started(d["model"]),
    TextDelta.kind: lambda d: TextDelta(d["text"]),
    Message.kind: lambda d: Message(d["text"]),
    ToolUse.kind: lambda d: ToolUse(d["toolUseId"], d["name"], d["input"]),
    ToolResult.kind: lambda d: ToolResult(d["toolUseId"], d["content"], d["isError"]),
    TokenUsed.kind: lambda d: TokenUsed(
        usage_from_json(d["usage"]), d["percentOfTokenLimit"], d["percentOfCostLimit"], d["model"]
    ),
    LimitWarning.kind: lambda d: LimitWarning(ExceededLimit(d["limit"]), d["percent"]),
    Completed.kind: lambda d: Completed(
        d["result"], usage_from_json(d["usage"]), d["duration"], _sdk_cost(d), d.get("resultTruncated", False)
    ),
    Failed.kind: lambda d: Failed(
        _failure_from_json(d["failure"]), usage_from_json(d["usage"]), d["duration"], _sdk_cost(d)
    ),
    Cancelled.kind: lambda d: Cancelled(usage_from_json(d["usage"]), d["duration"], _sdk_cost(d)),
}
