"""The error catalogue: complete, as the protos say, and silent about what is not the caller's business."""

from __future__ import annotations

import re
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from cloutagent.v1 import error_reason_pb2
from cloutagent.v1.error_reason_pb2 import ErrorReason
from cloutagent_server.domain import errors
from cloutagent_server.domain.errors import CloutAgentError, FieldViolation, InvalidRequest
from cloutagent_server.transport.errors import CATALOGUE, ERROR_DOMAIN, MAX_VIOLATIONS, Entry, entry_for, to_status
from scripts.proto_image import PROTOS
from tests.support.server_errors import EXAMPLES

REQUEST_ID = "request-7"
# Answered before a request reaches the server.
OF_ENVOY = {ErrorReason.RATE_LIMITED}
ABSTRACT = {errors.CloutAgentError, errors.Unauthenticated, errors.NotFound}


def subclasses(kind: type[CloutAgentError]) -> Iterator[type[CloutAgentError]]:
    for subclass in kind.__subclasses__():
        if subclass.__module__ == errors.__name__:
            yield subclass
            yield from subclasses(subclass)


def commented() -> dict[str, tuple[str, int, set[str]]]:
    """What the comments in error_reason.proto say: status, HTTP status and names of metadata by reason."""
    text = (PROTOS / "cloutagent" / "v1" / "error_reason.proto").read_text()
    found = re.findall(r"// ([A-Z_]+), (\d{3})\. [^\n]*?Metadata: ([^\n]*)\.\n  ([A-Z_]+) = \d+;", text)
    return {
        reason: (status, int(http), set(re.findall(r"`(\w+)`", metadata))) for status, http, metadata, reason in found
    }


def details(status: status_pb2.Status) -> dict[type[Message], Message]:
    unpacked: dict[type[Message], Message] = {}
    for detail in status.details:
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RetryInfo,
            error_details_pb2.RequestInfo,
        ):
            message = kind()
            if detail.Unpack(message):
                unpacked[kind] = message
    assert len(unpacked) == len(status.details)
    return unpacked


def test_every_error_has_an_entry() -> None:
    concrete = set(subclasses(CloutAgentError)) - ABSTRACT
    assert {type(example) for example in EXAMPLES} == concrete
    for kind in concrete:
        assert any(ancestor in CATALOGUE for ancestor in kind.__mro__), kind


def test_every_reason_is_used_once() -> None:
    used = [entry.reason for entry in CATALOGUE.values()] + [entry_for(RuntimeError()).reason]
    assert sorted(used) == sorted(set(ErrorReason.values()) - {ErrorReason.ERROR_REASON_UNSPECIFIED, *OF_ENVOY})


def test_every_entry_is_what_the_comment_of_its_reason_says() -> None:
    said = commented()
    assert said.keys() == set(ErrorReason.keys()) - {"ERROR_REASON_UNSPECIFIED"}
    http = {
        grpc.StatusCode.INVALID_ARGUMENT: 400,
        grpc.StatusCode.FAILED_PRECONDITION: 400,
        grpc.StatusCode.OUT_OF_RANGE: 400,
        grpc.StatusCode.UNAUTHENTICATED: 401,
        grpc.StatusCode.PERMISSION_DENIED: 403,
        grpc.StatusCode.NOT_FOUND: 404,
        grpc.StatusCode.ABORTED: 409,
        grpc.StatusCode.ALREADY_EXISTS: 409,
        grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
        grpc.StatusCode.INTERNAL: 500,
        grpc.StatusCode.DATA_LOSS: 500,
        grpc.StatusCode.UNAVAILABLE: 503,
    }
    for entry in (*CATALOGUE.values(), entry_for(RuntimeError())):
        status, http_status, _ = said[ErrorReason.Name(entry.reason)]
        assert (entry.code.name, http[entry.code]) == (status, http_status)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_the_status_of_an_error(error: CloutAgentError) -> None:
    status = to_status(error, REQUEST_ID)
    entry = entry_for(error)
    assert status.code == code_pb2.Code.Value(entry.code.name)
    assert status.message == error.message
    found = details(status)
    info = found[error_details_pb2.ErrorInfo]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == (ErrorReason.Name(entry.reason), ERROR_DOMAIN)
    assert set(info.metadata) == commented()[info.reason][2]
    assert dict(info.metadata) == dict(error.metadata)
    assert found[error_details_pb2.RequestInfo] == error_details_pb2.RequestInfo(request_id=REQUEST_ID)
    assert (error_details_pb2.BadRequest in found) is isinstance(error, InvalidRequest)
    assert (error_details_pb2.RetryInfo in found) is (entry.retry_seconds is not None)


def test_an_invalid_request_names_each_field() -> None:
    violations = [FieldViolation("agent.model", "is required"), FieldViolation("limits.maxCost", "must be finite")]
    found = details(to_status(InvalidRequest(violations), REQUEST_ID))
    bad = found[error_details_pb2.BadRequest]
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert [(one.field, one.description) for one in bad.field_violations] == [
        (one.field, one.description) for one in violations
    ]


@pytest.mark.parametrize("error", [errors.QueueFull(1), errors.ServerUnavailable("x"), errors.StorageUnavailable("x")])
def test_what_may_pass_says_when_to_try_again(error: CloutAgentError) -> None:
    retry = details(to_status(error, REQUEST_ID))[error_details_pb2.RetryInfo]
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToSeconds() == 5


def test_who_tried_too_many_keys_is_told_when_the_next_may_be_tried() -> None:
    retry = details(to_status(errors.AuthenticationRateLimited(7), REQUEST_ID))[error_details_pb2.RetryInfo]
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToSeconds() == 7


def test_a_subclass_is_answered_as_its_nearest_ancestor() -> None:
    class SpecialConflict(errors.RevisionConflict):
        """Not in the catalogue itself."""

    assert entry_for(SpecialConflict("x")).reason == ErrorReason.REVISION_CONFLICT
    assert entry_for(errors.StorageUnavailable("x")).reason == ErrorReason.SERVER_UNAVAILABLE


class Uncatalogued(CloutAgentError):
    """An error that somebody forgot to put into the catalogue."""


@pytest.mark.parametrize(
    "fault",
    [
        RuntimeError("s3cret at /srv"),
        KeyError("s3cret /srv"),
        Uncatalogued("s3cret /srv", path="/srv/s3cret"),
        ExceptionGroup("s3cret /srv", [ValueError("s3cret /srv")]),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_an_internal_fault_tells_its_request_id_and_nothing_else(fault: Exception) -> None:
    status = to_status(fault, REQUEST_ID)
    assert status.code == code_pb2.INTERNAL
    assert "s3cret" not in str(status) and "/srv" not in str(status)
    found = details(status)
    assert found.keys() == {error_details_pb2.ErrorInfo, error_details_pb2.RequestInfo}
    info = found[error_details_pb2.ErrorInfo]
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, dict(info.metadata)) == ("INTERNAL_ERROR", {})


@pytest.mark.parametrize("text", ["x", "ü", "🌍"])
def test_a_status_fits_into_the_trailers_of_an_answer(text: str) -> None:
    violations = [FieldViolation(f"options.variables.{number}{text * 1000}", text * 1000) for number in range(1000)]
    status = to_status(InvalidRequest(violations), REQUEST_ID)
    bad = details(status)[error_details_pb2.BadRequest]
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert len(bad.field_violations) == MAX_VIOLATIONS
    assert bad.field_violations[0].field.startswith("options.variables.0")
    percent_encoded, base64_encoded = 3 * len(status.message.encode()), 4 * len(status.SerializeToString()) // 3
    assert percent_encoded + base64_encoded < 7000


def test_an_entry_is_a_code_a_reason_and_a_delay() -> None:
    assert entry_for(errors.QueueFull(1)) == Entry(
        grpc.StatusCode.RESOURCE_EXHAUSTED, error_reason_pb2.ErrorReason.QUEUE_FULL, 5
    )


def test_an_id_that_nobody_looked_at_is_cut() -> None:
    status = to_status(errors.ProjectNotFound("x" * 1_000_000), "r")
    assert status.ByteSize() < 4096
