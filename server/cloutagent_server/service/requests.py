"""What callers ask to run, and what becomes of it: the execution, its filled prompts, its idempotency, its estimate."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from cloutagent_server.domain import timestamps
from cloutagent_server.domain.cost import CostLimits, LimitCheckResult, TokenUsage, Usage, check_limits
from cloutagent_server.domain.errors import FieldViolation, InvalidRequest
from cloutagent_server.domain.execution import Execution, ExecutionOptions, Idempotency
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import Limits, Project
from cloutagent_server.engine.base import Engine, PriceList
from cloutagent_server.service import mcp
from cloutagent_server.service.prompts import FilledPrompts, fill
from cloutagent_server.service.secrets import SecretManager

# By how many bytes of a prompt one token is estimated.
BYTES_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class ExecutionRequest:
    """What a caller asks to run."""

    project_id: str
    prompt: str
    options: ExecutionOptions = ExecutionOptions()
    idempotency_key: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def idempotency(self) -> Idempotency | None:
        """The key, with what tells this request from others; None without a key."""
        if self.idempotency_key is None:
            return None
        options = self.options
        parts: list[object] = [
            self.prompt,
            options.max_tokens,
            None if options.max_cost is None else str(options.max_cost),
            options.timeout,
            sorted(options.variables.items()),
        ]
        if self.labels:
            parts.append(sorted(self.labels.items()))
        return Idempotency(self.idempotency_key, hashlib.sha256(json.dumps(parts).encode()).hexdigest())


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an execution would be like, by the length of its prompts and without calling the model.

    Attributes:
        limits: The limits that would hold.
        usage: One model call with the filled prompts as its input and the longest answer that the limits allow.
        check: How that stands against the limits.
        secret_names: The secrets that the prompts refer to.
    """

    model: str
    limits: Limits
    usage: Usage
    check: LimitCheckResult
    secret_names: tuple[str, ...]


async def prepare(
    request: ExecutionRequest, project: Project, secrets: SecretManager, engine: Engine, prices: PriceList
) -> tuple[Execution, FilledPrompts]:
    """The execution that a request asks for, and its filled prompts. Nothing is stored.

    Raises:
        InvalidRequest: A limit is above the project's, the prompts refer to something unknown, the model has no price,
            or a tool is not available on this server. Everything that is wrong is named.
    """
    execution = Execution(
        id=new_id(),
        project_id=project.id,
        prompt=request.prompt,
        variables=dict(request.options.variables),
        agent=project.agent,
        limits=_lowered(project.limits, request.options),
        created_at=timestamps.now(),
        idempotency=request.idempotency,
        labels=dict(request.labels),
    )
    faults = _too_high(project.limits, request.options)
    if not prices.knows(project.agent.model):
        faults.append(FieldViolation("project.agent.model", f"{project.agent.model!r} is not in the price list"))
    faults += (
        FieldViolation("project.agent.enabledTools", f"the tool {name!r} is not available on this server: {reason}")
        for name, reason in engine.refused_tools(project.agent.enabled_tools).items()
    )
    faults += mcp.faults_of(project.agent, "project.agent", engine)
    try:
        prompts = await fill(execution, project, secrets)
    except InvalidRequest as fault:
        raise InvalidRequest([*faults, *fault.violations]) from None
    if faults:
        raise InvalidRequest(faults)
    return replace(execution, secret_names=tuple(sorted(prompts.secrets))), prompts


def estimate(execution: Execution, prompts: FilledPrompts, cost: Callable[[TokenUsage], Decimal]) -> Estimate:
    """What an execution would be like; `cost` gives the list price of a model call."""
    agent, limits = execution.agent, execution.limits
    prompt_tokens = sum(_tokens(text) for text in (prompts.prompt, prompts.agent.system_prompt))
    completion_tokens = max(0, min(agent.max_tokens, limits.max_tokens - prompt_tokens))
    call = TokenUsage(prompt_tokens, completion_tokens, agent.model)
    usage = Usage().plus(call, cost(call), calls=1)
    check = check_limits(usage, CostLimits(limits.max_tokens, limits.max_cost))
    return Estimate(agent.model, limits, usage, check, execution.secret_names)


def _tokens(text: str) -> int:
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def _too_high(limits: Limits, options: ExecutionOptions) -> list[FieldViolation]:
    faults = []
    if options.max_tokens is not None and options.max_tokens > limits.max_tokens:
        faults.append(FieldViolation("options.maxTokens", f"must be at most the project's {limits.max_tokens}"))
    if options.max_cost is not None and options.max_cost > limits.max_cost:
        faults.append(FieldViolation("options.maxCost", f"must be at most the project's {limits.max_cost}"))
    if options.timeout is not None and options.timeout > limits.timeout:
        faults.append(FieldViolation("options.timeout", f"must be at most the project's {limits.timeout}"))
    return faults


def _lowered(limits: Limits, options: ExecutionOptions) -> Limits:
    return Limits(
        limits.max_tokens if options.max_tokens is None else options.max_tokens,
        limits.max_cost if options.max_cost is None else options.max_cost,
        limits.timeout if options.timeout is None else options.timeout,
    )
