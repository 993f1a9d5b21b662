"""Runs of the real SDK and its real command line through the gateway, against the local model."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from cloutagent_server.domain.cost import TokenUsage, Usage
from cloutagent_server.domain.events import Failure, FailureReason, Message, TextDelta, ToolResult, ToolUse
from cloutagent_server.domain.execution import ExecutionOptions, ExecutionResult, Status
from cloutagent_server.domain.identifiers import new_id
from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine.base import CallRefused
from cloutagent_server.engine.claude import ClaudeEngine, ClaudeExecutor
from cloutagent_server.engine.gateway import SILENCE_SECONDS, ModelGateway
from cloutagent_server.engine.local_model import LocalModel
from cloutagent_server.engine.prices import GenaiPriceList
from cloutagent_server.engine.process import RUN_MARKER
from tests.support.messages import RememberingListener
from tests.support.processes import Tree

pytestmark = pytest.mark.e2e

KEY = "sk-ant-the-real-key"
MODEL = "claude-sonnet-4-5"
SYSTEM_PROMPT = "You are the agent of a test."
PRICES = GenaiPriceList()
DEADLINE = 30.0
TODOS = json.dumps({"todos": [{"content": "one", "status": "pending", "activeForm": "doing one"}]})


@dataclass
class Stack:
    """An engine on a fresh workspace root with the local model behind it."""

    engine: ClaudeEngine
    model: LocalModel
    root: Path
    before: list[psutil.Process]
    listener: RememberingListener = field(default_factory=RememberingListener)
    model_name: str = MODEL

    async def executor(self, tools: tuple[str, ...] = (), max_tokens: int = 1000) -> ClaudeExecutor:
        executor = self.engine.executor(new_id(), self.listener)
        await executor.initialize(AgentConfig("", "agent", SYSTEM_PROMPT, self.model_name, 0.3, max_tokens, tools))
        return executor

    async def run(
        self, prompt: str, tools: tuple[str, ...] = (), max_tokens: int = 1000, timeout: int = 30_000
    ) -> ExecutionResult:
        executor = await self.executor(tools, max_tokens)
        return await executor.execute(prompt, ExecutionOptions(timeout=timeout))

    def tree(self) -> Tree:
        """All processes of all runs, with those in sandboxes."""
        return Tree(os.getpid(), but=self.before)

    def assert_nothing_left(self, *trees: Tree) -> None:
        assert [tree.left() for tree in (*trees, self.tree())] == [[]] * (len(trees) + 1)
        assert marked(self.root) == []
        assert [entry.name for entry in self.root.iterdir() if entry.is_dir()] == []


def marked(root: Path) -> list[psutil.Process]:
    """The processes that bear the mark of a run in the root, whoever is their parent."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(RUN_MARKER, "").startswith(f"{root.resolve()}{os.sep}"):
                found.append(process)
    return found


@asynccontextmanager
async def stacked(folder: Path, silence_seconds: float = SILENCE_SECONDS) -> AsyncIterator[Stack]:
    before = psutil.Process().children(recursive=True)
    model = LocalModel(KEY)
    await model.start()
    engine = ClaudeEngine(
        ModelGateway(model.base_url, KEY, PRICES, silence_seconds=silence_seconds), PRICES, folder / "runs"
    )
    await engine.start()
    stack = Stack(engine, model, folder / "runs", before)
    try:
        yield stack
        stack.assert_nothing_left()
    finally:
        await engine.stop()
        await model.stop()


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    async with stacked(tmp_path) as stack:
        yield stack


async def until(condition: Callable[[], object]) -> None:
    """Return when `condition` holds; fail at the deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - the condition may lie in another process
            await asyncio.sleep(0.01)


def assert_metered(stack: Stack, result: ExecutionResult) -> None:
    """What was metered is what the local model says it told, and costs what the price list says."""
    told = [call for call in stack.model.ledger if call.status == 200]
    assert sorted(usage.prompt_tokens for usage in stack.listener.calls.values()) == sorted(
        call.input_tokens + call.cache_creation_input_tokens + call.cache_read_input_tokens for call in told
    )
    assert sorted(usage.completion_tokens for usage in stack.listener.calls.values()) == sorted(
        call.output_tokens for call in told
    )
    assert result.cost.model_calls == len(told)
    assert result.cost.prompt_tokens == sum(usage.prompt_tokens for usage in stack.listener.calls.values())
    assert result.cost.total_cost == sum(
        (PRICES.cost(usage) for usage in stack.listener.calls.values()), start=Decimal(0)
    )


async def test_text(stack: Stack) -> None:
    result = await stack.run("[[say: Good morning, this is your agent.]]")
    assert (result.status, result.result, result.failure) == (
        Status.COMPLETED,
        "Good morning, this is your agent.",
        None,
    )
    assert 0 < result.duration < DEADLINE * 1000
    *deltas, message = stack.listener.outputs
    assert message == Message("Good morning, this is your agent.")
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == message.text
    assert_metered(stack, result)
    (call,) = stack.model.ledger
    assert (call.model, call.temperature, call.max_tokens) == (MODEL, 0.3, 1000)


async def test_the_prompt_is_taken_verbatim(stack: Stack) -> None:
    prompt = "/compact @/etc/hostname !ls\n\n# and $HOME “too”"
    result = await stack.run(prompt)
    assert " ".join(prompt.split()) in (result.result or "")
    (call,) = stack.model.ledger
    assert call.input_tokens < 150


async def test_a_tool_call_with_its_result(stack: Stack) -> None:
    result = await stack.run(f"[[say: I plan.]] [[tool: TodoWrite {TODOS}]] [[say: Planned.]]", tools=("TodoWrite",))
    assert (result.status, result.result) == (Status.COMPLETED, "Planned.")
    first, use, answer, last = (o for o in stack.listener.outputs if not isinstance(o, TextDelta))
    assert (first, last) == (Message("I plan."), Message("Planned."))
    assert isinstance(use, ToolUse)
    assert (use.name, use.input) == ("TodoWrite", json.loads(TODOS))
    assert isinstance(answer, ToolResult)
    assert (answer.tool_use_id, answer.is_error) == (use.tool_use_id, False)
    assert "Todos have been modified" in answer.content
    assert_metered(stack, result)


async def test_a_tool_that_is_not_enabled_does_not_run(stack: Stack, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    prompt = f'[[tool: Bash {{"command": "touch {trace}"}}]] [[say: over]]'
    for tools in ((), ("TodoWrite",)):
        result = await stack.run(prompt, tools=tools)
        assert (result.status, result.result) == (Status.COMPLETED, "over")
    answers = [output for output in stack.listener.outputs if isinstance(output, ToolResult)]
    assert [answer.is_error for answer in answers] == [True, True]
    assert not trace.exists()


async def test_a_run_of_three_calls_costs_their_sum(stack: Stack) -> None:
    plan = f"[[tool: TodoWrite {TODOS}]]"
    result = await stack.run(
        f"[[usage: input=900 cache_read=50 cache_write=20]] {plan} [[tokens: 30]] {plan} [[say: Done with it.]]",
        tools=("TodoWrite",),
    )
    assert result.status is Status.COMPLETED
    assert result.cost.model_calls == 3
    assert result.cost.cache_read_tokens == 50
    assert result.cost.cache_write_tokens == 20
    assert_metered(stack, result)


async def test_a_response_that_reaches_its_limit_is_continued(stack: Stack) -> None:
    result = await stack.run("[[tokens: 120]]", max_tokens=50)
    assert result.status is Status.FAILED
    assert result.failure == Failure(
        FailureReason.AGENT_ERROR, "the agent ended without success: its responses kept reaching maxTokens (50)"
    )
    assert {call.output_tokens for call in stack.model.ledger} == {50}
    assert_metered(stack, result)


async def test_timeout(stack: Stack) -> None:
    result = await stack.run("[[say: So it begins]] [[silence]]", timeout=2_000)
    assert result.status is Status.FAILED
    assert result.failure == Failure(FailureReason.TIMEOUT, "the run took longer than its timeout of 2000 ms")
    assert 2_000 <= result.duration < DEADLINE * 1000
    await until(lambda: all(call.outcome == "disconnected" for call in stack.model.ledger))
    assert result.cost.prompt_tokens == sum(call.input_tokens for call in stack.model.ledger)


async def test_stop_while_the_model_answers(stack: Stack) -> None:
    executor = await stack.executor()
    running = asyncio.create_task(executor.execute("[[rate: 20/s]] [[tokens: 1000]]", ExecutionOptions()))
    await until(lambda: stack.listener.outputs)
    tree = stack.tree()
    assert "claude" in tree.names
    await asyncio.gather(executor.stop(), executor.stop())
    stack.assert_nothing_left(tree)
    result = await running
    assert (result.status, result.result, result.failure) == (Status.CANCELLED, None, None)
    assert result.cost.model_calls == 1
    await executor.stop()
    await until(lambda: [call.outcome for call in stack.model.ledger] == ["disconnected"])


@pytest.mark.parametrize("milliseconds", [0, 50, 200, 400, 800])
async def test_stop_at_any_moment(stack: Stack, milliseconds: int) -> None:
    executor = await stack.executor()
    running = asyncio.create_task(executor.execute("[[say: a]] [[silence]]", ExecutionOptions()))
    await asyncio.sleep(milliseconds / 1000)
    tree = stack.tree()
    async with asyncio.timeout(DEADLINE):
        await executor.stop()
        stack.assert_nothing_left(tree)
        assert (await running).status is Status.CANCELLED


async def test_cancelling_the_task_again_and_again_leaves_nothing(stack: Stack) -> None:
    executor = await stack.executor()
    running = asyncio.create_task(executor.execute("[[say: a]] [[silence]]", ExecutionOptions()))
    await until(lambda: stack.listener.outputs)
    tree = stack.tree()
    while not running.done():
        running.cancel()
        await asyncio.sleep(0.01)
    assert running.cancelled()
    stack.assert_nothing_left(tree)


async def test_an_overloaded_vendor_is_tried_again(stack: Stack) -> None:
    result = await stack.run("[[fail-once: 529]] [[say: at last]]")
    assert (result.status, result.result) == (Status.COMPLETED, "at last")
    assert [call.status for call in stack.model.ledger] == [529, 200]
    assert_metered(stack, result)


@pytest.mark.parametrize(
    ("status", "calls"), [(400, 2), (401, 3), (402, 1), (403, 1), (404, 2), (429, 3), (500, 3), (529, 3)]
)
async def test_an_error_of_the_vendor_ends_the_run(stack: Stack, status: int, calls: int) -> None:
    result = await stack.run(f"[[error: {status}]]")
    assert [(call.status, call.model) for call in stack.model.ledger] == [(status, MODEL)] * calls
    assert (result.status, result.cost) == (Status.FAILED, Usage())
    assert result.failure is not None
    assert result.failure.reason is FailureReason.MODEL_ERROR
    assert result.failure.message.startswith(f"the model's API failed with status {status}: ")


@pytest.mark.parametrize(("prompt", "model"), [("[[error: 529]]", "claude-opus-4-1"), ("[[say: half]] [[cut]]", MODEL)])
async def test_the_agent_repeats_a_call_as_it_was_and_turns_to_no_other_model(
    stack: Stack, prompt: str, model: str
) -> None:
    stack.model_name = model
    result = await stack.run(prompt)
    assert result.status is Status.FAILED
    assert [(call.model, call.endpoint, call.stream) for call in stack.model.ledger] == [(model, "messages", True)] * 3


async def test_a_broken_stream_counts_and_ends_the_run(stack: Stack) -> None:
    result = await stack.run("[[say: half]] [[cut]]")
    assert result.failure == Failure(FailureReason.MODEL_ERROR, "the model's API failed: its answer broke off")
    assert result.cost.model_calls == len(stack.model.ledger) == 3


async def test_garbage_ends_the_run(stack: Stack) -> None:
    result = await stack.run("[[say: half]] [[garbage]]")
    assert result.status is Status.FAILED
    assert result.failure == Failure(
        FailureReason.AGENT_ERROR,
        "the agent ended without success: it could not make sense of the answers of the model's API",
    )
    assert result.cost.model_calls == len(stack.model.ledger) == 1


@pytest.mark.parametrize(("prompt", "told"), [("[[silence]]", 0), ("[[say: half]] [[silence]]", 3)])
async def test_a_silent_vendor_ends_the_run_in_bounded_time(tmp_path: Path, prompt: str, told: int) -> None:
    async with stacked(tmp_path, silence_seconds=1.0) as stack:
        result = await stack.run(prompt)
        assert result.failure == Failure(FailureReason.MODEL_ERROR, "the model's API failed: it sent nothing for 1 s")
        assert len(stack.model.ledger) == 3
        assert result.cost.model_calls == told
        stack.assert_nothing_left()


async def test_a_vendor_that_is_not_there_ends_the_run(stack: Stack) -> None:
    await stack.model.stop()
    result = await stack.run("[[say: never]]")
    assert result.failure == Failure(FailureReason.MODEL_ERROR, "the model's API failed: it cannot be reached")
    assert (result.status, result.cost) == (Status.FAILED, Usage())
    assert len(stack.listener.asked) == 3


async def test_a_killed_agent_ends_the_run(stack: Stack) -> None:
    executor = await stack.executor()
    running = asyncio.create_task(executor.execute("[[say: half]] [[silence]]", ExecutionOptions()))
    await until(lambda: stack.listener.outputs)
    tree = stack.tree()
    for process in marked(stack.root):
        process.kill()
    async with asyncio.timeout(DEADLINE):
        result = await running
    stack.assert_nothing_left(tree)
    assert result.failure == Failure(FailureReason.AGENT_ERROR, "the agent's process ended with exit code -9")
    assert result.cost.model_calls == 1


async def test_a_hung_agent_ends_at_its_timeout(stack: Stack) -> None:
    executor = await stack.executor()
    running = asyncio.create_task(executor.execute("[[say: half]] [[silence]]", ExecutionOptions(timeout=8_000)))
    await until(lambda: stack.listener.outputs)
    tree = stack.tree()
    assert "claude" in tree.names
    for process in tree.living():
        process.suspend()
    async with asyncio.timeout(DEADLINE):
        result = await running
    stack.assert_nothing_left(tree)
    assert result.failure == Failure(FailureReason.TIMEOUT, "the run took longer than its timeout of 8000 ms")
    assert result.cost.model_calls == 1


async def test_a_refused_call_ends_the_run_at_once(stack: Stack) -> None:
    stack.listener.refusal = CallRefused("nothing is left")
    result = await stack.run("[[say: never]]")
    assert result.failure == Failure(FailureReason.MODEL_ERROR, "a call to the model was refused")
    assert len(stack.listener.asked) == 1
    assert len(stack.model.ledger) == 0


async def test_a_fault_of_the_listener_comes_out_of_execute(stack: Stack) -> None:
    class BrokenListener(RememberingListener):
        async def on_usage(self, call_id: str, usage: TokenUsage) -> None:
            raise OSError("disk full")

    stack.listener = BrokenListener()
    with pytest.raises(OSError, match="disk full"):
        await stack.run("[[say: hello]]")


async def test_the_agent_sees_nothing_of_the_server(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("ENCRYPTION_KEY", "server-only")
    executor = await stack.executor()
    running = asyncio.create_task(executor.execute("[[say: a]] [[silence]]", ExecutionOptions()))
    await until(lambda: stack.listener.outputs)
    tree = stack.tree()
    assert "claude" in tree.names
    for process in tree.living():
        environment = process.environ()
        assert "ENCRYPTION_KEY" not in environment
        assert KEY not in environment.values()
        assert SYSTEM_PROMPT not in " ".join(process.cmdline())
        assert environment["ANTHROPIC_BASE_URL"].startswith("http://127.0.0.1:")
    await executor.stop()
    await running
    stack.assert_nothing_left(tree)


async def test_several_runs_at_once_do_not_mix(stack: Stack) -> None:
    listeners = [RememberingListener() for _ in range(3)]
    executors = []
    for listener in listeners:
        stack.listener = listener
        executors.append(await stack.executor())
    results = await asyncio.gather(
        *(executor.execute(f"[[say: I am {n}]]", ExecutionOptions()) for n, executor in enumerate(executors))
    )
    assert [result.result for result in results] == ["I am 0", "I am 1", "I am 2"]
    for listener, result in zip(listeners, results, strict=True):
        assert next(iter(listener.calls.values())).prompt_tokens == result.cost.prompt_tokens
        assert len(listener.calls) == 1
