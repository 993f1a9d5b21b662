"""Fills an execution's prompts: variables, secrets and what the server knows."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.errors import FieldViolation, InvalidRequest
from cloutagent_server.domain.execution import Execution
from cloutagent_server.domain.project import AgentConfig, Project
from cloutagent_server.service import mcp
from cloutagent_server.service.secrets import SecretManager
from cloutagent_server.service.template import MAX_FILLED_CHARACTERS, RESERVED, Template, TooLong, parse

MAX_SECRETS: Final = 100
"""The most secrets that one run can have: each is looked for in all that its agent says."""


@dataclass(frozen=True, slots=True)
class FilledPrompts:
    """What an agent is started with. Holds plain secrets: it lives as long as the run and is never stored.

    Attributes:
        prompt: The user's prompt, filled.
        agent: The agent's configuration, its system prompt filled.
        secrets: Values of the secrets that were filled in, by name.
        agent_holds_secrets: Whether one of them is in the agent's configuration.
    """

    prompt: str = field(repr=False)
    agent: AgentConfig = field(repr=False)
    secrets: Mapping[str, str] = field(repr=False)
    agent_holds_secrets: bool = False


async def fill(execution: Execution, project: Project, secrets: SecretManager) -> FilledPrompts:
    """Fill the templates of an execution's prompt and of its agent's system prompt.

    Raises:
        InvalidRequest: A reference is malformed or unknown, a variable has a name that is reserved, or the run would
            have more than 100 secrets.
    """
    prompt = parse(execution.prompt, "prompt")
    system_prompt = parse(execution.agent.system_prompt, "agent.systemPrompt")
    variables = {
        **execution.variables,
        "timestamp": timestamps.to_text(timestamps.now()),
        "execution_id": execution.id,
        "project_name": project.name,
    }
    of_servers = mcp.secrets_of(execution.agent, "agent")
    of_agent = system_prompt.secrets | of_servers
    if len(prompt.secrets | of_agent) > MAX_SECRETS:
        raise _too_many(
            {"prompt": prompt.secrets, "agent.systemPrompt": system_prompt.secrets, "agent.mcpServers": of_servers}
        )
    values = await secrets.get_secrets(project.id, prompt.secrets | of_agent)
    faults = [
        FieldViolation(f"options.variables.{name}", "this name is reserved")
        for name in RESERVED
        if name in execution.variables
    ]
    faults += _unknown(prompt, "prompt", variables, values)
    faults += _unknown(system_prompt, "agent.systemPrompt", variables, values)
    if faults:
        raise InvalidRequest(faults)
    filled = _filled(prompt, "prompt", variables, values)
    system = _filled(system_prompt, "agent.systemPrompt", variables, values)
    servers = mcp.filled(execution.agent, "agent", values)
    agent = replace(execution.agent, system_prompt=system, mcp_servers=servers)
    return FilledPrompts(filled, agent, values, bool(of_agent))


def _too_many(secrets: Mapping[str, Set[str]]) -> InvalidRequest:
    """`secrets` has what each field refers to."""
    together = len(frozenset[str]().union(*secrets.values()))
    fault = f"a run can have at most {MAX_SECRETS} secrets; the prompts and servers of this one refer to {together}"
    return InvalidRequest([FieldViolation(field_name, fault) for field_name, names in secrets.items() if names])


def _filled(template: Template, field_name: str, variables: Mapping[str, str], secrets: Mapping[str, str]) -> str:
    try:
        return template.fill(variables, secrets)
    except TooLong:
        fault = f"has more than {MAX_FILLED_CHARACTERS} characters once it is filled in"
        raise InvalidRequest.of(field_name, fault) from None


def _unknown(
    template: Template, field_name: str, variables: Mapping[str, str], secrets: Mapping[str, str]
) -> list[FieldViolation]:
    faults = [
        FieldViolation(field_name, f"the variable {name} has no value in options.variables")
        for name in sorted(template.variables - variables.keys())
    ]
    faults += [
        FieldViolation(field_name, f"the project has no secret named {name}")
        for name in sorted(template.secrets - secrets.keys())
    ]
    return faults
