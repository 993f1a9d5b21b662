"""MCP servers in a project's agent: their rules, and the secrets in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cloutagent_server.domain.mcp import HttpServer, StdioServer
from tests.support.api import failing
from tests.support.api.scenario import MODEL, Projects
from tests.support.api.stage import DEPTHS
from tests.support.api.witness import files_with
from tests.support.fake_engine import FakeEngine, answer, message, tool_answers, use_tool

SECRET = "hunter2-top-secret"
AGENT = {"name": "a", "systemPrompt": "s", "model": MODEL}
LOCAL = {"type": "stdio", "command": "git-mcp", "args": ["--quiet"], "env": {"TOKEN": "{{secret:TOKEN}}"}}
FAR = {"type": "http", "url": "https://tools.example/mcp", "headers": {"Authorization": "Bearer {{secret:TOKEN}}"}}
SERVERS: dict[str, Any] = {"local": LOCAL, "far-one": FAR}


@pytest.mark.depths(*DEPTHS)
async def test_servers_are_configured_changed_and_removed(projects: Projects) -> None:
    project = await projects(agent={**AGENT, "mcpServers": SERVERS, "enabledTools": ["mcp__local__log"]})
    shown = project.document["agent"]["mcpServers"]
    assert {name: _given(server) for name, server in shown.items()} == SERVERS

    async def update(mask: str | None, **agent: object) -> dict[str, Any]:
        masked = {} if mask is None else {"updateMask": mask}
        body = {"project": {"id": project.id, "agent": agent}, **masked}
        changed: dict[str, Any] = (await project.api.call("UpdateProject", body, project.key))["project"]["agent"]
        return changed

    assert _servers(await update(None, temperature=0.1)) == SERVERS
    assert _servers(await update(None, mcpServers={"local": {"command": "other"}})) == {
        "local": {"type": "stdio", "command": "other"}
    }
    assert _servers(await update("agent.mcpServers,agent.enabledTools")) == {}


@pytest.mark.depths(*DEPTHS)
async def test_secrets_are_filled_in_for_the_agent_alone(
    projects: Projects, engine: FakeEngine, data_folder: Path
) -> None:
    project = await projects(agent={**AGENT, "mcpServers": SERVERS})
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await project.call("Execute", prompt="hello")
    assert set(caught.failure.violations) == {
        "agent.mcpServers.local.env.TOKEN",
        "agent.mcpServers.far-one.headers.Authorization",
    }
    await project.call("SetSecret", name="TOKEN", value=SECRET)
    engine.script = lambda _: [
        use_tool("t1", "mcp__local__log", {"note": SECRET}),
        tool_answers("t1", f"the token is {SECRET}"),
        message("Done."),
        answer("Done."),
    ]
    result = await project.call("Execute", prompt="hello")
    config = engine.executors[result["id"]].config
    assert config is not None
    assert config.mcp_servers == {
        "local": StdioServer("git-mcp", ("--quiet",), {"TOKEN": SECRET}),
        "far-one": HttpServer("https://tools.example/mcp", {"Authorization": f"Bearer {SECRET}"}),
    }
    events = await project.watch(result["id"])
    use, told = (event[kind] for kind in ("toolUse", "toolResult") for event in events if kind in event)
    assert (use["name"], use["input"]) == ("mcp__local__log", {"note": "[REDACTED]"})
    assert told["content"] == "the token is [REDACTED]"
    assert not files_with(data_folder, SECRET)


REFUSED: list[tuple[dict[str, Any], list[str], str]] = [
    ({"x": {}}, [], "agent.mcpServers.x"),
    ({"x": {"command": "a", "url": "https://b.example"}}, [], "agent.mcpServers.x"),
    ({"x": {"command": "a", "type": "http"}}, [], "agent.mcpServers.x"),
    ({"x": {"command": "a", "headers": {"A": "b"}}}, [], "agent.mcpServers.x"),
    ({"x": {"url": "https://b.example", "env": {"A": "b"}}}, [], "agent.mcpServers.x"),
    ({"x": {"url": "ftp://b.example"}}, [], "agent.mcpServers"),
    ({"x": {"command": ""}}, [], "agent.mcpServers"),
    ({"a__b": {"command": "a"}}, [], "agent.mcpServers"),
    ({"x" * 33: {"command": "a"}}, [], "agent.mcpServers"),
    ({f"x{number}": {"command": "a"} for number in range(17)}, [], "agent.mcpServers"),
    ({"x": {"command": "a", "env": {"NO NAME": "b"}}}, [], "agent.mcpServers"),
    ({"x": {"command": "a", "env": {"A": "{{name}}"}}}, [], "agent.mcpServers.x.env.A"),
    ({"x": {"command": "a", "env": {"A": "{{open"}}}, [], "agent.mcpServers.x.env.A"),
    ({"x": {"url": "https://b.example", "headers": {"Host": "c"}}}, [], "agent.mcpServers.x.headers.Host"),
    ({"unavailable": {"command": "a"}}, [], "agent.mcpServers.unavailable"),
    ({"x": {"command": "a"}}, ["mcp__y__tool"], "agent.enabledTools"),
]


async def test_what_is_no_server_is_refused_by_name(projects: Projects) -> None:
    for servers, tools, field in REFUSED:
        with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
            await projects(agent={**AGENT, "mcpServers": servers, "enabledTools": tools})
        assert list(caught.failure.violations), str(servers)[:200]
        assert all(name.startswith(field) for name in caught.failure.violations), str(servers)[:200]


async def test_a_secret_that_no_header_may_hold_is_refused(projects: Projects) -> None:
    project = await projects(agent={**AGENT, "mcpServers": {"far": FAR}})
    await project.call("SetSecret", name="TOKEN", value="one\r\nX-Two: two")
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await project.call("Execute", prompt="hello")
    assert list(caught.failure.violations) == ["agent.mcpServers.far.headers.Authorization"]


async def test_the_engine_forgets_what_changed(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    agent = project.document["agent"]["id"]
    body: dict[str, Any] = {"project": {"id": project.id, "name": "new"}}
    await project.api.call("UpdateProject", body, project.key)
    assert engine.forgotten == []
    body["project"] = {"id": project.id, "agent": {"temperature": 0.1}}
    await project.api.call("UpdateProject", body, project.key)
    assert engine.forgotten == [agent]
    await project.call("DeleteProject", http=204)
    assert engine.forgotten == [agent, agent]


def _given(server: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in server.items() if value not in ([], {})}


def _servers(agent: dict[str, Any]) -> dict[str, Any]:
    return {name: _given(server) for name, server in agent.get("mcpServers", {}).items()}
