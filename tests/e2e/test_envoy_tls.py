"""TLS at the edge: REST and gRPC over it, what is refused, and a certificate that changes under open connections."""

from __future__ import annotations

import asyncio
import logging
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import httpx
import pytest
import pytest_asyncio

from cloutagent.v1 import execution_pb2, execution_pb2_grpc, project_pb2, project_pb2_grpc
from cloutagent_server.certificate import CertificateFiles
from cloutagent_server.envoy_process import EnvoyProcess
from tests.support.certificates import Authority, serial_of
from tests.support.edge_server import EdgeServer, running_envoy
from tests.support.raw_http import read_answer

pytestmark = pytest.mark.e2e

DEADLINE = 10.0
HEALTH = b"GET /api/health HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def files(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> CertificateFiles:
    return authority.issue_to(tmp_path_factory.mktemp("certificate"))


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def envoy(
    edge_server: EdgeServer, files: CertificateFiles, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EnvoyProcess]:
    run_dir = tmp_path_factory.mktemp("envoy")
    async with running_envoy(edge_server.port, run_dir, certificate=files) as process:
        yield process
    assert list(run_dir.iterdir()) == []


class Connection:
    """An HTTP/1.1 connection by TLS that stays open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @property
    def tls(self) -> ssl.SSLObject:
        """What was agreed on."""
        found: ssl.SSLObject = self._writer.get_extra_info("ssl_object")
        return found

    @property
    def serial(self) -> int:
        """The serial number of the server's certificate."""
        certificate = self.tls.getpeercert(binary_form=True)
        assert certificate is not None
        return serial_of(certificate)

    async def is_served(self) -> bool:
        """Whether a request is answered by 200."""
        self._writer.write(HEALTH)
        return (await asyncio.wait_for(read_answer(self._reader), DEADLINE)).status == 200


@asynccontextmanager
async def connected(port: int, context: ssl.SSLContext) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


async def served_serial(envoy: EnvoyProcess, authority: Authority) -> int:
    """The serial number of the certificate that a new connection gets."""
    async with connected(envoy.port, authority.client_context()) as connection:
        return connection.serial


async def until_served(envoy: EnvoyProcess, authority: Authority, serial: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while await served_serial(envoy, authority) != serial:  # noqa: ASYNC110 - Envoy tells nobody
            await asyncio.sleep(0.05)


async def test_rest_and_native_grpc_over_tls(envoy: EnvoyProcess, authority: Authority) -> None:
    url = f"https://127.0.0.1:{envoy.port}"
    async with httpx.AsyncClient(base_url=url, verify=authority.client_context(), timeout=DEADLINE) as rest:
        for response in (await rest.get("/api/health"), await rest.get("/nothing")):
            assert response.headers["strict-transport-security"] == "max-age=31536000"
        assert (await rest.post("/api/v1/projects", json={"name": "n"})).status_code == 201
    credentials = grpc.ssl_channel_credentials(authority.pem)
    async with grpc.aio.secure_channel(f"127.0.0.1:{envoy.port}", credentials) as channel:
        projects = project_pb2_grpc.ProjectServiceStub(channel)
        answer = await projects.GetProject(project_pb2.GetProjectRequest(project_id="p1"), timeout=DEADLINE)
        assert answer.project.id == "p1"
        executions = execution_pb2_grpc.ExecutionServiceStub(channel)
        call = executions.WatchExecution(execution_pb2.WatchExecutionRequest(execution_id="e1"), timeout=DEADLINE)
        assert [event.sequence async for answer in call for event in answer.events] == [1, 2, 3]


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), (["h3", "http/1.1"], "http/1.1")]
)
async def test_the_protocol_is_agreed_on(
    envoy: EnvoyProcess, authority: Authority, offered: list[str], chosen: str
) -> None:
    context = authority.client_context()
    context.set_alpn_protocols(offered)
    async with connected(envoy.port, context) as connection:
        assert connection.tls.selected_alpn_protocol() == chosen


async def test_tls_1_2_and_1_3_are_spoken_and_1_1_is_refused(envoy: EnvoyProcess, authority: Authority) -> None:
    for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
        context = authority.client_context()
        context.minimum_version = context.maximum_version = version
        async with connected(envoy.port, context) as connection:
            assert connection.tls.version() == name
            assert await connection.is_served()
    old = authority.client_context()
    # Level 0 lets the client offer it at all, so that the refusal is the server's.
    old.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
        async with connected(envoy.port, old):
            pass


async def test_without_tls_nothing_is_answered(envoy: EnvoyProcess) -> None:
    async with httpx.AsyncClient(timeout=DEADLINE) as rest:
        with pytest.raises(httpx.TransportError):
            await rest.get(f"http://127.0.0.1:{envoy.port}/api/health")


async def test_a_new_certificate_is_served_and_open_connections_stay(
    envoy: EnvoyProcess,
    server: EdgeServer,
    authority: Authority,
    files: CertificateFiles,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="cloutagent_server")
    first = serial_of(files.certificate.read_bytes())
    url = f"https://127.0.0.1:{envoy.port}"
    async with (
        connected(envoy.port, authority.client_context()) as old,
        httpx.AsyncClient(base_url=url, verify=authority.client_context(), timeout=DEADLINE) as rest,
        rest.stream("GET", "/api/v1/executions/e1/stream") as stream,
    ):
        chunks = stream.aiter_raw()
        assert await anext(chunks) == b": open\n\n"
        assert old.serial == first

        # Half of a pair changes nothing.
        certificate, key = authority.issue()
        files.certificate.write_bytes(certificate)
        async with asyncio.timeout(DEADLINE):
            while "certificate_refused" not in caplog.messages:  # noqa: ASYNC110 - the log tells nobody
                await asyncio.sleep(0.05)
        assert await served_serial(envoy, authority) == first

        # Written over, and then moved into place.
        files.private_key.write_bytes(key)
        await until_served(envoy, authority, serial_of(certificate))
        certificate, key = authority.issue()
        for path, content in ((files.certificate, certificate), (files.private_key, key)):
            path.with_suffix(".new").write_bytes(content)
            path.with_suffix(".new").replace(path)
        await until_served(envoy, authority, serial_of(certificate))

        assert await old.is_served()
        server.gate.set()
        assert b"".join([chunk async for chunk in chunks]).endswith(b"data: {}\n\n")
    assert "PRIVATE KEY" not in caplog.text
