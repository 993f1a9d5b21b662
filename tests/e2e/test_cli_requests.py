"""What the SDK's own command line sends is what the gateway lets through: a new version may send more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from claude_agent_sdk import ClaudeSDKClient

from cloutagent_server.engine import messages_api
from cloutagent_server.engine.input_bound import facts_of
from tests.support.cli_run import prepare
from tests.support.messages import running_upstream, stream_events, streaming

pytestmark = pytest.mark.e2e

LISTED = {*messages_api.INPUT_FIELDS, *messages_api.OTHER_FIELDS, *messages_api.SET_FIELDS}


@pytest.mark.parametrize(
    ("model", "tools"),
    [
        ("claude-sonnet-4-5", ()),
        ("claude-opus-4-6", ("Bash", "Read", "TodoWrite")),
        ("claude-haiku-5-5", ("Bash", "Edit", "Write", "Grep", "TodoWrite")),
    ],
)
async def test_what_the_command_line_sends_is_listed(tmp_path: Path, model: str, tools: tuple[str, ...]) -> None:
    async with running_upstream(streaming(stream_events(5, 1))) as upstream:
        workspace, options = prepare(tmp_path, upstream.url, tools)
        async with ClaudeSDKClient(replace(options, model=model, thinking=None)) as client:
            await client.query("hello")
            async for _ in client.receive_response():
                pass
        workspace.remove()
    assert upstream.received
    for received in upstream.received:
        assert received.path == messages_api.MESSAGES_PATH + "?beta=true"
        assert received.body.keys() <= LISTED
        assert facts_of(received.body).unbounded is None
        assert set(received.headers["anthropic-beta"].split(",")) == set(messages_api.betas(received.headers))
        assert received.headers["anthropic-version"] == messages_api.request_headers({}, None)["anthropic-version"]
        sent = messages_api.request_headers(received.headers, "key").keys()
        dropped = received.headers.keys() - sent
        assert dropped <= {"connection", "host", "content-length", "anthropic-dangerous-direct-browser-access"}
