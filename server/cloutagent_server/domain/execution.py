"""Executions: their states, and how events lead from one state to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from cloutagent_server.domain.cost import Usage
from cloutagent_server.domain.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    Failure,
    Queued,
    Started,
    TokenUsed,
)
from cloutagent_server.domain.project import AgentConfig, Limits

# What is kept of an agent's final text; the message events hold all of it.
MAX_RESULT_BYTES: Final = 262_144


class Status(StrEnum):
    """Where an execution stands."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether no event can follow."""
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELLED)


@dataclass(frozen=True, slots=True)
class ExecutionOptions:
    """How one execution departs from its project. None is the project's limit.

    Attributes:
        max_tokens: Limit on tokens.
        max_cost: Limit on cost in US dollars.
        timeout: Limit on the run's time in milliseconds.
        variables: Values for `{{name}}` in the prompt.
    """

    max_tokens: int | None = None
    max_cost: Decimal | None = None
    timeout: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A caller's idempotency key and the SHA-256 of the request that it stands for, in hex."""

    key: str
    request_digest: str


@dataclass(frozen=True, slots=True)
class Execution:
    """One run of a project's agent: what it was created with, and what its events have made of it.

    Attributes:
        prompt: The prompt as it was given, its template unfilled.
        variables: Values for the template's variables.
        agent: The agent's configuration when the execution was created.
        limits: The limits that hold for it.
        labels: What the caller wants to find it by.
        secret_names: Names of the secrets that its prompts refer to, in order.
        result_truncated: Whether `result` was cut.
        last_sequence: Sequence number of its last event, 0 before the first.
        queue_position: Executions ahead of it when that was last told; None once it runs.
        duration: Milliseconds from the start of the run to its end; None before the end.
    """

    id: str
    project_id: str
    prompt: str = field(repr=False)
    agent: AgentConfig
    limits: Limits
    created_at: datetime
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    idempotency: Idempotency | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    secret_names: tuple[str, ...] = ()
    status: Status = Status.QUEUED
    usage: Usage = Usage()
    result: str | None = field(default=None, repr=False)
    result_truncated: bool = False
    failure: Failure | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    duration: int | None = None
    queue_position: int | None = None
    last_sequence: int = 0

    def after(self, event: Event) -> Execution:
        """This execution with `event` applied.

        Raises:
            ValueError: The event belongs to another execution, is not the next in sequence, or cannot follow this
                state.
        """
        if event.execution_id != self.id or event.sequence != self.last_sequence + 1:
            raise ValueError(f"event {event.sequence} does not follow event {self.last_sequence} of {self.id}")
        if self.status.terminal:
            raise ValueError(f"nothing can follow the end of {self.id}")
        here = replace(self, last_sequence=event.sequence)
        match event.payload:
            case Queued(position=position):
                if self.status is not Status.QUEUED:
                    raise ValueError(f"{self.id} has started and cannot be queued")
                return replace(here, queue_position=position)
            case Started():
                if self.status is not Status.QUEUED:
                    raise ValueError(f"{self.id} has started already")
                return replace(here, status=Status.RUNNING, started_at=event.time, queue_position=None)
            case Completed(result=result, usage=usage, duration=duration, truncated=truncated):
                if self.status is not Status.RUNNING:
                    raise ValueError(f"{self.id} cannot complete before it runs")
                ended = _ended(here, Status.COMPLETED, event.time, usage, duration, result=result)
                return replace(ended, result_truncated=truncated)
            case Failed(failure=failure, usage=usage, duration=duration):
                return _ended(here, Status.FAILED, event.time, usage, duration, failure=failure)
            case Cancelled(usage=usage, duration=duration):
                return _ended(here, Status.CANCELLED, event.time, usage, duration)
            case TokenUsed(usage=usage):
                return replace(here, usage=usage)
            case _:
                return here


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """Which executions of a project are wanted: those that pass everything given.

    Attributes:
        statuses: The states that they may be in; empty is any.
        labels: Labels that they all have, with these values.
        created_after: They were created at this time or later.
        created_before: They were created before this time.
    """

    statuses: frozenset[Status] = frozenset()
    labels: frozenset[tuple[str, str]] = frozenset()
    created_after: datetime | None = None
    created_before: datetime | None = None

    def matches(self, execution: Execution) -> bool:
        """Whether an execution is wanted."""
        return (
            (not self.statuses or execution.status in self.statuses)
            and self.labels <= execution.labels.items()
            and (self.created_after is None or execution.created_at >= self.created_after)
            and (self.created_before is None or execution.created_at < self.created_before)
        )


@dataclass(frozen=True, slots=True)
class ExecutionResult:
    """How a run ended.

    Attributes:
        id: The execution.
        status: COMPLETED, FAILED or CANCELLED.
        cost: What the run used.
        duration: Milliseconds from the start of the run.
        result: The agent's final text, when completed.
        failure: Why, when failed.
        sdk_cost: What the agent SDK says that the run cost, in US dollars; None if it did not say.
    """

    id: str
    status: Status
    cost: Usage
    duration: int
    result: str | None = field(default=None, repr=False)
    failure: Failure | None = None
    sdk_cost: Decimal | None = None

    @property
    def error(self) -> str | None:
        """Why it failed, for people; None unless failed."""
        return self.failure.message if self.failure else None


def cut_result(text: str) -> tuple[str, bool]:
    """A final text as it is kept, at most MAX_RESULT_BYTES of UTF-8, and whether it was cut for that."""
    if len(text) * 4 <= MAX_RESULT_BYTES:
        return text, False
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_RESULT_BYTES:
        return text, False
    return data[:MAX_RESULT_BYTES].decode("utf-8", "ignore"), True


def _ended(
    execution: Execution,
    status: Status,
    time: datetime,
    usage: Usage,
    duration: int,
    *,
    result: str | None = None,
    failure: Failure | None = None,
) -> Execution:
    return replace(
        execution,
        status=status,
        finished_at=time,
        usage=usage,
        duration=duration,
        result=result,
        failure=failure,
        queue_position=None,
    )
