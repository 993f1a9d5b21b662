"""The TypeScript client: its unit tests, and its scenarios against the real stack, in Node and in Chromium.

One run of vitest makes all of them, for each start of it, of Envoy and of the browser costs more than the scenarios.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.clients_typescript.stack import controlled, running_stack
from tests.support.api.ports import reserved_port

# It is as many tests as a folder of others.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

PACKAGE = Path(__file__).parents[2] / "clients" / "typescript"
DEADLINE_SECONDS = 270


async def test_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cloutagent_server.envoy_process._DRAIN_SECONDS", 1)
    monkeypatch.setattr("cloutagent_server.service.auth.BCRYPT_COST", 4)
    with reserved_port() as page_port:
        page = f"http://127.0.0.1:{page_port}"
        async with running_stack(tmp_path, (page,)) as stack, controlled(stack.commands) as control:
            environment = {**stack.environment, "CLOUTAGENT_TEST_PAGE": page, "CLOUTAGENT_TEST_CONTROL": control}
            status, output = await vitest(environment)
    if status != 0:
        pytest.fail(output, pytrace=False)


async def vitest(environment: dict[str, str]) -> tuple[int, str]:
    """Run all tests of the package; returns the exit status, and what was printed."""
    process = await asyncio.create_subprocess_exec(
        "node_modules/.bin/vitest",
        "run",
        cwd=PACKAGE,
        env={**os.environ, **environment, "NO_COLOR": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode()
