"""The API over gRPC, with the generated stubs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
from grpc_status import rpc_status

from cloutagent.v1 import execution_pb2_grpc, project_pb2_grpc, secret_pb2_grpc, system_pb2_grpc
from tests.support.api.driver import TextAnswer
from tests.support.api.failure import ApiFailure
from tests.support.api.json_form import METHODS, Json, to_json

_STUBS = {
    "ProjectService": project_pb2_grpc.ProjectServiceStub,
    "SecretService": secret_pb2_grpc.SecretServiceStub,
    "ExecutionService": execution_pb2_grpc.ExecutionServiceStub,
    "SystemService": system_pb2_grpc.SystemServiceStub,
}
_DEADLINE_SECONDS = 20.0


class GrpcApi:
    """`Api` over a channel. No call takes longer than 20 s."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        stubs: dict[str, Any] = {name: stub(channel) for name, stub in _STUBS.items()}
        self._methods = {rpc: getattr(stubs[method.service], rpc) for rpc, method in METHODS.items()}

    async def call(
        self,
        rpc: str,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
        *,
        http: int = 200,
        idempotency_key: str | None = None,
    ) -> Json:
        """See `Api.call`."""
        with _failures():
            call = self._open(rpc, body or {}, {"x-api-key": key, "idempotency-key": idempotency_key})
            answer = to_json(await call)
        initial = await call.initial_metadata()
        assert "x-http-code" not in dict(initial), "only REST callers are told of HTTP"
        return answer

    async def events(self, rpc: str, body: Mapping[str, Any], key: str | None = None) -> AsyncIterator[Json]:
        """See `Api.events`."""
        call = self._open(rpc, body, {"x-api-key": key})
        try:
            with _failures():
                async for answer in call:
                    for event in to_json(answer)["events"]:
                        yield event
        finally:
            call.cancel()

    @asynccontextmanager
    async def text(
        self,
        rpc: str,
        body: Mapping[str, Any],
        key: str | None = None,
        *,
        accept: str | None = None,
        last_event_id: str | None = None,
        idempotency_key: str | None = None,
    ) -> AsyncIterator[TextAnswer]:
        """See `Api.text`."""
        call = self._open(
            rpc,
            body,
            {"x-api-key": key, "accept": accept, "last-event-id": last_event_id, "idempotency-key": idempotency_key},
        )
        try:
            answers = aiter(call)
            with _failures():
                first = await anext(answers)

            async def chunks() -> AsyncIterator[bytes]:
                yield first.data
                with _failures():
                    async for answer in answers:
                        yield answer.data

            yield TextAnswer(first.content_type, chunks())
        finally:
            call.cancel()

    def _open(self, rpc: str, body: Mapping[str, Any], metadata: Mapping[str, str | None]) -> Any:
        sent = tuple((name, value) for name, value in metadata.items() if value is not None)
        return self._methods[rpc](METHODS[rpc].request(body), metadata=sent, timeout=_DEADLINE_SECONDS)


@contextmanager
def _failures() -> Any:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise _failure_of(error) from None


def _failure_of(error: Any) -> ApiFailure:
    status = rpc_status.from_call(error)
    assert status is not None, f"an error without google.rpc.Status: {error}"
    return ApiFailure.of_status(status)
