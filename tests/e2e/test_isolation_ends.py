"""How runs with tools end, and what becomes of what the tools started: at a limit, cancelled, with a killed server."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cloutagent_server.domain.cost import TokenUsage, Usage
from cloutagent_server.domain.events import FailureReason
from cloutagent_server.domain.execution import ExecutionOptions, Status
from cloutagent_server.engine.isolation.enter import FILES
from cloutagent_server.engine.limits import AgentLimits
from tests.support.isolated_stage import DEADLINE, PRICES, Stage, call, marked, staged, tested_refusal, until
from tests.support.processes import Tree, killed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]

REPOSITORY = Path(__file__).parents[2]
NOTHING_LEFT_SECONDS = 5.0


@pytest.fixture
async def stage(tmp_path: Path, record_property: Callable[[str, object], None]) -> AsyncIterator[Stage]:
    async with staged(tmp_path) as stage:
        if await tested_refusal(stage, record_property):
            pytest.xfail("this machine cannot isolate agents; that it refuses the tools was tested instead")
        yield stage


async def limited(
    folder: Path, limits: AgentLimits, script: str, record_property: Callable[[str, object], None]
) -> str | None:
    """Why the run of a script failed; None if this machine cannot isolate agents."""
    async with staged(folder, limits) as stage:
        if await tested_refusal(stage, record_property):
            return None
        result = await stage.run(f"{call('Bash', command=script)} [[say: over]]", "Bash")
    assert result.status is Status.FAILED and result.failure is not None
    assert result.failure.reason is FailureReason.AGENT_ERROR
    return result.failure.message


@pytest.mark.parametrize(
    ("limits", "script", "reason"),
    [
        (
            AgentLimits(memory_bytes=1024**3),
            "tail -c 3G /dev/zero | sleep 60 & head -c 3G /dev/zero | tail; sleep 60",
            "the agent used more memory than AGENT_MEMORY_LIMIT (1024 MiB)",
        ),
        (
            AgentLimits(cpu_seconds=8),
            "while :; do :; done & while :; do :; done",
            "the agent used more processor time than AGENT_CPU_LIMIT (8 s)",
        ),
        (
            AgentLimits(disk_bytes=64 * 1024**2),
            "for n in 1 2 3; do head -c 30M /dev/zero > $n; done; sleep 60",
            "the agent wrote more than AGENT_DISK_LIMIT (64 MiB)",
        ),
    ],
    ids=["memory", "cpu", "disk"],
)
async def test_a_run_over_a_limit_is_ended(
    tmp_path: Path,
    limits: AgentLimits,
    script: str,
    reason: str,
    record_property: Callable[[str, object], None],
) -> None:
    assert await limited(tmp_path, limits, script, record_property) in (reason, None)


async def test_what_the_kernel_refuses_is_what_the_settings_say(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    limits = AgentLimits(processes=321, disk_bytes=96 * 1024**2)
    async with staged(tmp_path, limits) as stage:
        if await tested_refusal(stage, record_property):
            return
        said = await stage.bash("for of in f n c u; do ulimit -S$of; ulimit -H$of; done")
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)[1], resource.getrlimit(resource.RLIMIT_NPROC)[1]
    bounds = [
        limits.disk_bytes // 1024,  # in the shell's unit
        FILES if files == resource.RLIM_INFINITY else min(FILES, files),
        0,
        limits.processes if most == resource.RLIM_INFINITY else min(limits.processes, most),
    ]
    assert said.split() == [str(bound) for bound in bounds for _ in ("soft", "hard")]


async def test_a_fork_bomb_is_ended_or_bounded(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """A user's processes are bounded by the kernel; those of root, whom it does not bound, end the run."""
    most = 150
    async with staged(tmp_path, AgentLimits(processes=most)) as stage:
        if await tested_refusal(stage, record_property):
            return
        script = "for n in $(seq 400); do sleep 30 & done 2>/dev/null; echo started; exec sleep 3"
        executor = await stage.executor("Bash")
        running = asyncio.create_task(
            executor.execute(f"{call('Bash', command=script)} [[say: over]]", ExecutionOptions(timeout=60_000))
        )
        sleeps = 0
        tree = stage.tree()
        while not running.done():
            tree = stage.tree()
            sleeps = max(sleeps, tree.names.count("sleep"))
            await asyncio.sleep(0.02)
        result = await running
        assert tree.left() == []
        assert sleeps > most // 3, "it was tried"
        if os.getuid() == 0:
            assert result.failure is not None
            assert result.failure.message == f"the agent started more processes than AGENT_PROCESS_LIMIT ({most})"
        else:
            assert sleeps < most


async def test_a_run_that_is_stopped_in_a_tool_takes_the_tool_with_it(stage: Stage) -> None:
    executor = await stage.executor("Bash")
    prompt = f"{call('Bash', command='setsid sleep 300 & sleep 300')} [[say: never]]"
    running = asyncio.create_task(executor.execute(prompt, ExecutionOptions()))
    await until(lambda: stage.tree().names.count("sleep") >= 2)
    tree = stage.tree()
    assert "claude" in tree.names
    async with asyncio.timeout(DEADLINE):
        await executor.stop()
        assert tree.left() == []
        result = await running
    assert (result.status, result.result, result.failure) == (Status.CANCELLED, None, None)
    (told,) = stage.model.ledger.messages
    assert (told.outcome, told.stop_reason) == ("complete", "tool_use")
    cost = PRICES.cost(TokenUsage(told.input_tokens, told.output_tokens, told.model))
    assert result.cost == Usage(told.input_tokens, told.output_tokens, total_cost=cost, model_calls=1)


async def test_nothing_outlives_a_killed_server(stage: Stage) -> None:
    command = [sys.executable, "-m", "tests.support.isolated_run", str(stage.folder / "other"), stage.model.base_url]
    (stage.folder / "other").mkdir()
    script = "setsid sleep 300 & (setsid nohup sleep 300 &) ; sleep 300"
    server = await asyncio.create_subprocess_exec(*command, call("Bash", command=script), cwd=REPOSITORY)
    try:
        await until(lambda: Tree(server.pid).names.count("sleep") >= 3)
    finally:
        tree = killed(server.pid)
        await server.wait()
    assert {"claude", "sleep"} <= set(tree.names)
    await until(lambda: not tree.living(), NOTHING_LEFT_SECONDS)
    assert marked(stage.folder / "other") == []
