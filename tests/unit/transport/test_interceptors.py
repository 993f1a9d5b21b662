"""What every call passes through, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from cloutagent.v1 import access_pb2
from cloutagent.v1.system_pb2 import GetHealthRequest as Request
from cloutagent.v1.system_pb2 import GetHealthResponse as Answer
from cloutagent_server.domain.errors import (
    AccessDenied,
    ProjectNotFound,
    StorageUnavailable,
    StoredDataDamaged,
)
from cloutagent_server.domain.identifiers import is_id
from cloutagent_server.service.auth import Principal
from cloutagent_server.transport import interceptors, validation
from cloutagent_server.transport.access import FOREIGN_RULES, AccessControl
from cloutagent_server.transport.audit import Auditing, RefusalAuditing
from cloutagent_server.transport.interceptors import Around, ErrorAnswering, Guard, Nested
from cloutagent_server.transport.server import arounds_for
from tests.support.service_world import DEADLINE_SECONDS, make_world

SERVICE = "test.Service"
Context = grpc.aio.ServicerContext[Any, Any]


class Lines:
    """A logger that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, dict[str, Any]]] = []

    def info(self, event: str, **fields: Any) -> None:
        """Keep it."""
        self.lines.append(("info", event, fields))

    def error(self, event: str, **fields: Any) -> None:
        """Keep it."""
        self.lines.append(("error", event, fields))

    def of(self, level: str) -> list[tuple[str, dict[str, Any]]]:
        """What was told at a level."""
        return [(event, fields) for told, event, fields in self.lines if told == level]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    kept = Lines()
    monkeypatch.setattr(interceptors, "log", kept)
    return kept


@asynccontextmanager
async def serving(
    *around: Around,
    unary: Callable[[Message, Context], Any] | None = None,
    stream: Callable[[Message, Context], Any] | None = None,
) -> AsyncIterator[grpc.aio.Channel]:
    """A server with one unary method and one stream, behind these interceptors."""
    codec: dict[str, Any] = {
        "request_deserializer": Request.FromString,
        "response_serializer": Answer.SerializeToString,
    }
    handlers: dict[str, Any] = {}
    if unary is not None:
        handlers["Unary"] = grpc.unary_unary_rpc_method_handler(unary, **codec)
    if stream is not None:
        handlers["Stream"] = grpc.unary_stream_rpc_method_handler(stream, **codec)
    server = grpc.aio.server(interceptors=(Nested(*around),))
    server.add_registered_method_handlers(SERVICE, handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(5)


def call_unary(channel: grpc.aio.Channel, **options: Any) -> Any:
    method = channel.unary_unary(
        f"/{SERVICE}/Unary", request_serializer=Request.SerializeToString, response_deserializer=Answer.FromString
    )
    return method(Request(), timeout=DEADLINE_SECONDS, **options)


def call_stream(channel: grpc.aio.Channel, **options: Any) -> Any:
    method = channel.unary_stream(
        f"/{SERVICE}/Stream", request_serializer=Request.SerializeToString, response_deserializer=Answer.FromString
    )
    return method(Request(), timeout=DEADLINE_SECONDS, **options)


def status_of(error: grpc.RpcError) -> status_pb2.Status:
    assert isinstance(error, grpc.aio.AioRpcError)
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert isinstance(status, status_pb2.Status)
    assert status.code == error.code().value[0]
    return status


def request_id_of(status: status_pb2.Status) -> str:
    info = error_details_pb2.RequestInfo()
    assert status.details[-1].Unpack(info)
    return str(info.request_id)


async def answer(request: Message, context: Context) -> Answer:
    return Answer(status="ok")


async def answers(request: Message, context: Context) -> AsyncIterator[Answer]:
    for number in range(3):
        yield Answer(status=str(number))


class Noting(Around):
    """Notes when calls go in and out."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self._name = name
        self._notes = notes

    @asynccontextmanager
    async def around(self, method: str, request: Message, context: Context) -> AsyncIterator[None]:
        """Note it."""
        self._notes.append(f"{self._name} in {method}")
        try:
            yield
        finally:
            self._notes.append(f"{self._name} out")


# Around.


async def test_interceptors_nest_in_their_order() -> None:
    notes: list[str] = []
    async with serving(Noting("a", notes), Noting("b", notes), unary=answer) as channel:
        assert (await call_unary(channel)).status == "ok"
    assert notes == ["a in /test.Service/Unary", "b in /test.Service/Unary", "b out", "a out"]


async def test_a_stream_is_inside_to_its_end() -> None:
    notes: list[str] = []

    async def noting(request: Message, context: Context) -> AsyncIterator[Answer]:
        for number in range(2):
            notes.append(str(number))
            yield Answer(status=str(number))

    async with serving(Noting("a", notes), stream=noting) as channel:
        assert [one.status async for one in call_stream(channel)] == ["0", "1"]
    assert notes == ["a in /test.Service/Stream", "0", "1", "a out"]


async def test_each_call_goes_through_but_the_handler_is_wrapped_once() -> None:
    notes: list[str] = []
    async with serving(Noting("a", notes), unary=answer) as channel:
        for _ in range(3):
            await call_unary(channel)
    assert notes.count("a out") == 3


async def test_a_stream_that_its_caller_leaves_is_closed() -> None:
    closed = asyncio.Event()
    notes: list[str] = []

    async def endless(request: Message, context: Context) -> AsyncIterator[Answer]:
        try:
            yield Answer(status="first")
            await asyncio.Event().wait()
        finally:
            closed.set()

    async with serving(Noting("a", notes), stream=endless) as channel:
        call = call_stream(channel)
        assert (await call.read()).status == "first"
        call.cancel()
        await asyncio.wait_for(closed.wait(), DEADLINE_SECONDS)
    assert notes[-1] == "a out"


async def test_a_method_that_does_not_exist_is_unimplemented() -> None:
    notes: list[str] = []
    async with serving(Noting("a", notes), stream=answers) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_unary(channel)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert notes == []


async def test_foreign_methods_are_left_as_they_are() -> None:
    noting = Noting("a", [])
    handler: object = grpc.unary_unary_rpc_method_handler(answer)

    class Details:
        """What an interceptor is told."""

        method = next(iter(FOREIGN_RULES))

    async def continuation(details: object) -> object:
        return handler

    assert await Nested(noting).intercept_service(continuation, Details) is handler


# Errors.


async def test_an_error_is_answered_from_the_catalogue(lines: Lines) -> None:
    async def refuse(request: Message, context: Context) -> Answer:
        raise ProjectNotFound("p")

    async with serving(ErrorAnswering(), unary=refuse) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_unary(channel)
    status = status_of(caught.value)
    assert (status.code, status.message) == (code_pb2.NOT_FOUND, "the project does not exist")
    assert lines.of("error") == []


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_an_error_in_the_middle_of_a_stream_is_answered_too(lines: Lines, position: int) -> None:
    async def refuse(request: Message, context: Context) -> AsyncIterator[Answer]:
        for number in range(position):
            yield Answer(status=str(number))
        raise ProjectNotFound("p")

    async with serving(ErrorAnswering(), stream=refuse) as channel:
        call = call_stream(channel)
        assert [(await call.read()).status for _ in range(position)] == [str(number) for number in range(position)]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert status_of(caught.value).code == code_pb2.NOT_FOUND
    [(event, fields)] = lines.of("info")
    assert (event, fields["code"], fields["method"]) == ("call", "NOT_FOUND", "/test.Service/Stream")


async def test_an_internal_fault_is_logged_and_not_told(lines: Lines) -> None:
    fault = RuntimeError("s3cret of /srv")

    async def break_down(request: Message, context: Context) -> Answer:
        raise fault

    async with serving(ErrorAnswering(), unary=break_down) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_unary(channel)
    status = status_of(caught.value)
    assert status.code == code_pb2.INTERNAL
    everything = (
        f"{status}{caught.value.details()}{caught.value.trailing_metadata()}{caught.value.debug_error_string()}"
    )
    assert "s3cret" not in everything and "/srv" not in everything and "RuntimeError" not in everything
    [(event, fields)] = lines.of("error")
    assert (event, fields["exc_info"], fields["request_id"]) == ("call failed", fault, request_id_of(status))


@pytest.mark.parametrize(
    ("error", "event", "detail"),
    [
        (StoredDataDamaged("/srv/p", "not JSON"), "stored data damaged", {"location": "/srv/p", "fault": "not JSON"}),
        (StorageUnavailable("ENOSPC"), "storage unavailable", {"cause": "ENOSPC"}),
    ],
)
async def test_the_operator_is_told_what_the_caller_is_not(
    lines: Lines, error: Exception, event: str, detail: dict[str, str]
) -> None:
    async def refuse(request: Message, context: Context) -> Answer:
        raise error

    async with serving(ErrorAnswering(), unary=refuse) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call_unary(channel)
    status = status_of(caught.value)
    assert not any(value in str(status) for value in detail.values())
    [(told, fields)] = lines.of("error")
    assert told == event
    assert fields == {**detail, "request_id": request_id_of(status)}


async def test_every_call_is_one_line_in_the_log(lines: Lines) -> None:
    async with serving(ErrorAnswering(), unary=answer, stream=answers) as channel:
        await call_unary(channel, metadata=(("x-request-id", "mine-1"),))
        assert len([one async for one in call_stream(channel)]) == 3
    first, second = (fields for _, fields in lines.of("info"))
    assert first.pop("milliseconds") >= 0
    assert first == {
        "method": "/test.Service/Unary",
        "code": "OK",
        "request_id": "mine-1",
        "project_id": "-",
        "key_id": "-",
    }
    assert (second["method"], second["code"]) == ("/test.Service/Stream", "OK")
    assert is_id(second["request_id"])


async def test_a_call_that_its_caller_leaves_is_logged_as_cancelled(lines: Lines) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    class Outside(Around):
        """Tells when the call is over."""

        @asynccontextmanager
        async def around(self, method: str, request: Message, context: Context) -> AsyncIterator[None]:
            """Tell it."""
            try:
                yield
            finally:
                ended.set()

    async def hang(request: Message, context: Context) -> Answer:
        begun.set()
        await asyncio.Event().wait()
        return Answer()

    async with serving(Outside(), ErrorAnswering(), unary=hang) as channel:
        call = call_unary(channel)
        waiting = asyncio.ensure_future(begun.wait())
        await asyncio.wait_for(waiting, DEADLINE_SECONDS)
        call.cancel()
        await asyncio.wait_for(ended.wait(), DEADLINE_SECONDS)
    assert [fields["code"] for _, fields in lines.of("info")] == ["CANCELLED"]


# The order of all of them.


def test_the_order_is_errors_first_and_then_the_guard() -> None:
    """Errors are answered whoever raises them, so that interceptor is the outermost."""
    assert [type(one) for one in arounds_for(make_world().services)] == [
        ErrorAnswering,
        RefusalAuditing,
        Guard,
        Auditing,
    ]


class Access:
    """An access control that notes what it is asked and refuses where it is told to."""

    def __init__(self, refuses_at: str | None = None) -> None:
        self.notes: list[str] = []
        self._refuses_at = refuses_at

    def needs_key(self, rule: access_pb2.Access) -> bool:
        """Whether a key is needed."""
        return not rule.anyone

    async def identify(self, api_key: str | None, source: str) -> Any:
        """Who has the key."""
        assert source == "203.0.113.9"
        self._note(f"key {api_key}")
        return Principal(None, "admin")

    async def check(self, rule: access_pb2.Access, principal: object, request: Message) -> None:
        """Whether the call may pass."""
        self._note("access")

    def _note(self, note: str) -> None:
        self.notes.append(note)
        if note.partition(" ")[0] == self._refuses_at:
            raise AccessDenied("no")


METHOD = "/test.Service/Unary"


async def guarded(
    access: Access, rule: access_pb2.Access | None, monkeypatch: pytest.MonkeyPatch, method: str = METHOD
) -> list[str]:
    """What a guard does for a call with the key `k`, in order."""

    class Calling:
        """The part of a context that is asked for."""

        def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
            """What the caller sent."""
            return (("x-api-key", "k"),)

        def peer(self) -> str:
            """Where the call comes from."""
            return "ipv4:203.0.113.9:4711"

    notes = access.notes
    monkeypatch.setattr(validation, "check", lambda request: notes.append("validation"))
    rules = {} if rule is None else {METHOD: rule}
    control: AccessControl = access  # type: ignore[assignment]
    async with Guard(rules, control).around(method, Request(), Calling()):  # type: ignore[arg-type]
        notes.append("call")
    return notes


async def test_the_guard_asks_for_key_access_and_validity_in_this_order(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = await guarded(Access(), access_pb2.Access(any_key=True), monkeypatch)
    assert notes == ["key k", "access", "validation", "call"]


async def test_without_need_of_a_key_validity_is_asked_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await guarded(Access(), access_pb2.Access(anyone=True), monkeypatch) == ["validation", "call"]


@pytest.mark.parametrize(("refuses_at", "reached"), [("key", ["key k"]), ("access", ["key k", "access"])])
async def test_what_is_refused_goes_no_further(
    monkeypatch: pytest.MonkeyPatch, refuses_at: str, reached: list[str]
) -> None:
    access = Access(refuses_at)
    with pytest.raises(AccessDenied):
        await guarded(access, access_pb2.Access(any_key=True), monkeypatch)
    assert access.notes == reached


async def test_a_method_without_a_rule_is_refused_at_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access()
    with pytest.raises(AccessDenied, match="no access rule"):
        await guarded(access, None, monkeypatch)
    with pytest.raises(AccessDenied, match="no access rule"):
        await guarded(access, access_pb2.Access(anyone=True), monkeypatch, method="/test.Service/Other")
    assert access.notes == []
