"""An engine that runs scripts instead of agents: for tests of what stands above the engine.

A script is a function from the prompt to steps, which the run takes one after the other. The makers of steps below
read as what the agent does:

    engine = FakeEngine(lambda prompt: [ask(), report(100, 20), write("hel"), write("lo"), message("hello"), hang()])

A run ends at `answer`, `fail`, `throw`, at its timeout, when it is stopped, or after its last step with the result
`echo: ` and the prompt. `hang` and `wait_for` end early when the run is stopped or its time is up; a step that calls
the listener is always taken to its end.

Without a script, `default_script` goes by the first word of the prompt:

| prompt | what happens |
|---|---|
| `hang…` | one model call, then nothing until the run is stopped or its time is up |
| `tool…` | a model call, a tool use with its result, a second model call, text, an answer |
| `three calls…` | three model calls, then text and an answer |
| `fail…` | one model call, then FAILED with MODEL_ERROR and the message `the model is overloaded` |
| `crash…` | one model call, then `execute` raises RuntimeError |
| anything else | one model call, two text deltas, the message, an answer |

Every model call asks first and uses 100 input and 20 output tokens; the answer is always `echo: ` and the prompt.

A call that was asked for is ended by the next report without an id, which is its final usage; one that is followed by
none was not billed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from cloutagent_server.domain.cost import TokenUsage, Usage
from cloutagent_server.domain.events import AgentOutput, Failure, FailureReason, Message, TextDelta, ToolResult, ToolUse
from cloutagent_server.domain.execution import ExecutionOptions, ExecutionResult, Status
from cloutagent_server.domain.mcp import McpServer
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.base import CallEnd, CallRefused, PlannedCall, RunListener

CALL_PROMPT_TOKENS = 100
CALL_COMPLETION_TOKENS = 20

Step = Callable[["FakeExecutor"], Awaitable[None]]
Script = Callable[[str], Iterable[Step]]


@dataclass(eq=False)
class _RunEnds(Exception):
    """A step ends the run."""

    status: Status
    result: str | None = None
    failure: Failure | None = None
    sdk_cost: Decimal | None = None


class FakeExecutor:
    """`AgentExecutor` that takes the steps of a script.

    Attributes:
        config: The configuration it was initialized with; None before.
        holds_secrets: Whether that was said to hold secrets.
        prompt: The prompt it was executed with; None before.
        options: The options it was executed with; None before.
        allowed: What the listener's `before_call` returned, call by call.
        stops: How often `stop` was called.
        ended: Set when `execute` has returned or raised.
    """

    def __init__(self, execution_id: str, listener: RunListener, engine: FakeEngine) -> None:
        self.execution_id = execution_id
        self.listener = listener
        self.holds_secrets = False
        self.config: AgentConfig | None = None
        self.prompt: str | None = None
        self.options: ExecutionOptions | None = None
        self.allowed: list[int] = []
        self.stops = 0
        self.ended = asyncio.Event()
        self._engine = engine
        self._stopped = asyncio.Event()
        self._calls = 0
        self._asked: str | None = None
        self._deadline: float | None = None

    async def initialize(self, config: AgentConfig, *, holds_secrets: bool = False) -> None:
        """Note the configuration; wait for the engine's gate and raise its fault, where it has them."""
        self.config, self.holds_secrets = config, holds_secrets
        if self._engine.initialize_gate is not None:
            await self._engine.initialize_gate.wait()
        if self._engine.initialize_fault is not None:
            raise self._engine.initialize_fault

    async def execute(self, prompt: str, options: ExecutionOptions) -> ExecutionResult:
        """Take the steps of the script for `prompt`."""
        self.prompt, self.options = prompt, options
        started = time.monotonic()
        self._deadline = None if options.timeout is None else started + options.timeout / 1000
        self._engine.note_start(self.execution_id)
        try:
            await self._take(self._engine.script(prompt))
            end = _RunEnds(Status.COMPLETED, f"echo: {prompt}")
        except _RunEnds as reached:
            end = reached
        finally:
            await self.end_call(CallEnd.FREE)
            self._engine.note_end(self.execution_id)
            self.ended.set()
        duration = round((time.monotonic() - started) * 1000)
        return ExecutionResult(
            self.execution_id, end.status, Usage(), duration, end.result, end.failure, sdk_cost=end.sdk_cost
        )

    def estimate_cost(self, prompt_tokens: int, completion_tokens: int = 0) -> Decimal:
        """Nothing costs anything here."""
        return Decimal(0)

    async def stop(self) -> None:
        """End the run and wait for its end; before its start, have it end at once."""
        self.stops += 1
        self._stopped.set()
        if self.prompt is not None:
            await self.ended.wait()

    async def call_model(self, prompt_tokens: int, completion_tokens: int, call_id: str | None, model: str) -> None:
        """Report a model call; without an id it is the end of the one that was asked for, or a new one."""
        ends = call_id is None
        if call_id is None:
            call_id = self._asked or self.next_call_id()
        usage = TokenUsage(prompt_tokens, completion_tokens, model)
        await self.listener.on_usage(call_id, usage)
        if ends:
            await self.end_call(CallEnd.TOLD, usage)

    def next_call_id(self) -> str:
        """An id that no call of this run had."""
        self._calls += 1
        return f"{self.execution_id}/{self._calls}"

    async def ask(self, call: PlannedCall) -> int:
        """Ask for a call; one that was asked for before was not billed."""
        await self.end_call(CallEnd.FREE)
        self._asked = call.id
        return await self.listener.before_call(call)

    async def end_call(self, end: CallEnd, usage: TokenUsage | None = None) -> None:
        """End the call that was asked for, if there is one."""
        if self._asked is not None:
            call_id, self._asked = self._asked, None
            await self.listener.after_call(call_id, end, usage)

    async def wait(self, event: asyncio.Event | None) -> None:
        """Wait for `event`, or for ever; ends the run when it is stopped or its time is up."""
        waits = [asyncio.ensure_future(self._stopped.wait())]
        if event is not None:
            waits.append(asyncio.ensure_future(event.wait()))
        try:
            timeout = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiting in waits:
                waiting.cancel()
        if event is None or not event.is_set():
            self._check()

    @property
    def model(self) -> str:
        """The model of the configuration."""
        assert self.config is not None
        return self.config.model

    async def _take(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self._check()
            await step(self)
        self._check()

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _RunEnds(Status.CANCELLED)
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise _RunEnds(
                Status.FAILED, failure=Failure(FailureReason.TIMEOUT, "the run took longer than its timeout")
            )


def default_script(prompt: str) -> Sequence[Step]:
    """See the head of this module."""
    call = [ask(), report(CALL_PROMPT_TOKENS, CALL_COMPLETION_TOKENS)]
    text = f"echo: {prompt}"
    spoken = [write(text[:4]), write(text[4:]), message(text), answer(text)]
    if prompt.startswith("hang"):
        return [*call, hang()]
    if prompt.startswith("tool"):
        tool = [use_tool("toolu_1", "Read", {"file_path": "notes.txt"}), tool_answers("toolu_1", "the notes")]
        return [*call, *tool, *call, *spoken]
    if prompt.startswith("three calls"):
        return [*call, *call, *call, *spoken]
    if prompt.startswith("fail"):
        return [*call, fail(FailureReason.MODEL_ERROR, "the model is overloaded")]
    if prompt.startswith("crash"):
        return [*call, throw(RuntimeError("the agent crashed"))]
    return [*call, *spoken]


class FakeEngine:
    """`Engine` over a script.

    Attributes:
        script: From a prompt to the steps of its run.
        executors: Every executor made, by execution id.
        prompts: The prompts that runs were started with, in order.
        running: The executions that run now.
        forgotten: The agents that it was told to forget, in order.
        most_running: The most that ran at a time.
        started, stopped: Whether `start` and `stop` were called.
        initialize_gate: When set to an event, `initialize` waits for it.
        initialize_fault: When set, `initialize` raises it.
        broken: What `fault` tells.
        unavailable_tools: Those that it refuses.
    """

    def __init__(self, script: Script = default_script, unavailable_tools: Collection[str] = ("Bash",)) -> None:
        self.script = script
        self.executors: dict[str, FakeExecutor] = {}
        self.running: list[str] = []
        self.order: list[str] = []
        self.forgotten: list[str] = []
        self.most_running = 0
        self.started = False
        self.stopped = False
        self.initialize_gate: asyncio.Event | None = None
        self.initialize_fault: Exception | None = None
        self.broken: str | None = None
        self.unavailable_tools = frozenset(unavailable_tools)

    @property
    def prompts(self) -> list[str | None]:
        """The prompts that runs were started with, in order."""
        return [self.executors[execution_id].prompt for execution_id in self.order]

    async def start(self) -> None:
        """Note it."""
        self.started = True

    async def stop(self) -> None:
        """Note it; no run may be under way."""
        assert not self.running, "the engine was stopped while runs were under way"
        self.stopped = True

    def fault(self) -> str | None:
        """What the test says."""
        return self.broken

    def executor(self, execution_id: str, listener: RunListener) -> FakeExecutor:
        """A new executor for one run."""
        executor = FakeExecutor(execution_id, listener, self)
        self.executors[execution_id] = executor
        return executor

    def refused_tools(self, names: Sequence[str]) -> Mapping[str, str]:
        """Those that this engine was told are not available (`Bash` unless told otherwise)."""
        return {name: "it was told so" for name in names if name in self.unavailable_tools}

    def refused_servers(self, servers: Mapping[str, McpServer]) -> Mapping[str, str]:
        """Those whose name says so."""
        return {name: "it was told so" for name in servers if name == "unavailable"}

    def forget(self, agent_id: str) -> None:
        """Keeps nothing ready, so there is nothing to drop; remembers that it was told."""
        self.forgotten.append(agent_id)

    def note_start(self, execution_id: str) -> None:
        """A run starts."""
        self.order.append(execution_id)
        self.running.append(execution_id)
        self.most_running = max(self.most_running, len(self.running))

    def note_end(self, execution_id: str) -> None:
        """A run has ended."""
        self.running.remove(execution_id)


def write(text: str) -> Step:
    """The model writes more text."""
    return _output(TextDelta(text))


def message(text: str) -> Step:
    """The model has written a whole message."""
    return _output(Message(text))


def use_tool(tool_use_id: str, name: str, arguments: dict[str, object]) -> Step:
    """The agent calls a tool."""
    return _output(ToolUse(tool_use_id, name, arguments))


def tool_answers(tool_use_id: str, content: str, is_error: bool = False) -> Step:
    """A tool answers."""
    return _output(ToolResult(tool_use_id, content, is_error))


def planned(
    model: str, max_tokens: int, input_tokens: int = 0, input_bound: int | None = None, call_id: str = "call"
) -> PlannedCall:
    """A model call with so much input. `input_bound` is what is known without counting, by default the exact number."""

    async def count_input() -> int:
        return input_tokens

    bound = input_tokens if input_bound is None else input_bound
    return PlannedCall(call_id, model, max_tokens, bound, count_input, cache_write=True)


def ask(
    max_tokens: int = 4096, model: str | None = None, input_tokens: int = 0, input_bound: int | None = None
) -> Step:
    """A model call is about to go out. One that is refused ends the run as FAILED with MODEL_ERROR."""

    async def step(executor: FakeExecutor) -> None:
        call_id = executor.next_call_id()
        call = planned(model or executor.model, max_tokens, input_tokens, input_bound, call_id)
        try:
            executor.allowed.append(await executor.ask(call))
        except CallRefused as refusal:
            raise _RunEnds(Status.FAILED, failure=Failure(FailureReason.MODEL_ERROR, str(refusal))) from None

    return step


def report(prompt_tokens: int, completion_tokens: int, call_id: str | None = None, model: str | None = None) -> Step:
    """A model call has used so much so far. Without `call_id` it is a call of its own."""

    async def step(executor: FakeExecutor) -> None:
        await executor.call_model(prompt_tokens, completion_tokens, call_id, model or executor.model)

    return step


def signal(event: asyncio.Event) -> Step:
    """Tell the test that the run is here."""

    async def step(_: FakeExecutor) -> None:
        event.set()

    return step


def wait_for(event: asyncio.Event) -> Step:
    """Go on once the test sets `event`."""

    async def step(executor: FakeExecutor) -> None:
        await executor.wait(event)

    return step


def hang() -> Step:
    """Do nothing until the run is stopped or its time is up."""

    async def step(executor: FakeExecutor) -> None:
        await executor.wait(None)

    return step


def answer(text: str, sdk_cost: Decimal | None = None) -> Step:
    """The run ends with this result. `sdk_cost` is what the agent SDK says that it cost."""

    async def step(_: FakeExecutor) -> None:
        raise _RunEnds(Status.COMPLETED, text, sdk_cost=sdk_cost)

    return step


def fail(reason: FailureReason, text: str, sdk_cost: Decimal | None = None) -> Step:
    """The run ends as FAILED. `sdk_cost` is what the agent SDK says that it cost."""

    async def step(_: FakeExecutor) -> None:
        raise _RunEnds(Status.FAILED, failure=Failure(reason, text), sdk_cost=sdk_cost)

    return step


def end_without_result(status: Status, sdk_cost: Decimal | None = None) -> Step:
    """The run ends with this status, and neither a result nor a failure. For `sdk_cost` see `answer`."""

    async def step(_: FakeExecutor) -> None:
        raise _RunEnds(status, sdk_cost=sdk_cost)

    return step


def throw(error: Exception) -> Step:
    """`execute` raises."""

    async def step(_: FakeExecutor) -> None:
        raise error

    return step


def _output(output: AgentOutput) -> Step:
    async def step(executor: FakeExecutor) -> None:
        await executor.listener.on_output(output)

    return step
