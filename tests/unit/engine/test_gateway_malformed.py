"""What an agent sends that is no request: it is refused, and the server's log says no more than that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cloutagent_server import logs
from cloutagent_server.settings import LogLevel
from tests.support.gateway_stage import MODEL, Run, running
from tests.support.messages import stream_events, streaming
from tests.support.raw_http import RawAnswer, answer_to

SECRET = b"the-token-of-the-crm"
BODY = json.dumps({"model": MODEL, "max_tokens": 5, "messages": []}).encode()
MALFORMED = [
    b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n" + SECRET + b" no colon\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx: " + SECRET * 1000 + b"\r\n\r\n",
    b"POST /" + SECRET * 1000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST http://[" + SECRET + b"/ HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: " + SECRET + b"\r\n\r\n",
    SECRET.upper() + b" / HTTP/1.1\r\n\r\n",
    b"\x16\x03" + SECRET + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" + SECRET,
]


def logged(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


async def asked(run: Run, headers: bytes, body: bytes = BODY) -> RawAnswer:
    port = int(run.session.base_url.rpartition(":")[2])
    length = b"" if b"chunked" in headers else b"content-length: %d\r\n" % len(body)
    return await answer_to(port, b"POST /v1/messages HTTP/1.1\r\nhost: x\r\n" + length + headers + b"\r\n" + body)


@pytest.mark.parametrize("level", [LogLevel.INFO, LogLevel.DEBUG])
async def test_many_malformed_requests_leave_one_line_without_their_bytes(
    level: LogLevel, capsys: pytest.CaptureFixture[str]
) -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        logs.configure(level)
        port = int(run.session.base_url.rpartition(":")[2])
        for _ in range(3):
            for request in MALFORMED:
                assert (await answer_to(port, request)).status in (400, 404)
    lines = [line for line in logged(capsys) if line["level"] != "debug"]
    assert [(line["event"], line["level"]) for line in lines] == [("malformed HTTP requests were refused", "warning")]
    assert SECRET.decode() not in str(lines).lower()


async def test_a_malformed_body_is_refused_without_its_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        logs.configure(LogLevel.INFO)
        key = b"x-api-key: %s\r\n" % run.session.token.encode()
        answer = await asked(run, key + b"transfer-encoding: chunked\r\n", SECRET + b"\r\n")
        assert answer.status == 400
    assert {line["event"] for line in logged(capsys)} <= {"malformed HTTP requests were refused"}
    assert run.upstream.received == []


@pytest.mark.parametrize("header", [b"x-api-key: \xff\xfe", b"authorization: Bearer \xff", b"x-api-key: w\xc3\xb6rng"])
async def test_a_credential_that_is_not_utf_8_is_none(header: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        logs.configure(LogLevel.INFO)
        assert (await asked(run, header + b"\r\n")).status == 401
    assert logged(capsys) == []


@pytest.mark.parametrize("name", [b"user-agent", b"anthropic-beta", b"x-other"])
async def test_a_header_that_is_not_utf_8_goes_nowhere(name: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        logs.configure(LogLevel.INFO)
        key = b"x-api-key: %s\r\n" % run.session.token.encode()
        assert (await asked(run, key + name + b": \xff\xfe\r\n")).status == 400
        assert run.upstream.received == []
        assert (await asked(run, key + name + b": gr\xc3\xbc\xc3\x9fe\r\n")).status == 200
    assert logged(capsys) == []
