"""Errors of the API as every depth shows them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import code_pb2, status_pb2

# Importing the messages lets json_format print the details.
from google.rpc import error_details_pb2 as _details  # noqa: F401

_HTTP_OF_CODE = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}


class ApiFailure(Exception):
    """The API answered with an error.

    Attributes:
        code: Name of the gRPC status code.
        message: What is wrong, for people.
        details: The details of the google.rpc.Status in their JSON form.
        http: The HTTP status; None where the call did not go over HTTP with JSON.
    """

    def __init__(self, document: Mapping[str, Any], http: int | None = None) -> None:
        assert set(document) == {"code", "message", "details"}, f"not an error's shape: {document}"
        self.code = code_pb2.Code.Name(document["code"])
        self.message: str = document["message"]
        self.details: list[dict[str, Any]] = document["details"]
        self.http = http
        if http is not None:
            assert http == _HTTP_OF_CODE[self.code], f"{self.code} came with HTTP status {http}"
        super().__init__(f"{self.code} ({self.reason}): {self.message}")

    @classmethod
    def of_status(cls, status: status_pb2.Status) -> ApiFailure:
        """The failure that a google.rpc.Status stands for."""
        return cls(json_format.MessageToDict(status, always_print_fields_with_no_presence=True))

    @property
    def reason(self) -> str | None:
        """The reason in the ErrorInfo; None without one."""
        info = self.detail("ErrorInfo")
        return None if info is None else info["reason"]

    @property
    def metadata(self) -> dict[str, str]:
        """The metadata in the ErrorInfo."""
        return dict((self.detail("ErrorInfo") or {}).get("metadata", {}))

    @property
    def violations(self) -> dict[str, str]:
        """What is wrong with which field."""
        faults = (self.detail("BadRequest") or {}).get("fieldViolations", [])
        return {fault["field"]: fault["description"] for fault in faults}

    def detail(self, kind: str) -> dict[str, Any] | None:
        """The detail of this google.rpc message, or None."""
        url = f"type.googleapis.com/google.rpc.{kind}"
        return next((detail for detail in self.details if detail["@type"] == url), None)


class Caught:
    """Holds the failure once `failing` has seen it."""

    def __init__(self) -> None:
        self._failure: ApiFailure | None = None

    def catch(self, failure: ApiFailure) -> None:
        """Keep it."""
        self._failure = failure

    @property
    def failure(self) -> ApiFailure:
        """What was caught."""
        assert self._failure is not None
        return self._failure


@contextmanager
def failing(code: str, http: int, reason: str) -> Iterator[Caught]:
    """The block fails with this code and reason and, over HTTP, this status."""
    caught = Caught()
    with pytest.raises(ApiFailure) as raised:
        yield caught
    failure = raised.value
    assert (failure.code, failure.reason) == (code, reason), failure
    assert failure.http in (None, http)
    caught.catch(failure)
