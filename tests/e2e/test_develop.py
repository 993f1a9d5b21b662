"""Hot reload as the development container runs it: on a copy of the sources, with the real server and Envoy."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.compose import REPOSITORY, read
from tests.support.spawned_command import Spawned, free_port

pytestmark = pytest.mark.e2e


def health(port: int, path: str = "/api/health") -> tuple[int, str]:
    """Status of this route and the version that it tells; 0 if nobody answers."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False, timeout=5)
    except httpx.HTTPError:
        return 0, ""
    return answer.status_code, answer.json().get("version", "")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def starts(output: str) -> int:
    return len(re.findall(r"^ready$", output, re.MULTILINE))


# Four starts of the whole stack.
@pytest.mark.timeout(300)
def test_changed_code_and_changed_protos_are_served_without_a_hand(tmp_path: Path) -> None:
    service = read(tmp_path, "dev", ENCRYPTION_KEY="ab" * 32)["services"]["server-dev"]
    copy, port = tmp_path / "src", free_port()
    for mount in service["volumes"]:
        if mount["type"] == "bind":
            folder = mount["target"].removeprefix("/src/")
            shutil.copytree(REPOSITORY / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    environment = service["environment"] | {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "GRPC_PORT": "0",
        "WARM_AGENTS": "0",
        "HOME": str(tmp_path),
        "PROJECT_ROOT": str(tmp_path / "projects"),
        "BACKUP_ROOT": str(tmp_path / "backups"),
        "RUN_ROOT": str(tmp_path / "runs"),
        "PYTHONPATH": f"{copy / 'server'}:{copy / 'clients' / 'python'}",
    }
    assert service["command"][0] == "python"
    command = [sys.executable, *service["command"][1:]]
    descriptors = copy / "envoy" / "cloutagent.binpb"
    module = copy / "server" / "cloutagent_server" / "__init__.py"
    proto = copy / "protos" / "cloutagent" / "v1" / "system.proto"
    route = '{get: "/api/health"}'

    with Spawned(command, copy, tmp_path / "log", environment) as develop:
        develop.until(lambda: health(port)[0] == 200, "served")

        replace(module, 'version("cloutagent-server")', '"reloaded"')
        develop.until(lambda: health(port) == (200, "reloaded"), "served by the changed code")

        # A proto that does not compile leaves everything as it is.
        before = descriptors.read_bytes()
        replace(proto, route, "{get:")
        develop.until(lambda: "what runs stays as it is" in develop.output, "told that the proto is faulty")
        assert (health(port), descriptors.read_bytes()) == ((200, "reloaded"), before)

        assert health(port, "/api/alive")[0] == 404
        replace(proto, "{get:", '{get: "/api/health" additional_bindings {get: "/api/alive"}}')
        develop.until(lambda: health(port, "/api/alive") == (200, "reloaded"), "served by the changed proto")
        assert descriptors.read_bytes() != before

        # What was generated did not count as one more change.
        develop.until(lambda: starts(develop.output) >= 3, "said to be ready")
        assert starts(develop.output) == 3, develop.output
        children = psutil.Process(develop.process.pid).children(recursive=True)
        assert develop.stop() == 0
        assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
