"""Contracts of the engine: what runs an agent, and what it tells and asks while it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Protocol

from cloutagent_server.domain.cost import Model, TokenUsage
from cloutagent_server.domain.events import AgentOutput
from cloutagent_server.domain.execution import ExecutionOptions, ExecutionResult
from cloutagent_server.domain.mcp import McpServer
from cloutagent_server.domain.project import AgentConfig


class PriceList(Protocol):
    """Models and what they cost."""

    @property
    def version(self) -> str:
        """Tells this list of prices from others, for whoever checks a cost later."""
        ...

    def models(self) -> Sequence[Model]:
        """All models that an agent may use, by name."""
        ...

    def knows(self, model: str) -> bool:
        """Whether `model` names a model of the list, or a dated version or alias of one."""
        ...

    def model(self, name: str, at: datetime | None = None) -> Model | None:
        """The model that `name` names, or is a dated version or alias of, as it costs at that time; by default, now.

        None if it is not listed.
        """
        ...

    def cost(self, usage: TokenUsage, at: datetime | None = None) -> Decimal:
        """What `usage` costs at list price in US dollars, at the prices of a point in time in UTC; by default, of now.

        `usage.model` must be set.

        Raises:
            LookupError: The list does not know the model.
        """
        ...


class CallRefused(Exception):
    """A model call must not go out: the execution's budget does not allow it. The message reaches the agent."""


def _ignored(tokens: int) -> None:
    """Nothing is made ready."""


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A model call that is about to go out.

    Attributes:
        id: Identifier of the call.
        model: The model.
        max_tokens: The most output tokens that the agent wants.
        input_bound: The most tokens that the input can have, by its bytes; None if they do not tell (images, tools).
        count_input: Asks the vendor for the exact number of input tokens; None if the vendor does not tell.
        cache_write: Whether the request lets the vendor write input to its cache, which may have a price of its own.
        cache_write_1h: Whether it may write it for one hour.
        unbounded: What makes the input impossible to bound in any way before the call; None if nothing does.
        decided: Told in the event loop how many output tokens the call may write, as soon as that is decided and
            before it is stored: the call can be made ready meanwhile. It goes out when `before_call` has returned.
    """

    id: str
    model: str
    max_tokens: int
    input_bound: int | None
    count_input: Callable[[], Awaitable[int | None]]
    cache_write: bool = False
    cache_write_1h: bool = False
    unbounded: str | None = None
    decided: Callable[[int], None] = _ignored

    def at_most(self, input_tokens: int, output_tokens: int) -> TokenUsage:
        """The dearest usage with so much input and output that the request allows."""
        return TokenUsage(
            input_tokens,
            output_tokens,
            self.model,
            cache_write_tokens=input_tokens if self.cache_write else 0,
            cache_write_1h_tokens=input_tokens if self.cache_write_1h else 0,
        )


class CallEnd(Enum):
    """What is known about the bill of a model call that has ended."""

    FREE = "free"
    """It was not billed: it did not go out, or the vendor refused it before it used anything."""
    TOLD = "told"
    """The vendor told its final usage."""
    CUT = "cut"
    """It may have been billed, and the vendor did not tell for how much in the end."""


class RunListener(Protocol):
    """Who owns a run. The engine tells it what happens, in order, and asks before it spends money.

    `on_output` and `on_usage` are called one at a time; `before_call` and `after_call` may be called meanwhile, once
    for each of several concurrent calls. An exception of the listener other than CallRefused ends the run and comes out
    of `execute`.
    """

    async def on_output(self, output: AgentOutput) -> None:
        """The agent wrote text, or called a tool, or a tool answered."""
        ...

    async def on_usage(self, call_id: str, usage: TokenUsage) -> None:
        """What the model call `call_id` has used so far; replaces the earlier report of this call.

        The last report of a call is its final usage, so the execution's usage is the sum over its calls, and a call's
        cost is the cost of its last report. `usage.model` is always set.
        """
        ...

    async def before_call(self, call: PlannedCall) -> int:
        """A model call is about to go out; returns the most output tokens that it may write, at least 1.

        May be cancelled, when nobody wants the call any more. `after_call` follows in every case.

        Raises:
            CallRefused: The call must not go out.
        """
        ...

    async def after_call(self, call_id: str, end: CallEnd, usage: TokenUsage | None) -> None:
        """A call that was asked for has ended. `usage` is what the vendor told of it; None if nothing.

        Comes once for each call, after its last `on_usage` and the end of its `before_call`, and before `execute` ends.
        """
        ...


class AgentExecutor(Protocol):
    """One run of one agent. `initialize`, then `execute` once; `stop` at any time and as often as one likes."""

    async def initialize(self, config: AgentConfig, *, holds_secrets: bool = False) -> None:
        """Prepare a run with this configuration; `execute` must follow, to release what this took.

        A configuration that holds secrets is used for this run and kept for no other.

        Raises:
            AccessDenied: A tool is enabled that this machine cannot isolate.
            OSError: The machine cannot give what the run needs.
        """
        ...

    async def execute(self, prompt: str, options: ExecutionOptions) -> ExecutionResult:
        """Run the agent on `prompt` (taken verbatim) to its end; what goes wrong is in the result, not raised.

        A run that takes longer than `options.timeout` is FAILED with reason TIMEOUT; a stopped one is CANCELLED. When
        this returns or raises, also by cancellation of the calling task, no process and no file of the run is left.
        """
        ...

    def estimate_cost(self, prompt_tokens: int, completion_tokens: int = 0) -> Decimal:
        """What so many tokens cost with the configured model at list price, in US dollars."""
        ...

    async def stop(self) -> None:
        """End the run and return when it has ended. After its end this does nothing.

        Before `execute` it returns at once, and `execute` will end at once as CANCELLED.
        """
        ...


class Engine(Protocol):
    """Makes executors and owns what they share."""

    async def start(self) -> None:
        """Make the engine ready; end agent processes that a dead server left behind."""
        ...

    async def stop(self) -> None:
        """Release what the engine holds. No run may be under way."""
        ...

    def fault(self) -> str | None:
        """What keeps runs from working now, for operators; None if nothing does."""
        ...

    def executor(self, execution_id: str, listener: RunListener) -> AgentExecutor:
        """A new executor for one run."""
        ...

    def refused_tools(self, names: Sequence[str]) -> Mapping[str, str]:
        """Those of `names` that no agent may have on this machine, in order, each with the reason, for people."""
        ...

    def refused_servers(self, servers: Mapping[str, McpServer]) -> Mapping[str, str]:
        """The names of those of `servers` that no agent may have on this machine, each with the reason, for people."""
        ...

    def forget(self, agent_id: str) -> None:
        """The agent's configuration has changed, or the agent is gone: keep nothing ready for it as it was."""
        ...
