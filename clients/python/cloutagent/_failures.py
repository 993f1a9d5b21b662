"""From the statuses of gRPC to the errors that a client raises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from cloutagent import errors

_DOMAIN: Final = "cloutagent"
_DETAILS: Final = "grpc-status-details-bin"

BY_CODE: Final[Mapping[str, type[errors.ApiError]]] = {
    "CANCELLED": errors.CallCancelledError,
    "UNKNOWN": errors.InternalError,
    "INVALID_ARGUMENT": errors.InvalidArgumentError,
    "DEADLINE_EXCEEDED": errors.DeadlineExceededError,
    "NOT_FOUND": errors.NotFoundError,
    "ALREADY_EXISTS": errors.AlreadyExistsError,
    "PERMISSION_DENIED": errors.PermissionDeniedError,
    "RESOURCE_EXHAUSTED": errors.ResourceExhaustedError,
    "FAILED_PRECONDITION": errors.FailedPreconditionError,
    "ABORTED": errors.ConflictError,
    "OUT_OF_RANGE": errors.OutOfRangeError,
    "UNIMPLEMENTED": errors.UnimplementedError,
    "INTERNAL": errors.InternalError,
    "UNAVAILABLE": errors.UnavailableError,
    "DATA_LOSS": errors.DataLossError,
    "UNAUTHENTICATED": errors.AuthenticationError,
}

# Reasons that have a class of their own, below that of their code.
BY_REASON: Final[Mapping[str, type[errors.ApiError]]] = {
    "QUEUE_FULL": errors.QueueFullError,
    "RATE_LIMITED": errors.RateLimitedError,
    "AUTHENTICATION_RATE_LIMITED": errors.RateLimitedError,
    "BUDGET_EXCEEDED": errors.BudgetUsedUpError,
}

_Detail = TypeVar("_Detail", bound=Message)


class RpcFailure(Protocol):
    """What the errors of gRPC have in common, those of its blocking half and those of `grpc.aio`."""

    def code(self) -> Any:
        """The status code."""

    def details(self) -> str | None:
        """What went wrong."""

    def trailing_metadata(self) -> Any:
        """What came behind the answer, or None."""


def failure_of(failure: RpcFailure, request_id: str) -> errors.ApiError:
    """The error for a call that failed. `request_id` is the one that the call was sent with."""
    packed = _packed(failure.trailing_metadata() or ())
    details = _status(packed)
    info = _detail(details, error_details_pb2.ErrorInfo)
    ours = info is not None and info.domain == _DOMAIN
    reason = info.reason if info is not None and ours else None
    code = failure.code().name
    kind = BY_REASON.get(reason or "", BY_CODE.get(code, errors.ApiError))
    retry = _detail(details, error_details_pb2.RetryInfo)
    request = _detail(details, error_details_pb2.RequestInfo)
    error = kind(
        failure.details() or "the call failed",
        code=code,
        reason=reason,
        metadata=dict(info.metadata) if info is not None else None,
        request_id=request.request_id if request is not None and request.request_id else request_id,
        retry_delay=None if retry is None else retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9,
    )
    if isinstance(error, errors.InvalidArgumentError):
        fields = _detail(details, error_details_pb2.BadRequest)
        faults = () if fields is None else fields.field_violations
        error.violations = tuple(errors.Violation(fault.field, fault.description) for fault in faults)
    if isinstance(error, errors.BudgetExceededError):
        error.scope, error.exceeded = error.metadata.get("scope"), error.metadata.get("exceeded")
        error.limit, error.used, error.left = (_number(error.metadata.get(name)) for name in ("limit", "used", "left"))
    return error


def unreadable(request_id: str) -> errors.InternalError:
    """The error for an answer that is no message of the API: `grpc.aio` hands out None then, gRPC raises INTERNAL."""
    return errors.InternalError("the answer makes no sense", code="INTERNAL", request_id=request_id)


def _packed(metadata: Iterable[Any]) -> bytes:
    return next((bytes(value) for key, value in metadata if key == _DETAILS), b"")


def _status(packed: bytes) -> status_pb2.Status:
    """What the server packed; nothing if it makes no sense, for the code and the message are there all the same."""
    try:
        return status_pb2.Status.FromString(packed)
    except DecodeError:
        return status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail | None:
    for each in status.details:
        if each.Is(kind.DESCRIPTOR):
            detail = kind()
            try:
                each.Unpack(detail)
            except DecodeError:
                return None
            return detail
    return None


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
