"""`cloutagent-server envoy`: what the settings say is what the edge does. No server is behind it."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

import httpx
import pytest

from tests.support.certificates import Authority
from tests.support.faults.spawned import spawn

pytestmark = pytest.mark.e2e

DEADLINE = 60.0


async def test_the_settings_reach_envoy(tmp_path: Path) -> None:
    authority = Authority()
    files = authority.issue_to(tmp_path)
    settings = {
        "HOME": str(tmp_path),
        "PORT": "0",
        "UPSTREAMS": f"unix:{tmp_path / 'nobody.sock'}",
        "RUN_ROOT": str(tmp_path / "runs"),
        "TLS_CERTIFICATE_FILE": str(files.certificate),
        "TLS_PRIVATE_KEY_FILE": str(files.private_key),
    }
    process = await spawn(tmp_path, "envoy", settings, "envoy")
    output = tmp_path / "envoy.out"
    try:
        async with asyncio.timeout(DEADLINE):
            while "ready" not in output.read_text():
                assert process.returncode is None, (tmp_path / "envoy.log").read_text()
                await asyncio.sleep(0.05)
        address = re.search(r"https://\S+", output.read_text())
        assert address is not None
        async with httpx.AsyncClient(base_url=address[0], verify=authority.client_context(), timeout=DEADLINE) as rest:
            # Of 150 writes without a key at most 100 and what is refilled meanwhile go on to where a server would be.
            answers = [await rest.post("/api/v1/projects", json={"name": "n"}) for _ in range(150)]
            assert {answer.status_code for answer in answers[:100]} == {503}
            assert 429 in {answer.status_code for answer in answers[100:]}
            assert (await rest.get("/api/v1/projects")).status_code == 503
            # Nobody but this machine comes in, and there is no admin key.
            assert (await rest.get("/api/v1/projects", headers={"host": "evil.example"})).status_code == 404
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert "PRIVATE KEY" not in output.read_text() + (tmp_path / "envoy.log").read_text()
