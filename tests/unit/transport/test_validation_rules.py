"""Validation: the rules in the protos, and fields named as callers spell them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from cloutagent.v1 import cost_pb2, execution_pb2, project_pb2, secret_pb2
from cloutagent_server.domain.errors import InvalidRequest
from cloutagent_server.transport import validation

ID = "6d0f2c1e-0000-4000-8000-000000000000"


def fields(request: Message) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        validation.check(request)
    assert all(violation.description for violation in caught.value.violations)
    return [violation.field for violation in caught.value.violations]


def agent(**changes: Any) -> project_pb2.AgentConfig:
    return project_pb2.AgentConfig(**{"name": "a", "system_prompt": "s", "model": "m", **changes})


def create(**changes: Any) -> project_pb2.CreateProjectRequest:
    return project_pb2.CreateProjectRequest(**{"name": "p", "agent": agent(), **changes})


def execute(**changes: Any) -> execution_pb2.ExecuteRequest:
    return execution_pb2.ExecuteRequest(**{"project_id": ID, "prompt": "p", **changes})


def options(**changes: Any) -> execution_pb2.ExecuteRequest:
    return execute(options=execution_pb2.ExecutionOptions(**changes))


@pytest.mark.parametrize(
    "request_",
    [
        create(),
        create(agent=agent(temperature=0.0, max_tokens=200_000, enabled_tools=["Read", "mcp__x-y"])),
        create(agent=agent(temperature=1.0), limits=project_pb2.Limits(max_tokens=1, max_cost=1e-9, timeout=1000)),
        create(name="ü" * 100, description="d" * 1000),
        execute(),
        execute(idempotency_key="k" * 255),
        options(variables={"a_1": "ü" * 131_072}),
        secret_pb2.SetSecretRequest(project_id=ID, name="A_1", value=""),
        project_pb2.UpdateProjectRequest(project=project_pb2.Project(id=ID)),
        project_pb2.ListProjectsRequest(),
        execution_pb2.WatchExecutionRequest(execution_id=ID, after_sequence=0),
        execution_pb2.ListModelsRequest(),
    ],
)
def test_what_is_valid_passes(request_: Message) -> None:
    validation.check(request_)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (create(name=""), ["name"]),
        (create(name="n" * 101), ["name"]),
        (create(description="d" * 1001), ["description"]),
        (project_pb2.CreateProjectRequest(name="p"), ["agent"]),
        (create(agent=project_pb2.AgentConfig()), ["agent.name", "agent.systemPrompt", "agent.model"]),
        (create(agent=agent(id=ID)), ["agent.id"]),
        (create(agent=agent(system_prompt="")), ["agent.systemPrompt"]),
        (create(agent=agent(system_prompt="ü" * 131_073)), ["agent.systemPrompt"]),
        (create(agent=agent(temperature=1.01)), ["agent.temperature"]),
        (create(agent=agent(temperature=-0.1)), ["agent.temperature"]),
        (create(agent=agent(max_tokens=0)), ["agent.maxTokens"]),
        (create(agent=agent(max_tokens=200_001)), ["agent.maxTokens"]),
        (create(agent=agent(enabled_tools=["Read", "Read"])), ["agent.enabledTools"]),
        (create(agent=agent(enabled_tools=["Read", "Bash(ls)"])), ["agent.enabledTools[1]"]),
        (create(limits=project_pb2.Limits(max_tokens=0)), ["limits.maxTokens"]),
        (create(limits=project_pb2.Limits(max_cost=0)), ["limits.maxCost"]),
        (create(limits=project_pb2.Limits(max_cost=math.inf)), ["limits.maxCost"]),
        (create(limits=project_pb2.Limits(timeout=999)), ["limits.timeout"]),
        (execute(project_id="mine"), ["projectId"]),
        (execute(prompt=""), ["prompt"]),
        (execute(prompt="ü" * 524_289), ["prompt"]),
        (execute(idempotency_key=""), ["idempotencyKey"]),
        (execute(idempotency_key="k" * 256), ["idempotencyKey"]),
        (options(max_tokens=0), ["options.maxTokens"]),
        (options(max_cost=-1), ["options.maxCost"]),
        (options(timeout=1), ["options.timeout"]),
        (options(variables={"1st": "v"}), ["options.variables.1st"]),
        (options(variables={"big": "v" * 262_145}), ["options.variables.big"]),
        (secret_pb2.SetSecretRequest(project_id=ID, name="A"), ["value"]),
        (secret_pb2.SetSecretRequest(project_id=ID, name="1", value="v"), ["name"]),
        (secret_pb2.SetSecretRequest(project_id=ID, name="A", value="ü" * 32_769), ["value"]),
        (secret_pb2.EncryptRequest(project_id=ID), ["plaintext"]),
        (secret_pb2.DecryptRequest(project_id=ID), ["ciphertext"]),
        (project_pb2.UpdateProjectRequest(), ["project"]),
        (project_pb2.UpdateProjectRequest(project=project_pb2.Project(id="x")), ["project.id"]),
        (
            project_pb2.UpdateProjectRequest(
                project=project_pb2.Project(id=ID, created_at=Timestamp(), updated_at=Timestamp())
            ),
            ["project.createdAt", "project.updatedAt"],
        ),
        (
            project_pb2.UpdateProjectRequest(
                project=project_pb2.Project(id=ID, name="", agent=project_pb2.AgentConfig(id=ID))
            ),
            ["project.agent.id", "project.name"],
        ),
        (project_pb2.ListProjectsRequest(page_size=0), ["pageSize"]),
        (project_pb2.ListProjectsRequest(page_size=1001), ["pageSize"]),
        (execution_pb2.ListExecutionsRequest(project_id=ID, page_token="t" * 201), ["pageToken"]),
        (execution_pb2.WatchExecutionRequest(execution_id=ID, after_sequence=-1), ["afterSequence"]),
        (execution_pb2.StreamExecutionEventsRequest(execution_id=ID, from_event=0), ["fromEvent"]),
        (execution_pb2.EstimateCostRequest(project_id=ID, prompt_tokens=-1), ["promptTokens"]),
        (
            execution_pb2.GetExecutionCostRequest(execution_id=ID, limits=cost_pb2.CostLimits(max_tokens=0)),
            ["limits.maxTokens"],
        ),
    ],
)
def test_what_is_not_valid_is_named(request_: Message, expected: list[str]) -> None:
    assert fields(request_) == expected


def test_not_a_number_is_refused() -> None:
    assert set(fields(create(agent=agent(temperature=math.nan)))) == {"agent.temperature"}
    assert set(fields(create(limits=project_pb2.Limits(max_cost=math.nan)))) == {"limits.maxCost"}


def test_every_fault_is_told_at_once() -> None:
    assert fields(create(name="", agent=agent(max_tokens=0, model=""), limits=project_pb2.Limits(timeout=1))) == [
        "name",
        "agent.model",
        "agent.maxTokens",
        "limits.timeout",
    ]


def test_a_violation_does_not_show_the_value() -> None:
    request = secret_pb2.SetSecretRequest(project_id=ID, name="A", value="hunter2" * 20_000)
    with pytest.raises(InvalidRequest) as caught:
        validation.check(request)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("name", "spelled"), [("id", "id"), ("max_tokens", "maxTokens"), ("a_b_c", "aBC")])
def test_camel(name: str, spelled: str) -> None:
    assert validation.camel(name) == spelled


def test_of_a_large_request_the_first_fault_is_told() -> None:
    agent = project_pb2.AgentConfig(name="a", system_prompt="s", model="m", enabled_tools=["!"] * 100_000)
    with pytest.raises(InvalidRequest) as caught:
        validation.check(project_pb2.CreateProjectRequest(name="p", agent=agent))
    assert len(caught.value.violations) == 1


def test_a_mask_names_at_most_64_paths() -> None:
    request = project_pb2.UpdateProjectRequest(project=project_pb2.Project(id="6d0f2c1e-0000-4000-8000-000000000000"))
    request.update_mask.paths.extend(["name"] * 64)
    validation.check(request)
    request.update_mask.paths.append("name")
    with pytest.raises(InvalidRequest) as caught:
        validation.check(request)
    assert [violation.field for violation in caught.value.violations] == ["updateMask"]
