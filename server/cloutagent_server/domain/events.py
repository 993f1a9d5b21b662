"""Events in the life of an execution. `kind` is the name of the event on every wire and on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import ClassVar, Final, NamedTuple, overload

from cloutagent_server.domain.cost import BudgetExceeded, ExceededLimit, Usage


class FailureReason(StrEnum):
    """Why an execution failed."""

    LIMIT_EXCEEDED = "limit_exceeded"
    TIMEOUT = "timeout"
    MODEL_ERROR = "model_error"
    AGENT_ERROR = "agent_error"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an execution failed. `message` is for people.

    When a limit was the reason, `exceeded` tells its kind and `budget` which one it was, and what was used and left.
    """

    reason: FailureReason
    message: str
    exceeded: ExceededLimit | None = None
    budget: BudgetExceeded | None = None


@dataclass(frozen=True, slots=True)
class SdkCost:
    """What the agent SDK says that the run cost, in US dollars, and whether that differs from what was metered."""

    cost: Decimal
    differs: bool


@dataclass(frozen=True, slots=True)
class Queued:
    """The execution was queued with `position` executions ahead of it, or has moved to this place in the queue."""

    kind: ClassVar[str] = "queued"
    position: int


@dataclass(frozen=True, slots=True)
class Started:
    """The run started on `model`."""

    kind: ClassVar[str] = "started"
    model: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The model wrote more text."""

    kind: ClassVar[str] = "text_delta"
    text: str


@dataclass(frozen=True, slots=True)
class Message:
    """A whole message of the agent: the deltas before it, joined."""

    kind: ClassVar[str] = "message"
    text: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The agent calls a tool. `input` is a JSON object."""

    kind: ClassVar[str] = "tool_use"
    tool_use_id: str
    name: str
    input: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A tool answered, as text."""

    kind: ClassVar[str] = "tool_result"
    tool_use_id: str
    content: str
    is_error: bool


@dataclass(frozen=True, slots=True)
class TokenUsed:
    """More tokens were used. `usage` is all that the execution has used so far."""

    kind: ClassVar[str] = "token_usage"
    usage: Usage
    percent_of_token_limit: float
    percent_of_cost_limit: float
    model: str


@dataclass(frozen=True, slots=True)
class LimitWarning:
    """`percent` of a limit is used. Sent once for each limit."""

    kind: ClassVar[str] = "limit_warning"
    limit: ExceededLimit
    percent: float


@dataclass(frozen=True, slots=True)
class Completed:
    """The execution ended with a result. `duration` is milliseconds from the start of the run.

    `truncated` tells that `result` was cut.
    """

    kind: ClassVar[str] = "completed"
    result: str
    usage: Usage
    duration: int
    sdk_cost: SdkCost | None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """The execution ended without success. `duration` is milliseconds from the start of the run, 0 if it never ran."""

    kind: ClassVar[str] = "failed"
    failure: Failure
    usage: Usage
    duration: int
    sdk_cost: SdkCost | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The execution was cancelled. `duration` is milliseconds from the start of the run, 0 if it never ran."""

    kind: ClassVar[str] = "cancelled"
    usage: Usage
    duration: int
    sdk_cost: SdkCost | None = None


AgentOutput = TextDelta | Message | ToolUse | ToolResult
TerminalPayload = Completed | Failed | Cancelled
Payload = Queued | Started | AgentOutput | TokenUsed | LimitWarning | TerminalPayload


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `sequence` counts from 1 without gaps within the execution."""

    execution_id: str
    sequence: int
    time: datetime
    payload: Payload


_KIND_MARK: Final = b'"kind":"'
_TERMINAL_KINDS: Final = tuple(f'{each.kind}"'.encode() for each in (Completed, Failed, Cancelled))


class StoredEvent(NamedTuple):
    """An event as it is stored and as it goes over the wire: `data` is one line of JSON without the line's end."""

    sequence: int
    data: bytes

    @property
    def kind(self) -> str:
        """The event's kind, from its JSON. Raises ValueError where there is none."""
        start = self.data.index(_KIND_MARK) + len(_KIND_MARK)
        return self.data[start : self.data.index(b'"', start)].decode()

    @property
    def terminal(self) -> bool:
        """Whether it is the last event of its execution. Raises ValueError where it has no kind."""
        return self.data.startswith(_TERMINAL_KINDS, self.data.index(_KIND_MARK) + len(_KIND_MARK))


class StoredEvents(Sequence[StoredEvent]):
    """Events of one execution, one after the other without gaps. An event is an object only when it is asked for.

    Attributes:
        first: The sequence number of the first.
        data: The lines of all, as in `StoredEvent.data`.
    """

    __slots__ = ("data", "first")

    def __init__(self, first: int, data: Sequence[bytes]) -> None:
        self.first = first
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    @overload
    def __getitem__(self, place: int) -> StoredEvent: ...

    @overload
    def __getitem__(self, place: slice) -> StoredEvents: ...

    def __getitem__(self, place: int | slice) -> StoredEvent | StoredEvents:
        numbers = range(self.first, self.first + len(self.data))
        if isinstance(place, int):
            return StoredEvent(numbers[place], self.data[place])
        if place.step not in (None, 1):
            raise ValueError("a part of events has no gaps either")
        return StoredEvents(self.first + place.indices(len(self.data))[0], self.data[place])


def data_of(events: Sequence[StoredEvent]) -> Sequence[bytes]:
    """The lines of events."""
    return events.data if isinstance(events, StoredEvents) else [data for _, data in events]
