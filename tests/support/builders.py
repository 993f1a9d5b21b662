"""Builders of domain values for tests. Each gives a valid value; arguments replace fields of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from cloutagent_server.domain.api_key import ApiKey
from cloutagent_server.domain.cost import CostLimits, ExceededLimit, Model, TokenUsage, Usage
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
    Started,
    TerminalPayload,
    TextDelta,
    TokenUsed,
    ToolResult,
    ToolUse,
)
from cloutagent_server.domain.execution import (
    Execution,
    ExecutionOptions,
    ExecutionResult,
    Idempotency,
    Status,
)
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import AgentConfig, KeyCredential, Limits, Project, ProjectDraft
from cloutagent_server.domain.secret import SealedSecret

MODEL = "claude-sonnet-4-5"
START = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


def at(milliseconds: int) -> datetime:
    """A point in time, counted from the one that all builders start at."""
    return START + timedelta(milliseconds=milliseconds)


def agent_config(**changes: Any) -> AgentConfig:
    agent = AgentConfig(
        id=new_id(),
        name="Reviewer",
        system_prompt="You review code. Ä ß 漢 \U0001f600",
        model=MODEL,
        temperature=0.0,
        max_tokens=2048,
        enabled_tools=("Read", "Bash"),
    )
    return replace(agent, **changes)


def limits(**changes: Any) -> Limits:
    return replace(Limits(max_tokens=5000, max_cost=Decimal("0.25"), timeout=60_000), **changes)


def project_draft(**changes: Any) -> ProjectDraft:
    draft = ProjectDraft(name="Reviews", agent=agent_config(), limits=limits(), description="Reviews pull requests")
    return replace(draft, **changes)


def project(**changes: Any) -> Project:
    draft = project_draft()
    stored = Project(new_id(), draft.name, draft.description, draft.agent, draft.limits, at(0), at(0))
    return replace(stored, **changes)


def credential(**changes: Any) -> KeyCredential:
    """A credential of a key that no other call stands for. The hash has bcrypt's form, and fits no key."""
    digest = hashlib.sha256(f"cla_{new_id()}".encode()).hexdigest()
    return replace(KeyCredential(digest, "$2b$10$" + digest[:53]), **changes)


def api_key(**changes: Any) -> ApiKey:
    return replace(ApiKey(new_id(), "ci", credential(), at(0)), **changes)


def sealed_secret(**changes: Any) -> SealedSecret:
    seed = hashlib.sha256(new_id().encode()).hexdigest()
    return replace(SealedSecret(iv=seed[:32], auth_tag=seed[32:], encrypted=seed[:22]), **changes)


def idempotency(**changes: Any) -> Idempotency:
    return replace(Idempotency(key=f"order-{new_id()}", request_digest="ab" * 32), **changes)


def options(**changes: Any) -> ExecutionOptions:
    return replace(ExecutionOptions(1000, Decimal("0.1"), 5000, {"topic": "locks"}), **changes)


def execution(project_id: str | None = None, **changes: Any) -> Execution:
    new = Execution(
        id=new_id(),
        project_id=project_id or new_id(),
        prompt="Review {{topic}} with {{secret:TOKEN}}",
        agent=agent_config(),
        limits=limits(),
        created_at=at(0),
        variables={"topic": "locks"},
    )
    return replace(new, **changes)


def execution_result(**changes: Any) -> ExecutionResult:
    return replace(ExecutionResult(new_id(), Status.COMPLETED, usage(), 1500, "All good."), **changes)


def token_usage(**changes: Any) -> TokenUsage:
    return replace(TokenUsage(prompt_tokens=100, completion_tokens=20, model=MODEL), **changes)


def usage(**changes: Any) -> Usage:
    return replace(Usage(120, 40, 15, 5, Decimal("0.00096"), 2), **changes)


def cost_limits(**changes: Any) -> CostLimits:
    return replace(CostLimits(1000, Decimal("0.01")), **changes)


def model(**changes: Any) -> Model:
    listed = Model(
        MODEL,
        "Claude Sonnet 4.5",
        Decimal("0.000003"),
        Decimal("0.000015"),
        Decimal("0.0000003"),
        Decimal("0.00000375"),
        200_000,
    )
    return replace(listed, **changes)


def failure(**changes: Any) -> Failure:
    return replace(Failure(FailureReason.LIMIT_EXCEEDED, "the token limit was passed", ExceededLimit.TOKENS), **changes)


def queued(position: int = 2) -> Queued:
    return Queued(position)


def started(model: str = MODEL) -> Started:
    return Started(model)


def text_delta(text: str = "Looks ") -> TextDelta:
    return TextDelta(text)


def message(text: str = "Looks good.\nÄ \U0001f600") -> Message:
    return Message(text)


def tool_use(**changes: Any) -> ToolUse:
    return replace(ToolUse("toolu_1", "Bash", {"command": 'echo "kind":"x"', "depth": {"of": [1, None]}}), **changes)


def tool_result(**changes: Any) -> ToolResult:
    return replace(ToolResult("toolu_1", "x\n", is_error=False), **changes)


def token_used(**changes: Any) -> TokenUsed:
    return replace(TokenUsed(usage(), 3.2, 0.384, MODEL), **changes)


def limit_warning(**changes: Any) -> LimitWarning:
    return replace(LimitWarning(ExceededLimit.COST, 81.5), **changes)


def completed(**changes: Any) -> Completed:
    return replace(Completed("All good.", usage(), 1500), **changes)


def failed(**changes: Any) -> Failed:
    return replace(Failed(failure(), usage(), 1200), **changes)


def cancelled(**changes: Any) -> Cancelled:
    return replace(Cancelled(usage(), 700), **changes)


def payloads_of_a_run(end: TerminalPayload | None = None) -> Sequence[Payload]:
    """A run from the queue to its end, with every kind of event that is not terminal."""
    return (
        queued(),
        queued(position=0),
        started(),
        text_delta(),
        text_delta("good."),
        message(),
        token_used(),
        tool_use(),
        tool_result(),
        limit_warning(),
        end or completed(),
    )


def event(execution_id: str, sequence: int, payload: Payload | None = None, **changes: Any) -> Event:
    return replace(Event(execution_id, sequence, at(sequence), payload or text_delta()), **changes)


def events(execution_id: str, payloads: Sequence[Payload], after: int = 0) -> Sequence[Event]:
    """Events with these payloads, numbered from `after` + 1."""
    return tuple(event(execution_id, sequence, payload) for sequence, payload in enumerate(payloads, after + 1))


def texts(execution_id: str, count: int, after: int = 0) -> Sequence[Event]:
    """`count` events of text, numbered from `after` + 1. Each tells its number."""
    return events(execution_id, [text_delta(f"text {number}") for number in range(after + 1, after + count + 1)], after)
