"""The pool's rules, with agents that are no processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest

from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine import pool as pool_module
from cloutagent_server.engine.agent import Agent
from cloutagent_server.engine.pool import WarmPool

DEADLINE = 20.0
A = AgentConfig("a", "agent", "prompt", "claude-sonnet-4-5")
B = replace(A, id="b")
C = replace(A, id="c")


class Watch:
    """A watch that sees what it is told."""

    def __init__(self) -> None:
        self.lives = True
        self.reason: str | None = None
        self.begun = False

    def look(self) -> str | None:
        return self.reason

    def begin(self) -> None:
        self.begun = True


@dataclass
class FakeAgent:
    """An agent that starts when the gate is open."""

    config: AgentConfig
    gate: asyncio.Event
    watch: Watch
    fault: Exception | None = None
    connected: bool = False
    ended: bool = False

    async def connect(self) -> None:
        await self.gate.wait()
        if self.fault is not None:
            raise self.fault
        self.connected = True

    async def end(self) -> None:
        self.ended = True


class World:
    """A pool and the agents that it made, in order."""

    def __init__(self, size: int = 2, **rest: Any) -> None:
        self.made: list[FakeAgent] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.fault: Exception | None = None
        self.pool = WarmPool(self.prepare, size, **rest)

    def prepare(self, config: AgentConfig, name: str) -> Agent:
        self.made.append(FakeAgent(config, self.gate, Watch(), self.fault))
        return cast("Agent", self.made[-1])

    def run(self, config: AgentConfig) -> object:
        """A run of this configuration starts and gets under way; returns its warm agent, if any."""
        start = self.pool.start(config)
        start.over()
        return start.agent


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - the pool has no event for it
            await asyncio.sleep(0.002)


async def test_each_agent_is_used_once_and_replaced() -> None:
    world = World()
    assert world.run(A) is None
    await until(lambda: len(world.pool) == 1)
    first = world.made[0]
    assert world.run(A) is first
    assert first.watch.begun
    await until(lambda: len(world.pool) == 1)
    assert world.run(A) is world.made[1]
    await world.pool.stop()
    assert not first.ended  # it belongs to its run


async def test_nothing_is_kept_of_what_is_for_one_run_alone() -> None:
    world = World()
    for _ in range(2):
        start = world.pool.start(A, keep=False)
        assert start.agent is None
        start.over()
    world.run(B)
    await until(lambda: len(world.pool) == 1)
    assert [agent.config for agent in world.made] == [B]
    await world.pool.stop()


async def test_nothing_is_made_while_a_run_starts() -> None:
    world = World()
    other = world.pool.start(B)
    world.run(A)
    await asyncio.sleep(0.05)
    assert world.made == []
    other.over()
    other.over()
    await until(lambda: len(world.pool) == 2)
    await world.pool.stop()


async def test_the_number_is_bounded_and_the_oldest_makes_room() -> None:
    world = World(size=2)
    for number, config in enumerate((A, B, C), start=1):
        world.run(config)
        await until(lambda: len(world.made) == number and len(world.pool) == min(number, 2))  # noqa: B023
    await until(lambda: world.made[0].ended)
    assert [agent.ended for agent in world.made] == [True, False, False]
    assert world.run(A) is None
    await world.pool.stop()


async def test_without_room_nothing_is_made() -> None:
    world = World(size=0)
    assert world.run(A) is None
    assert world.run(A) is None
    await asyncio.sleep(0.02)
    assert world.made == []
    await world.pool.stop()


async def test_an_old_agent_is_dropped() -> None:
    world = World(max_age=0.05)
    world.run(A)
    await until(lambda: world.made and world.made[0].ended)
    assert len(world.pool) == 0
    assert world.run(A) is None
    await world.pool.stop()


@pytest.mark.parametrize("sign", ["dead", "too large"])
async def test_an_agent_that_died_or_passes_a_limit_is_dropped(sign: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "_LOOK_SECONDS", 0.01)
    world = World()
    world.run(A)
    await until(lambda: len(world.pool) == 1)
    if sign == "dead":
        world.made[0].watch.lives = False
    else:
        world.made[0].watch.reason = "it used too much memory"
    await until(lambda: world.made[0].ended)
    assert len(world.pool) == 0
    await world.pool.stop()


async def test_a_dead_agent_is_not_handed_out() -> None:
    world = World()
    world.run(A)
    await until(lambda: len(world.pool) == 1)
    world.made[0].watch.lives = False
    assert world.run(A) is None
    await until(lambda: world.made[0].ended)
    await world.pool.stop()


async def test_a_forgotten_agent_is_dropped_also_while_it_starts() -> None:
    world = World()
    world.gate.clear()
    world.run(A)
    await until(lambda: world.made)
    world.pool.forget(A.id)
    world.gate.set()
    await until(lambda: world.made[0].ended)
    assert len(world.pool) == 0
    await world.pool.stop()


async def test_a_configuration_that_changes_from_run_to_run_is_not_made() -> None:
    world = World()
    world.run(A)
    await until(lambda: len(world.pool) == 1)
    changed = replace(A, system_prompt="another")
    assert world.run(changed) is None
    await until(lambda: world.made[0].ended)
    assert len(world.made) == 1
    world.run(changed)
    await until(lambda: len(world.pool) == 1)
    assert world.made[1].config == changed
    await world.pool.stop()


async def test_a_start_that_fails_leaves_nothing_and_the_next_use_tries_again() -> None:
    world = World()
    world.fault = RuntimeError("no memory")
    world.run(A)
    await until(lambda: world.made and world.made[0].ended)
    world.fault = None
    world.run(A)
    await until(lambda: len(world.pool) == 1)
    await world.pool.stop()


async def test_the_stop_ends_all_also_what_starts() -> None:
    world = World()
    world.run(A)
    await until(lambda: len(world.pool) == 1)
    world.gate.clear()
    world.run(B)
    await until(lambda: len(world.made) == 2)
    await world.pool.stop()
    assert [agent.ended for agent in world.made] == [True, True]
    late = world.pool.start(A)
    late.over()
    assert late.agent is None
    assert len(world.made) == 2
