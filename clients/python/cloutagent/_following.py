"""How far a watch has come: what to ask for next, and what of an answer is new. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, TypeVar

from cloutagent.v1.cost_pb2 import UsageReport
from cloutagent.v1.execution_pb2 import (
    ExecutionEvent,
    WatchExecutionRequest,
    WatchExecutionResponse,
    WatchUsageRequest,
    WatchUsageResponse,
)

TERMINAL: Final = frozenset({"completed", "failed", "cancelled"})
"""Kinds of an execution's last event."""

Request = TypeVar("Request", covariant=True)
Answer = TypeVar("Answer", contravariant=True)
Item = TypeVar("Item", covariant=True)


class Following(Protocol[Request, Answer, Item]):
    """One stream of items over many connections.

    Attributes:
        over: Whether there is nothing more to come.
    """

    over: bool

    def request(self) -> Request:
        """What to ask for on a new connection, so that the stream goes on where it was."""

    def take(self, answer: Answer) -> Sequence[Item]:
        """What is new in an answer, in order."""

    def closed(self) -> None:
        """The server has ended the stream, without an error."""


class EventFollowing:
    """The events of an execution: each once and in order, to the last one."""

    def __init__(self, execution_id: str, after_sequence: int) -> None:
        self.over = False
        self._execution_id = execution_id
        self._cursor = after_sequence
        self._advanced = False

    def request(self) -> WatchExecutionRequest:
        """The events after the last one that came."""
        self._advanced = False
        return WatchExecutionRequest(execution_id=self._execution_id, after_sequence=self._cursor)

    def take(self, answer: WatchExecutionResponse) -> Sequence[ExecutionEvent]:
        """The events that are new. Heartbeats, and kinds that only a newer API knows, are passed over."""
        events = []
        for event in answer.events:
            kind = event.WhichOneof("payload")
            if kind == "heartbeat" or event.sequence <= self._cursor:
                continue
            self._cursor = event.sequence
            self._advanced = True
            if kind is not None:
                events.append(event)
            if kind in TERMINAL:
                self.over = True
                break
        return events

    def closed(self) -> None:
        """A stream that ends and brought nothing has nothing left: the execution's last event had come already."""
        if not self._advanced:
            self.over = True


class UsageFollowing:
    """What a project uses, each report once. Has no end.

    Attributes:
        project_id: The project, which must be known before the first request.
    """

    def __init__(self, project_id: str | None, from_day: str | None, to_day: str | None) -> None:
        self.over = False
        self.project_id = project_id
        self._days = (from_day, to_day)
        self._last: UsageReport | None = None

    def request(self) -> WatchUsageRequest:
        """The same each time: every report is whole."""
        assert self.project_id is not None
        from_day, to_day = self._days
        return WatchUsageRequest(project_id=self.project_id, from_day=from_day, to_day=to_day)

    def take(self, answer: WatchUsageResponse) -> Sequence[UsageReport]:
        """The report, if it is another one than the last."""
        if not answer.HasField("report") or answer.report == self._last:
            return ()
        self._last = answer.report
        return (answer.report,)

    def closed(self) -> None:
        """Then it is asked for again."""
