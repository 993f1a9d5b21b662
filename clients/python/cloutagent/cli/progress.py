"""How far a run has come, by its events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from cloutagent.cli.endings import ExitCode
from cloutagent.types import Execution, ExecutionEvent, Failure, Limits, Usage

_LIMITS: Final = frozenset({Failure.Reason.limit_exceeded, Failure.Reason.timeout})


def status_name(execution: Execution) -> str:
    """Where it stands; the number of a state that only a newer server knows."""
    try:
        return Execution.Status.Name(execution.status)
    except ValueError:
        return str(execution.status)


class Progress:
    """One execution as its events so far tell it.

    Attributes:
        execution_id: The execution.
        limits: What it may use.
        status: `queued`, `running`, `completed`, `failed` or `cancelled`.
        ahead: Executions ahead of it in the queue.
        model: The model, once it is known.
        usage: What it has used.
        tools: How often the agent called a tool.
        last_sequence: Number of the last event.
        duration: Milliseconds that the run took; None before its end.
        failure: Why it failed.
    """

    def __init__(
        self, execution: Execution, after_sequence: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`execution` is what is known beside the events, which begin after `after_sequence`."""
        self.execution_id = execution.id
        self.limits: Limits = execution.limits
        self.status = "queued"
        self.ahead = 0
        self.model = execution.agent.model
        self.usage = Usage()
        self.tools = 0
        self.last_sequence = after_sequence
        self.duration: int | None = None
        self.failure: Failure | None = None
        self._clock = clock
        self._started: float | None = None
        self._told: tuple[float, float] | None = None
        if after_sequence > 0 and execution.HasField("started_at"):
            self.status, self.usage = "running", execution.usage
            self._started = _seconds(execution.started_at)

    @property
    def tokens(self) -> int:
        """Tokens used, as limits count them."""
        return self.usage.prompt_tokens + self.usage.completion_tokens

    @property
    def elapsed(self) -> float:
        """Milliseconds since the run started.

        While it goes on they are the server's up to the last event and this machine's from there, so that a clock which
        is wrong does no harm.
        """
        if self.duration is not None:
            return self.duration
        if self._started is None or self._told is None:
            return 0.0
        time_of_event, arrived = self._told
        return 1000 * (time_of_event - self._started + self._clock() - arrived)

    @property
    def ended(self) -> bool:
        """Whether the last event has come."""
        return self.duration is not None

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of a command that followed the run to here."""
        if self.status == "failed" and self.failure is not None and self.failure.reason in _LIMITS:
            return ExitCode.LIMIT
        return ExitCode.OK if self.status == "completed" else ExitCode.FAILED

    def take(self, event: ExecutionEvent) -> None:
        """Another event has come."""
        time_of_event = _seconds(event.time)
        self.last_sequence = event.sequence
        self._told = time_of_event, self._clock()
        match event.kind:
            case "queued":
                self.ahead = event.queued.position
            case "started":
                self.status, self.model, self._started = "running", event.started.model, time_of_event
            case "tool_use":
                self.tools += 1
            case "token_usage":
                self.usage = event.token_usage.usage
            case "completed":
                self._end("completed", event.completed.usage, event.completed.duration)
            case "failed":
                self._end("failed", event.failed.usage, event.failed.duration)
                self.failure = event.failed.failure
            case "cancelled":
                self._end("cancelled", event.cancelled.usage, event.cancelled.duration)

    def settle(self, execution: Execution) -> None:
        """The last event was before those that were asked for: the execution tells how it ended."""
        self._end(status_name(execution), execution.usage, execution.duration)
        self.failure = execution.failure if execution.HasField("failure") else None

    def _end(self, status: str, usage: Usage, duration: int) -> None:
        self.status, self.usage, self.duration = status, usage, duration


def _seconds(time: Timestamp) -> float:
    return time.seconds + time.nanos / 1e9
