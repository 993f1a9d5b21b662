"""The error catalogue: one table from domain errors to status codes and reasons, and how they are written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from cloutagent.v1.error_reason_pb2 import ErrorReason
from cloutagent_server.domain import errors

ERROR_DOMAIN: Final = "cloutagent"

# A status travels in the trailers of the answer, for which gRPC has 8 KiB: what is longer is cut.
MAX_VIOLATIONS: Final = 10
_MAX_VIOLATION_BYTES: Final = 120
_MAX_MESSAGE_BYTES: Final = 500


class Entry(NamedTuple):
    """How one class of error is answered.

    `retry_seconds` goes to the caller as google.rpc.RetryInfo; an error that knows better brings its own.
    """

    code: grpc.StatusCode
    reason: ErrorReason.ValueType
    retry_seconds: int | None = None


_Code = grpc.StatusCode
CATALOGUE: Final[Mapping[type[errors.CloutAgentError], Entry]] = {
    errors.InvalidRequest: Entry(_Code.INVALID_ARGUMENT, ErrorReason.INVALID_REQUEST),
    errors.ApiKeyMissing: Entry(_Code.UNAUTHENTICATED, ErrorReason.API_KEY_MISSING),
    errors.ApiKeyInvalid: Entry(_Code.UNAUTHENTICATED, ErrorReason.API_KEY_INVALID),
    errors.AuthenticationRateLimited: Entry(
        _Code.RESOURCE_EXHAUSTED, ErrorReason.AUTHENTICATION_RATE_LIMITED, retry_seconds=60
    ),
    errors.AccessDenied: Entry(_Code.PERMISSION_DENIED, ErrorReason.ACCESS_DENIED),
    errors.ProjectNotFound: Entry(_Code.NOT_FOUND, ErrorReason.PROJECT_NOT_FOUND),
    errors.ExecutionNotFound: Entry(_Code.NOT_FOUND, ErrorReason.EXECUTION_NOT_FOUND),
    errors.SecretNotFound: Entry(_Code.NOT_FOUND, ErrorReason.SECRET_NOT_FOUND),
    errors.ApiKeyNotFound: Entry(_Code.NOT_FOUND, ErrorReason.API_KEY_NOT_FOUND),
    errors.LastApiKey: Entry(_Code.FAILED_PRECONDITION, ErrorReason.LAST_API_KEY),
    errors.ApiKeyLimitReached: Entry(_Code.FAILED_PRECONDITION, ErrorReason.API_KEY_LIMIT_REACHED),
    errors.SecretLimitReached: Entry(_Code.FAILED_PRECONDITION, ErrorReason.SECRET_LIMIT_REACHED),
    errors.SecretVersionNotFound: Entry(_Code.NOT_FOUND, ErrorReason.SECRET_VERSION_NOT_FOUND),
    errors.SecretVersionConflict: Entry(_Code.ABORTED, ErrorReason.SECRET_VERSION_CONFLICT),
    errors.RevisionConflict: Entry(_Code.ABORTED, ErrorReason.REVISION_CONFLICT),
    errors.IdempotencyKeyReused: Entry(_Code.ALREADY_EXISTS, ErrorReason.IDEMPOTENCY_KEY_REUSED),
    errors.ExecutionNotFinished: Entry(_Code.FAILED_PRECONDITION, ErrorReason.EXECUTION_NOT_FINISHED),
    errors.QueueFull: Entry(_Code.RESOURCE_EXHAUSTED, ErrorReason.QUEUE_FULL, retry_seconds=5),
    errors.BudgetUsedUp: Entry(_Code.FAILED_PRECONDITION, ErrorReason.BUDGET_EXCEEDED),
    errors.CursorOutOfRange: Entry(_Code.OUT_OF_RANGE, ErrorReason.CURSOR_OUT_OF_RANGE),
    errors.WatcherTooSlow: Entry(_Code.UNAVAILABLE, ErrorReason.WATCHER_TOO_SLOW, retry_seconds=1),
    errors.StoredDataDamaged: Entry(_Code.DATA_LOSS, ErrorReason.STORED_DATA_DAMAGED),
    errors.ServerUnavailable: Entry(_Code.UNAVAILABLE, ErrorReason.SERVER_UNAVAILABLE, retry_seconds=5),
}
_INTERNAL: Final = Entry(_Code.INTERNAL, ErrorReason.INTERNAL_ERROR)
_INTERNAL_MESSAGE: Final = "the server met a fault; its log has the details under this request id"


def entry_for(error: BaseException) -> Entry:
    """The catalogue's entry for the nearest class of `error`; the entry for internal faults if there is none."""
    for kind in type(error).__mro__:
        entry = CATALOGUE.get(kind)
        if entry is not None:
            return entry
    return _INTERNAL


def retry_seconds(error: BaseException) -> int | None:
    """In how many seconds the caller may try again; None if that would not help."""
    return (
        error.retry_seconds if isinstance(error, errors.AuthenticationRateLimited) else entry_for(error).retry_seconds
    )


def to_status(error: BaseException, request_id: str) -> status_pb2.Status:
    """The google.rpc.Status of an error, small enough for the trailers that carry it.

    Of a fault that is not in the catalogue nothing but the request id is told.
    """
    entry = entry_for(error)
    public = isinstance(error, errors.CloutAgentError) and entry is not _INTERNAL
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=ErrorReason.Name(entry.reason),
            domain=ERROR_DOMAIN,
            metadata=_metadata(error) if isinstance(error, errors.CloutAgentError) and public else {},
        )
    ]
    if isinstance(error, errors.InvalidRequest):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=_cut(v.field, _MAX_VIOLATION_BYTES), description=_cut(v.description, _MAX_VIOLATION_BYTES)
                    )
                    for v in error.violations[:MAX_VIOLATIONS]
                ]
            )
        )
    seconds = retry_seconds(error)
    if seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromSeconds(seconds)
        details.append(retry)
    details.append(error_details_pb2.RequestInfo(request_id=request_id))
    message = _cut(str(error), _MAX_MESSAGE_BYTES) if public else _INTERNAL_MESSAGE
    return status_pb2.Status(
        code=code_pb2.Code.Value(entry.code.name), message=message, details=[_packed(detail) for detail in details]
    )


def _cut(text: str, most: int) -> str:
    data = text.encode("utf-8", "replace")
    return text if len(data) <= most else data[:most].decode("utf-8", "ignore") + "…"


def _metadata(error: errors.CloutAgentError) -> dict[str, str]:
    """What the error names, cut: it may be an id that nobody has looked at yet, as long as the caller liked."""
    return {name: _cut(value, _MAX_VIOLATION_BYTES) for name, value in error.metadata.items()}


def _packed(detail: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
