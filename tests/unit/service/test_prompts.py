"""Filling an execution's prompts with variables, secrets and what the server knows."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import FieldViolation, InvalidRequest
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Limits, Project
from cloutagent_server.service.prompts import FilledPrompts, fill
from tests.support.service_world import World, agent, make_world


@pytest.fixture
def world() -> World:
    return make_world()


@pytest.fixture
async def project(world: World) -> Project:
    made = await world.project()
    await world.secrets.set_secret(made.id, "TOKEN", "s3cret {{name}}")
    await world.secrets.set_secret(made.id, "UNUSED", "never read")
    return made


def execution(project: Project, prompt: str, system_prompt: str = "You help.", **variables: str) -> Execution:
    configuration = agent(system_prompt=system_prompt)
    return Execution(new_id(), project.id, prompt, configuration, Limits(), timestamps.now(), variables=variables)


async def filled(
    world: World, project: Project, prompt: str, system_prompt: str = "s", **variables: str
) -> FilledPrompts:
    return await fill(execution(project, prompt, system_prompt, **variables), project, world.secrets)


async def faults(world: World, project: Project, prompt: str, system_prompt: str = "s", **variables: str) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        await filled(world, project, prompt, system_prompt, **variables)
    return [violation.field for violation in caught.value.violations]


async def test_prompt_and_system_prompt_are_filled(world: World, project: Project) -> None:
    prompts = await filled(world, project, "use {{secret:TOKEN}} for {{name}}", "for {{ name }} {{{{x}}", name="{{n}}")
    assert prompts.prompt == "use s3cret {{name}} for {{n}}"
    assert prompts.agent.system_prompt == "for {{n}} {{x}}"
    assert prompts.secrets == {"TOKEN": "s3cret {{name}}"}


async def test_the_rest_of_the_agent_stays(world: World, project: Project) -> None:
    asked = execution(project, "p", "{{project_name}}")
    prompts = await fill(asked, project, world.secrets)
    assert prompts.agent == replace(asked.agent, system_prompt=project.name)


async def test_what_the_server_knows(world: World, project: Project) -> None:
    asked = execution(project, "{{timestamp}}|{{execution_id}}|{{project_name}}")
    before = timestamps.now()
    time, execution_id, name = (await fill(asked, project, world.secrets)).prompt.split("|")
    assert before <= datetime.fromisoformat(time) <= timestamps.now()
    assert (execution_id, name) == (asked.id, project.name)


async def test_secrets_of_the_system_prompt_are_known_for_redaction(world: World, project: Project) -> None:
    assert (await filled(world, project, "p", "{{secret:TOKEN}}")).secrets.keys() == {"TOKEN"}


async def test_secrets_that_no_prompt_names_are_not_opened(world: World, project: Project) -> None:
    assert (await filled(world, project, "p")).secrets == {}


async def test_a_filled_prompt_shows_nothing_in_its_repr(world: World, project: Project) -> None:
    shown = repr(await filled(world, project, "{{secret:TOKEN}} {{v}}", "{{secret:TOKEN}}", v="a value"))
    assert "s3cret" not in shown and "a value" not in shown


async def test_unknown_names_are_refused_by_field(world: World, project: Project) -> None:
    assert await faults(world, project, "{{who}} {{secret:NOBODY}}") == ["prompt", "prompt"]
    assert await faults(world, project, "ok", "{{who}} {{secret:NOBODY}}") == ["agent.systemPrompt"] * 2
    assert await faults(world, project, "{{who}}", "{{whose}}") == ["prompt", "agent.systemPrompt"]


async def test_a_secret_of_another_project_is_unknown(world: World, project: Project) -> None:
    other = await world.project()
    assert await faults(world, other, "{{secret:TOKEN}}") == ["prompt"]


@pytest.mark.parametrize("name", ["timestamp", "execution_id", "project_name"])
async def test_a_reserved_name_cannot_be_given(world: World, project: Project, name: str) -> None:
    assert await faults(world, project, f"{{{{{name}}}}}", **{name: "mine"}) == [f"options.variables.{name}"]


async def test_a_malformed_template_is_refused(world: World, project: Project) -> None:
    assert await faults(world, project, "{{") == ["prompt"]
    assert await faults(world, project, "ok", "{{") == ["agent.systemPrompt"]


async def test_a_variable_that_nothing_uses_is_no_fault(world: World, project: Project) -> None:
    assert (await filled(world, project, "plain", unused="value")).prompt == "plain"


async def test_a_prompt_that_would_grow_without_bound_is_refused(world: World, project: Project) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await filled(world, project, "{{a}}" * 6000, a="x" * 262_144)
    assert [violation.field for violation in caught.value.violations] == ["prompt"]


async def test_a_run_has_at_most_a_hundred_secrets(world: World, project: Project) -> None:
    names = [f"S{number}" for number in range(101)]
    for name in names:
        await world.secrets.set_secret(project.id, name, "value")
    refer = "".join(f"{{{{secret:{name}}}}}" for name in names[:-1])
    assert (await filled(world, project, refer, refer)).secrets.keys() == set(names[:-1])
    fault = "a run can have at most 100 secrets; the prompts and servers of this one refer to 101"
    with pytest.raises(InvalidRequest) as caught:
        await filled(world, project, refer, "{{secret:S100}}")
    assert caught.value.violations == (FieldViolation("prompt", fault), FieldViolation("agent.systemPrompt", fault))
    assert await faults(world, project, refer + "{{secret:S100}}") == ["prompt"]
