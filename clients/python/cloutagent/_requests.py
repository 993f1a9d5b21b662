"""From what callers give to requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from typing import ParamSpec, TypedDict, TypeVar
from uuid import uuid4

from google.protobuf.timestamp_pb2 import Timestamp

from cloutagent.v1.execution_pb2 import ExecutionOptions, StartExecutionRequest

Fields = ParamSpec("Fields")
Message = TypeVar("Message")


class StartOptions(TypedDict, total=False):
    """How one execution departs from its project's configuration. All of it may be left out.

    Attributes:
        variables: Values for `{{name}}` in the prompts.
        max_tokens: Limit on prompt and completion tokens, at most the project's.
        max_cost: Limit on cost in US dollars, at most the project's.
        max_duration: Limit on the run's time, at least a second and at most the project's.
        labels: Labels to find the execution by; no place for secrets.
        idempotency_key: Makes a start that the caller repeats safe, also from another process: the same key with the
            same request is the same execution. A client makes one for each start by itself, so that its own retries
            are; None stands for that.
        project_id: The project; see `Client`.
    """

    variables: Mapping[str, str]
    max_tokens: int
    max_cost: float
    max_duration: timedelta
    labels: Mapping[str, str]
    idempotency_key: str | None
    project_id: str


def message(kind: Callable[Fields, Message], /, *none: Fields.args, **fields: Fields.kwargs) -> Message:
    """A message with these fields. Raises TypeError or ValueError, which name the field that takes no such value."""
    try:
        return kind(*none, **fields)
    except (TypeError, ValueError):
        for name, value in fields.items():
            try:
                kind(**{name: value})  # type: ignore[call-arg, arg-type]
            except TypeError as fault:
                raise TypeError(f"{name}: {fault}") from None
            except UnicodeEncodeError as fault:
                fault.reason += f", in {name}"
                raise
            except ValueError as fault:
                raise ValueError(f"{name}: {fault}") from None
        raise


def start_request(project_id: str, prompt: str, options: StartOptions, *, dry: bool = False) -> StartExecutionRequest:
    """Asks for a run, or with `dry` what it would be."""
    duration = options.get("max_duration")
    departures = message(
        ExecutionOptions,
        variables=options.get("variables"),
        max_tokens=options.get("max_tokens"),
        max_cost=options.get("max_cost"),
        timeout=None if duration is None else milliseconds(duration),
    )
    return message(
        StartExecutionRequest,
        project_id=project_id,
        prompt=prompt,
        options=departures if departures.ByteSize() else None,
        idempotency_key=None if dry else options.get("idempotency_key") or str(uuid4()),
        labels=options.get("labels"),
        validate_only=dry,
    )


def timestamp(time: datetime | None) -> Timestamp | None:
    """A point in time. Raises ValueError for one without a time zone, which would mean another one elsewhere."""
    if time is None:
        return None
    if time.tzinfo is None:
        raise ValueError("a time needs a time zone: datetime.now(UTC), for example")
    converted = Timestamp()
    converted.FromDatetime(time)
    return converted


def milliseconds(duration: timedelta) -> int:
    """A length of time in whole milliseconds."""
    return round(duration / timedelta(milliseconds=1))


def day(given: date | str | None) -> str | None:
    """A day as the API writes it, `YYYY-MM-DD`."""
    return given.isoformat()[:10] if isinstance(given, date) else given
