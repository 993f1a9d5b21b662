"""What a project may look like: every limit of the contract, from both sides."""

from __future__ import annotations

from typing import Any

from tests.support.api import Api, failing
from tests.support.api.scenario import merged, project_body

REFUSED: list[tuple[str, Any, str]] = [
    ("name", "", "name"),
    ("name", "x" * 101, "name"),
    ("description", "x" * 1001, "description"),
    ("agent.id", "5c3e8f2a-0000-4000-8000-000000000000", "agent.id"),
    ("agent.name", "", "agent.name"),
    ("agent.name", "x" * 101, "agent.name"),
    ("agent.systemPrompt", "", "agent.systemPrompt"),
    ("agent.systemPrompt", "x" * 262_145, "agent.systemPrompt"),
    ("agent.systemPrompt", "é" * 131_073, "agent.systemPrompt"),
    ("agent.systemPrompt", "{{not a name}}", "agent.systemPrompt"),
    ("agent.model", "", "agent.model"),
    ("agent.model", "gpt-5", "agent.model"),
    ("agent.model", "claude-2.1", "agent.model"),
    ("agent.model", "Claude-Sonnet-4-5", "agent.model"),
    ("agent.model", "x" * 101, "agent.model"),
    ("agent.temperature", -0.001, "agent.temperature"),
    ("agent.temperature", 1.001, "agent.temperature"),
    ("agent.maxTokens", 0, "agent.maxTokens"),
    ("agent.maxTokens", -1, "agent.maxTokens"),
    ("agent.maxTokens", 200_001, "agent.maxTokens"),
    ("agent.enabledTools", ["Read", "no tool"], "agent.enabledTools[1]"),
    ("agent.enabledTools", ["Read", "Read"], "agent.enabledTools"),
    ("agent.enabledTools", [f"Tool{number}" for number in range(65)], "agent.enabledTools"),
    ("agent.enabledTools", ["Bash"], "agent.enabledTools"),
    ("limits.maxTokens", 0, "limits.maxTokens"),
    ("limits.maxTokens", -5, "limits.maxTokens"),
    ("limits.maxCost", 0, "limits.maxCost"),
    ("limits.maxCost", -0.01, "limits.maxCost"),
    ("limits.timeout", 999, "limits.timeout"),
    ("limits.timeout", 0, "limits.timeout"),
    # MAX_EXECUTION_TIMEOUT_SECONDS is a day by default.
    ("limits.timeout", 86_400_001, "limits.timeout"),
]

TAKEN: list[tuple[str, Any]] = [
    ("name", "x" * 100),
    ("name", "日" * 100),
    ("description", "x" * 1000),
    ("description", ""),
    ("agent.name", "x" * 100),
    ("agent.systemPrompt", "é" * 131_072),
    ("agent.model", "claude-opus-4"),
    ("agent.model", "claude-sonnet-4-5-20250929"),
    ("agent.temperature", 0),
    ("agent.temperature", 1),
    ("agent.maxTokens", 1),
    ("agent.maxTokens", 200_000),
    ("agent.enabledTools", [f"Tool{number}" for number in range(64)]),
    ("limits.maxTokens", 1),
    ("limits.maxTokens", 1_000_000_000),
    ("limits.maxCost", 0.000001),
    ("limits.timeout", 1000),
    ("limits.timeout", 86_400_000),
]

MISSING: list[tuple[dict[str, Any], str]] = [
    ({"agent": {"name": "a", "systemPrompt": "s", "model": "claude-opus-4"}}, "name"),
    ({"name": "n"}, "agent"),
    ({"name": "n", "agent": {"systemPrompt": "s", "model": "claude-opus-4"}}, "agent.name"),
    ({"name": "n", "agent": {"name": "a", "model": "claude-opus-4"}}, "agent.systemPrompt"),
    ({"name": "n", "agent": {"name": "a", "systemPrompt": "s"}}, "agent.model"),
]


async def test_what_lies_outside_a_limit_is_refused_by_name(api: Api) -> None:
    cases = [(merged(project_body(), path, value), field) for path, value, field in REFUSED]
    for body, field in cases:
        assert await _violations(api, "CreateProject", body) == [field], str(body)[:200]


async def test_what_is_required_is_asked_for_by_name(api: Api) -> None:
    for body, field in MISSING:
        assert await _violations(api, "CreateProject", body) == [field], body


async def test_what_lies_on_a_limit_is_taken_as_it_is(api: Api) -> None:
    for path, value in TAKEN:
        created = await api.call("CreateProject", merged(project_body(), path, value), http=201)
        found: Any = created["project"]
        for name in path.split("."):
            found = found[name]
        assert found == value, path


async def test_an_update_is_held_to_the_same_limits(api: Api) -> None:
    created = await api.call("CreateProject", project_body(), http=201)
    project_id, key = created["project"]["id"], created["apiKey"]
    for path, value, field in REFUSED:
        body = {"project": merged({"id": project_id}, path, value)}
        assert await _violations(api, "UpdateProject", body, key) == [f"project.{field}"], path
    assert await api.call("GetProject", {"projectId": project_id}, key) == {"project": created["project"]}


async def _violations(api: Api, rpc: str, body: dict[str, Any], key: str | None = None) -> list[str]:
    with failing("INVALID_ARGUMENT", 400, "INVALID_REQUEST") as caught:
        await api.call(rpc, body, key)
    return list(caught.failure.violations)
