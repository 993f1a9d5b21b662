"""How events lead an execution from one state to the next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloutagent_server.domain.events import (
    Cancelled,
    Completed,
    Event,
    Failed,
    LimitWarning,
    Message,
    Payload,
    Queued,
    Started,
    TextDelta,
    TokenUsed,
    ToolResult,
    ToolUse,
)
from cloutagent_server.domain.execution import Execution, ExecutionResult, Status
from tests.support import builders

QUEUED, STARTED = builders.queued(2), builders.started()
QUIET: tuple[Payload, ...] = (
    builders.text_delta(),
    builders.message(),
    builders.tool_use(),
    builders.tool_result(),
    builders.limit_warning(),
)
ENDS: tuple[Completed | Failed | Cancelled, ...] = (builders.completed(), builders.failed(), builders.cancelled())


def after(*payloads: Payload) -> Execution:
    execution = builders.execution()
    for number, payload in enumerate(payloads, 1):
        execution = execution.after(builders.event(execution.id, number, payload))
    return execution


def test_a_new_execution_is_queued_and_has_used_nothing() -> None:
    execution = builders.execution()
    assert (execution.status, execution.last_sequence, execution.usage.total_tokens) == (Status.QUEUED, 0, 0)


def test_queued_tells_the_place() -> None:
    execution = after(QUEUED)
    assert (execution.status, execution.queue_position, execution.started_at) == (Status.QUEUED, 2, None)


def test_started_runs() -> None:
    execution = after(QUEUED, STARTED)
    assert (execution.status, execution.queue_position) == (Status.RUNNING, None)
    assert execution.started_at == builders.at(2)


def test_usage_is_that_of_the_last_report() -> None:
    used = builders.token_used()
    more = replace(used, usage=builders.usage(prompt_tokens=999))
    assert after(QUEUED, STARTED, used, more).usage == more.usage


@pytest.mark.parametrize("payload", QUIET, ids=lambda payload: payload.kind)
def test_what_the_agent_does_changes_the_sequence_alone(payload: Payload) -> None:
    before = after(QUEUED, STARTED)
    changed = before.after(builders.event(before.id, 3, payload))
    assert changed == replace(before, last_sequence=3)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.kind)
def test_an_end_gives_the_last_word(end: Completed | Failed | Cancelled) -> None:
    execution = after(QUEUED, STARTED, end)
    assert execution.status.value == end.kind
    assert execution.status.terminal
    assert (execution.usage, execution.duration, execution.finished_at) == (end.usage, end.duration, builders.at(3))
    assert execution.result == (end.result if isinstance(end, Completed) else None)
    assert execution.failure == (end.failure if isinstance(end, Failed) else None)


@pytest.mark.parametrize("end", ENDS[1:], ids=lambda end: end.kind)
@pytest.mark.parametrize("before", [(), (QUEUED,)], ids=["new", "queued"])
def test_what_waits_can_fail_and_be_cancelled(before: tuple[Payload, ...], end: Payload) -> None:
    execution = after(*before, end)
    assert execution.status.terminal
    assert (execution.started_at, execution.queue_position) == (None, None)


@pytest.mark.parametrize(
    "payloads",
    [
        (QUEUED, ENDS[0]),
        (QUEUED, STARTED, STARTED),
        (QUEUED, STARTED, QUEUED),
        *((STARTED, end, payload) for end in ENDS for payload in (QUEUED, STARTED, *QUIET, *ENDS)),
    ],
)
def test_what_cannot_follow_is_refused(payloads: tuple[Payload, ...]) -> None:
    with pytest.raises(ValueError, match=r"cannot|nothing can|has started"):
        after(*payloads)


@pytest.mark.parametrize("sequence", [0, 1, 3])
def test_only_the_next_event_in_sequence_follows(sequence: int) -> None:
    execution = after(QUEUED)
    with pytest.raises(ValueError, match="does not follow"):
        execution.after(builders.event(execution.id, sequence, STARTED))


def test_an_event_of_another_execution_is_refused() -> None:
    execution = builders.execution()
    with pytest.raises(ValueError, match="does not follow"):
        execution.after(Event(builders.execution().id, 1, builders.at(1), QUEUED))


def test_every_kind_of_event_is_covered_here() -> None:
    tested = {type(payload) for payload in (QUEUED, STARTED, builders.token_used(), *QUIET, *ENDS)}
    assert tested == {
        *(Queued, Started, TextDelta, Message, ToolUse, ToolResult),
        *(TokenUsed, LimitWarning, Completed, Failed, Cancelled),
    }


def test_only_the_three_ends_are_terminal() -> None:
    assert {status for status in Status if status.terminal} == {Status.COMPLETED, Status.FAILED, Status.CANCELLED}


def test_no_repr_shows_what_was_said() -> None:
    execution = replace(after(QUEUED, STARTED, builders.completed(result="r3sult")), prompt="pr0mpt")
    shown = repr(replace(execution, variables={"a": "v4lue"}))
    assert not any(text in shown for text in ("r3sult", "pr0mpt", "v4lue"))
    assert "r3sult" not in repr(builders.execution_result(result="r3sult"))


def test_the_error_of_a_result_is_its_failures_message() -> None:
    failed = builders.execution_result(status=Status.FAILED, failure=builders.failure(message="why"))
    assert failed.error == "why"
    completed: ExecutionResult = builders.execution_result()
    assert completed.error is None
