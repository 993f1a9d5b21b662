"""Schemathesis against the live stack: no 5xx, no status and no answer that the OpenAPI document does not describe."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from pathlib import Path

import pytest

from tests.support.api.json_form import METHODS
from tests.support.api.scenario import project_body
from tests.support.api.stage import REST, Stage

ADMIN_KEY = "admin-0123456789abcdef0123456789abcdef"
CONFIG = Path(__file__).with_name("schemathesis.toml")


@pytest.mark.depths(REST)
@pytest.mark.server(admin_api_key=ADMIN_KEY)
@pytest.mark.timeout(300)
async def test_the_live_stack_answers_as_the_document_says(
    stage: Stage, server_log: io.StringIO, tmp_path: Path
) -> None:
    variables = {"API_KEY": ADMIN_KEY, **await prepared(stage)}
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        f"--config-file={CONFIG}",
        "run",
        f"http://{stage.address}/api/openapi.json",
        env={**os.environ, **variables, "NO_COLOR": "1"},
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output = (await process.communicate())[0].decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output
    assert ADMIN_KEY not in output
    # It did ask: for every method but the one that the configuration leaves out.
    log = server_log.getvalue()
    asked = {method.descriptor.name for method in METHODS.values() if method.path in log}
    assert asked == {name for name, method in METHODS.items() if method.route is not None} - {"StreamUsage"}


async def prepared(stage: Stage) -> dict[str, str]:
    """What there is to ask for, by the names of the configuration's variables."""
    api = stage.api
    project = (await api.call("CreateProject", project_body(), ADMIN_KEY, http=201))["project"]["id"]
    doomed = (await api.call("CreateProject", project_body(), ADMIN_KEY, http=201))["project"]["id"]
    for name in ("TOKEN", "DOOMED"):
        body = {"projectId": project, "name": name, "value": "value of a secret"}
        await api.call("SetSecret", body, ADMIN_KEY)
    key = await api.call("CreateApiKey", {"projectId": project, "name": "k"}, ADMIN_KEY, http=201)
    runs = [await api.call("Execute", {"projectId": project, "prompt": "hello"}, ADMIN_KEY) for _ in range(2)]
    return {
        "PROJECT_ID": project,
        "DOOMED_PROJECT_ID": doomed,
        "DOOMED_KEY_ID": key["key"]["id"],
        "EXECUTION_ID": runs[0]["id"],
        "DOOMED_EXECUTION_ID": runs[1]["id"],
    }
