"""Projects between protobuf and domain: defaults, masks, presence."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st

from cloutagent.v1 import project_pb2
from cloutagent_server.domain.errors import InvalidRequest
from cloutagent_server.domain.project import UNSET, AgentConfig, Limits, Project, ProjectChanges, ProjectDraft
from cloutagent_server.transport.project_codec import (
    changes_from_proto,
    draft_from_proto,
    limits_to_proto,
    to_proto,
    to_summary,
)
from tests.support import builders


@pytest.fixture
def stored() -> Project:
    return builders.project()


def update(paths: list[str] | None = None, **fields: Any) -> project_pb2.UpdateProjectRequest:
    request = project_pb2.UpdateProjectRequest(project=project_pb2.Project(id="id", **fields))
    if paths is not None:
        request.update_mask.CopyFrom(FieldMask(paths=paths))
    return request


def faults(request: project_pb2.UpdateProjectRequest, project: Project) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as caught:
        changes_from_proto(request, project)
    return [(violation.field, violation.description) for violation in caught.value.violations]


def agent(**fields: Any) -> project_pb2.AgentConfig:
    return project_pb2.AgentConfig(**fields)


def limits(**fields: Any) -> project_pb2.Limits:
    return project_pb2.Limits(**fields)


# Creating.


def test_what_a_draft_leaves_out_takes_its_default() -> None:
    request = project_pb2.CreateProjectRequest(name="p", agent=agent(name="a", system_prompt="s", model="m"))
    assert draft_from_proto(request) == ProjectDraft("p", AgentConfig("", "a", "s", "m"), Limits(), None)
    drafted = draft_from_proto(request)
    assert (drafted.agent.temperature, drafted.agent.max_tokens, drafted.agent.enabled_tools) == (0.7, 4096, ())
    assert drafted.limits == Limits(100_000, Decimal(10), 300_000)


def test_what_a_draft_gives_is_kept() -> None:
    request = project_pb2.CreateProjectRequest(
        name="p",
        description="",
        agent=agent(
            name="a", system_prompt="s", model="m", temperature=0.0, max_tokens=1, enabled_tools=["Read", "Grep"]
        ),
        limits=limits(max_cost=0.1),
    )
    assert draft_from_proto(request) == ProjectDraft(
        "p", AgentConfig("", "a", "s", "m", 0.0, 1, ("Read", "Grep")), Limits(max_cost=Decimal("0.1")), ""
    )


@given(st.floats(1e-9, 1e6))
def test_a_cost_limit_comes_back_as_it_was_given(cost: float) -> None:
    request = project_pb2.CreateProjectRequest(limits=limits(max_cost=cost))
    assert limits_to_proto(draft_from_proto(request).limits).max_cost == cost


# Showing.


def test_a_project_shows_every_field(stored: Project) -> None:
    assert json_format.MessageToDict(to_proto(stored)) == {
        "id": stored.id,
        "name": "Reviews",
        "description": "Reviews pull requests",
        "agent": {
            "id": stored.agent.id,
            "name": "Reviewer",
            "systemPrompt": stored.agent.system_prompt,
            "model": stored.agent.model,
            "temperature": 0.0,
            "maxTokens": 2048,
            "enabledTools": ["Read", "Bash"],
        },
        "limits": {"maxTokens": 5000, "maxCost": 0.25, "timeout": 60000},
        "createdAt": "2026-01-31T12:00:00Z",
        "updatedAt": "2026-01-31T12:00:00Z",
    }


def test_a_summary_shows_no_configuration(stored: Project) -> None:
    assert json_format.MessageToDict(to_summary(stored)).keys() == {
        "id",
        "name",
        "description",
        "createdAt",
        "updatedAt",
    }


def test_a_description_that_was_never_given_is_absent(stored: Project) -> None:
    without = replace(stored, description=None)
    assert not to_proto(without).HasField("description")
    assert not to_summary(without).HasField("description")
    assert to_proto(replace(stored, description="")).HasField("description")


# Changing, without a mask.


def test_without_a_mask_what_is_present_changes(stored: Project) -> None:
    request = update(name="new", agent=agent(model="m"), limits=limits(timeout=1000))
    assert changes_from_proto(request, stored) == ProjectChanges(
        name="new",
        agent=replace(stored.agent, model="m"),
        limits=replace(stored.limits, timeout=1000),
    )


def test_temperature_0_and_an_empty_description_are_present(stored: Project) -> None:
    warm = replace(stored, agent=replace(stored.agent, temperature=0.9))
    changes = changes_from_proto(update(description="", agent=agent(temperature=0.0)), warm)
    assert changes == ProjectChanges(description="", agent=replace(warm.agent, temperature=0.0))


def test_without_a_mask_an_empty_list_of_tools_is_absent(stored: Project) -> None:
    assert changes_from_proto(update(agent=agent(enabled_tools=[])), stored) == ProjectChanges()
    changes = changes_from_proto(update(agent=agent(enabled_tools=["Grep"])), stored)
    assert changes.agent == replace(stored.agent, enabled_tools=("Grep",))


def test_nothing_present_changes_nothing(stored: Project) -> None:
    assert changes_from_proto(update(), stored) == ProjectChanges()
    assert ProjectChanges().name is UNSET


# Changing, with a mask.


@pytest.mark.parametrize(
    ("path", "fields", "section", "changed"),
    [
        ("agent.name", {"agent": agent(name="n")}, "agent", {"name": "n"}),
        ("agent.system_prompt", {"agent": agent(system_prompt="p")}, "agent", {"system_prompt": "p"}),
        ("agent.model", {"agent": agent(model="m")}, "agent", {"model": "m"}),
        ("agent.temperature", {"agent": agent(temperature=0.5)}, "agent", {"temperature": 0.5}),
        ("agent.max_tokens", {"agent": agent(max_tokens=7)}, "agent", {"max_tokens": 7}),
        ("agent.enabled_tools", {"agent": agent(enabled_tools=["Grep"])}, "agent", {"enabled_tools": ("Grep",)}),
        ("limits.max_tokens", {"limits": limits(max_tokens=7)}, "limits", {"max_tokens": 7}),
        ("limits.max_cost", {"limits": limits(max_cost=0.1)}, "limits", {"max_cost": Decimal("0.1")}),
        ("limits.timeout", {"limits": limits(timeout=7000)}, "limits", {"timeout": 7000}),
    ],
)
def test_a_mask_names_one_field(
    stored: Project, path: str, fields: dict[str, Any], section: str, changed: dict[str, Any]
) -> None:
    expected = {section: replace(getattr(stored, section), **changed)}
    assert changes_from_proto(update([path], name="not masked", **fields), stored) == ProjectChanges(**expected)


def test_a_mask_leaves_alone_what_it_does_not_name(stored: Project) -> None:
    request = update(["name"], name="new", description="not masked", agent=agent(model="not masked"))
    assert changes_from_proto(request, stored) == ProjectChanges(name="new")
    assert changes_from_proto(update([], name="not masked"), stored) == ProjectChanges()


@pytest.mark.parametrize(
    ("path", "changed"),
    [
        ("agent.temperature", {"temperature": 0.7}),
        ("agent.max_tokens", {"max_tokens": 4096}),
        ("agent.enabled_tools", {"enabled_tools": ()}),
    ],
)
def test_a_masked_field_that_is_absent_is_reset(stored: Project, path: str, changed: dict[str, Any]) -> None:
    assert changes_from_proto(update([path]), stored) == ProjectChanges(agent=replace(stored.agent, **changed))


def test_masked_limits_and_description_are_reset(stored: Project) -> None:
    assert changes_from_proto(update(["limits", "description"]), stored) == ProjectChanges(
        description=None, limits=Limits()
    )
    assert changes_from_proto(update(["limits.max_cost"]), stored) == ProjectChanges(
        limits=replace(stored.limits, max_cost=Decimal(10))
    )


def test_a_masked_section_is_replaced_whole(stored: Project) -> None:
    request = update(["agent"], agent=agent(name="n", system_prompt="p", model="m"))
    assert changes_from_proto(request, stored) == ProjectChanges(agent=AgentConfig(stored.agent.id, "n", "p", "m"))


@pytest.mark.parametrize(
    ("paths", "fields"),
    [
        (["name"], ["project.name"]),
        (["agent.system_prompt"], ["project.agent.systemPrompt"]),
        (["agent"], ["project.agent.name", "project.agent.systemPrompt", "project.agent.model"]),
        (["name", "agent.model"], ["project.name", "project.agent.model"]),
    ],
)
def test_a_required_field_cannot_be_reset(stored: Project, paths: list[str], fields: list[str]) -> None:
    assert [field for field, _ in faults(update(paths), stored)] == fields


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("id", "id"),
        ("created_at", "createdAt"),
        ("updated_at", "updatedAt"),
        ("agent.id", "agent.id"),
        ("unknown", "unknown"),
        ("agent.unknown_field", "agent.unknownField"),
        ("agent.name.first", "agent.name.first"),
        ("agen", "agen"),
        ("", ""),
        ("*", "*"),
        ("limits.", "limits."),
    ],
)
def test_a_path_that_cannot_be_changed_is_refused(stored: Project, path: str, shown: str) -> None:
    assert faults(update(["name", path], name="n"), stored) == [("updateMask", f"{shown} cannot be changed")]


def test_every_path_that_cannot_be_changed_is_named(stored: Project) -> None:
    assert len(faults(update(["id", "created_at", "nonsense"]), stored)) == 3


def test_a_path_may_be_named_twice(stored: Project) -> None:
    request = update(["limits", "limits.timeout"], limits=limits(timeout=2000))
    assert changes_from_proto(request, stored) == ProjectChanges(limits=Limits(timeout=2000))
