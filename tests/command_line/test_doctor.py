"""`doctor`: each check against what it looks for."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from cloutagent.cli import checks
from cloutagent.cli.checks import Verdict
from cloutagent.cli.connection import Connection, Options, connect
from cloutagent.cli.profiles import Profile, Profiles
from tests.support.certificates import Authority
from tests.support.command_line.commands import Commands


@contextmanager
def answering(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A server that answers this to whatever it is asked; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connected, _ = listening.accept()
                except OSError:
                    return
                with connected:
                    connected.settimeout(10)
                    try:
                        if context is not None:
                            connected = context.wrap_socket(connected, server_side=True)
                        connected.recv(65_536)
                        connected.sendall(answer)
                    except OSError:
                        pass
                    finally:
                        connected.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


def dated(behind: timedelta) -> bytes:
    date = format_datetime(datetime.now(UTC) - behind, usegmt=True)
    return f"HTTP/1.1 200 OK\r\ndate: {date}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".encode()


def connection_to(address: str, tmp_path: Path, ca_file: str | None = None) -> Connection:
    profiles = Profiles(tmp_path)
    profiles.put("default", Profile(address, "cla_x", ca_file=ca_file))
    return connect(Options(), profiles, {})


def test_a_way_that_is_well_is_told_so(command: Commands) -> None:
    done = command.ok("doctor")
    lines = [line.split()[:2] for line in done.out.splitlines()]
    assert lines == [["ok", "address"], ["ok", "tls"], ["ok", "server"], ["ok", "key"], ["skipped", "clock"]]
    assert "of project notes" in done.out and "from CLOUTAGENT_API_KEY" in done.out and "cla_" not in done.out
    found = command.ok("doctor", "--json").json["checks"]
    assert [each["check"] for each in found] == ["address", "tls", "server", "key", "clock"]


def test_the_first_failure_gives_the_exit_code(command: Commands, stranger: Commands) -> None:
    wrong = command("doctor", CLOUTAGENT_API_KEY="cla_wrong")
    assert wrong.code == 3 and "API_KEY_INVALID" in wrong.out and "cla_wrong" not in wrong.out
    missing = stranger("doctor")
    assert missing.code == 3 and "`cloutagent login`" in missing.out
    away = command("doctor", "--address", "http://127.0.0.1:9", "--json")
    assert away.code == 6
    assert [each["verdict"] for each in away.json["checks"]] == ["failed", *["skipped"] * 4]
    assert "advice" in away.json["checks"][0]


def test_another_service_is_told_from_a_server(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloutagent.cli.doctor._TIMEOUT", 0.5)
    with answering(dated(timedelta())) as port:
        done = command("doctor", "--address", f"http://127.0.0.1:{port}", CLOUTAGENT_API_KEY="cla_x")
    assert done.code == 6
    assert [line.split()[0] for line in done.out.splitlines() if line[0] != " "] == [
        "ok",
        "ok",
        "failed",
        "skipped",
        "ok",
    ]


def test_another_release_is_a_warning(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloutagent.__version__", "7.1.0", raising=False)
    done = command.ok("doctor")
    assert "warning server" in done.out and "this command 7.1.0" in done.out


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    def silent(*_: object, **__: object) -> None:
        raise TimeoutError

    for fault, told in ((unknown, "the name is not known"), (silent, "nothing answers")):
        monkeypatch.setattr(socket, "create_connection", fault)
        found = checks.reachable(connection_to("https://agents.example", tmp_path))
        assert found.verdict is Verdict.FAILED and told in found.found


def test_a_unix_socket_is_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    connection = connection_to("unix:s", tmp_path)
    assert checks.reachable(connection).verdict is Verdict.FAILED
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        listening.listen()
        assert checks.reachable(connection).verdict is Verdict.OK
    assert checks.secure(connection).verdict is Verdict.OK
    assert checks.clock(connection).verdict is Verdict.SKIPPED


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def server_context(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    files = authority.issue_to(tmp_path_factory.mktemp("certificate"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.private_key)
    return context


def test_tls(authority: Authority, server_context: ssl.SSLContext, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)
    with answering(dated(timedelta()), server_context) as port:
        address = f"https://127.0.0.1:{port}"
        believed = connection_to(address, tmp_path, str(ca_file))
        no_http2 = checks.secure(believed)
        assert (no_http2.verdict, no_http2.found) == (Verdict.FAILED, "HTTP/2 is not offered there")
        server_context.set_alpn_protocols(["h2", "http/1.1"])
        found = checks.secure(believed)
        assert found.verdict in (Verdict.OK, Verdict.WARNING) and found.found.startswith("TLSv1.3, the certificate is")
        assert checks.clock(believed).verdict is Verdict.OK
        stranger = checks.secure(connection_to(address, tmp_path))
        assert stranger.verdict is Verdict.FAILED and "--ca-file" in stranger.advice
        assert checks.clock(connection_to(address, tmp_path)).verdict is Verdict.SKIPPED
    with answering(b"HTTP/1.1 400 no\r\n\r\n") as port:
        plain = checks.secure(connection_to(f"https://127.0.0.1:{port}", tmp_path))
    assert plain.verdict is Verdict.FAILED and plain.advice == "is it http:// that is spoken there?"
    elsewhere = checks.secure(connection_to("http://agents.example", tmp_path))
    assert elsewhere.verdict is Verdict.WARNING


@pytest.mark.parametrize(
    ("behind", "verdict", "told"),
    [
        (timedelta(), Verdict.OK, "as the server's"),
        (timedelta(seconds=15), Verdict.OK, "ahead of the server's"),
        (timedelta(hours=1), Verdict.FAILED, "s ahead of the server's"),
        (timedelta(hours=-1), Verdict.FAILED, "s behind the server's"),
    ],
)
def test_clocks(behind: timedelta, verdict: Verdict, told: str, tmp_path: Path) -> None:
    with answering(dated(behind)) as port:
        found = checks.clock(connection_to(f"http://127.0.0.1:{port}", tmp_path))
    assert found.verdict is verdict and told in found.found


def test_who_tells_no_time_is_passed_over(tmp_path: Path) -> None:
    for answer in (b"", b"\x00\x00\x12\x04", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"):
        with answering(answer) as port:
            assert checks.clock(connection_to(f"http://127.0.0.1:{port}", tmp_path)).verdict is Verdict.SKIPPED
