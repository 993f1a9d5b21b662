"""Projects: an agent's configuration and what one of its executions may use at most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Final

from cloutagent_server.domain.mcp import McpServer

DEFAULT_TEMPERATURE: Final = 0.7
DEFAULT_RESPONSE_TOKENS: Final = 4096
DEFAULT_MAX_TOKENS: Final = 100_000
DEFAULT_MAX_COST: Final = Decimal("10")
DEFAULT_TIMEOUT: Final = 300_000
LONGEST_TIMEOUT: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """How an agent behaves.

    Attributes:
        id: Identifier, assigned when the project is created; empty in a draft.
        name: Name of the agent.
        system_prompt: What every execution starts with.
        model: Name of a model in the price list.
        temperature: Sampling temperature, 0 to 1.
        max_tokens: The most tokens of one response.
        enabled_tools: Names of the tools that the agent may use.
        mcp_servers: Servers of further tools, by name.
    """

    id: str
    name: str
    system_prompt: str
    model: str
    temperature: float = DEFAULT_TEMPERATURE
    max_tokens: int = DEFAULT_RESPONSE_TOKENS
    enabled_tools: tuple[str, ...] = ()
    mcp_servers: Mapping[str, McpServer] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one execution may use at most; exactly the limit is within it.

    Attributes:
        max_tokens: Prompt and completion tokens of all model calls together.
        max_cost: Cost in US dollars.
        timeout: Time from the start of the run in milliseconds.
    """

    max_tokens: int = DEFAULT_MAX_TOKENS
    max_cost: Decimal = DEFAULT_MAX_COST
    timeout: int = DEFAULT_TIMEOUT


@dataclass(frozen=True, slots=True)
class BudgetLimit:
    """What all executions of a project may use together in one period; None is no limit. `max_cost` is US dollars."""

    max_tokens: int | None = None
    max_cost: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """What all executions of a project may use together. Days and months are those of UTC."""

    daily: BudgetLimit = BudgetLimit()
    monthly: BudgetLimit = BudgetLimit()
    total: BudgetLimit = BudgetLimit()


@dataclass(frozen=True, slots=True)
class ProjectDraft:
    """A project before it has an identifier and times."""

    name: str
    agent: AgentConfig
    limits: Limits = Limits()
    description: str | None = None
    budget: Budget = Budget()


@dataclass(frozen=True, slots=True)
class Project:
    """A project. `revision` grows by one with every change and is not part of the API."""

    id: str
    name: str
    description: str | None
    agent: AgentConfig
    limits: Limits
    created_at: datetime
    updated_at: datetime
    revision: int = 1
    budget: Budget = Budget()


class Unset(Enum):
    """Stands for a field that a change leaves alone, where None means absent."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


@dataclass(frozen=True, slots=True)
class ProjectChanges:
    """The part of a project that an update sets; a field left UNSET stays as it is."""

    name: str | Unset = UNSET
    description: str | Unset | None = UNSET
    agent: AgentConfig | Unset = UNSET
    limits: Limits | Unset = UNSET
    budget: Budget | Unset = UNSET


@dataclass(frozen=True, slots=True)
class KeyCredential:
    """What the server keeps of an API key: never the key itself.

    Attributes:
        digest: SHA-256 of the key in hex, for the look-up. A key has 122 random bits, so its digest tells nothing.
        hash: bcrypt hash of the key, for the check.
    """

    digest: str
    hash: str = field(repr=False)
