"""A server with real agents killed at any moment: each run has one end, and nothing that was seen or billed is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.faults.conftest import Count
from tests.support.faults.asked import STAGES
from tests.support.faults.served import AT_A_TIME, Stand

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900), pytest.mark.usefixtures("agent_beside_runs")]

RUNS = 200
PARTS = 4
NEW_RUNS = 6
MOST_SECONDS = 4.0
MOST_KILLS = 40
NOT_ANSWERED_YET = 0.05
# Agents take long to start on a busy machine; so some moments are drawn from the first call of the model on.
AFTER_A_CALL = 0.6
WHILE_STARTING = 0.15


async def kill_at_random(folder: Path, seed: int, runs: int) -> Stand:
    """Kill servers until so many runs were hit, then see all to their end."""
    async with Stand(folder, seed) as stand:
        while stand.hit_runs < runs and stand.kills < MOST_KILLS and not stand.losses:
            await stand.start()
            stand.watch_all()
            for run in stand.random.sample(stand.runs, min(4, len(stand.runs))):
                stand.repeat(run)
            for _ in range(NEW_RUNS):
                stand.request(stand.random.choice(stand.scripts()))
            if stand.random.random() < AFTER_A_CALL:
                await stand.until(lambda: any(run.called and not run.ended for run in stand.runs))
            await stand.pause(stand.random.uniform(0, MOST_SECONDS))
            await stand.kill()
            if stand.random.random() < WHILE_STARTING:
                await stand.start_and_kill(stand.random.uniform(0, MOST_SECONDS))
        await stand.start()
        await stand.finish()
        return stand


def note(count: Count, stand: Stand) -> None:
    count("server kills", stand.kills, stand.losses)
    numbers = {
        "processes under a killed server": stand.processes.total(),
        "starts not answered at a server kill": stand.starts,
        "runs under way at a server kill": stand.hit_runs,
        **{f"runs under way at a server kill: {stage}": stand.hit[stage] for stage in STAGES},
    }
    for kind, number in numbers.items():
        if number:
            count(kind, number)


async def test_killed_at_some_moments(tmp_path: Path, count: Count) -> None:
    stand = await kill_at_random(tmp_path, 1, 8)
    note(count, stand)
    assert stand.hit_runs >= 8


@pytest.mark.full
@pytest.mark.parametrize("part", range(PARTS))
async def test_killed_at_random_moments(tmp_path: Path, count: Count, part: int) -> None:
    stand = await kill_at_random(tmp_path, 100 + part, RUNS // PARTS)
    note(count, stand)
    assert stand.hit_runs >= RUNS // PARTS


async def test_killed_at_each_stage(tmp_path: Path, count: Count) -> None:
    scripts = {"starting": "says", "calling": "streams", "ending": "says", "in a tool": "sleeps"}
    async with Stand(tmp_path, 0) as stand:
        for stage, script in scripts.items():
            await stand.start()
            if script not in stand.scripts():
                continue
            watched = [stand.request(script) for _ in range(AT_A_TIME)]
            watched += [stand.request("says")]
            await stand.until_one_is(stage, watched)
            if stage == "in a tool":
                # The event comes a moment before the tool.
                await stand.until(lambda: stand.programs().count("sleep") >= 2, 0.1)
            await stand.kill()
        await stand.start()
        isolated = "sleeps" in stand.scripts()
        await stand.finish()
        note(count, stand)
        assert {"queued", "starting", "calling", *({"in a tool"} if isolated else ())} <= set(stand.hit)
        # Agent and tool bear no mark in the sandbox, and were among those that had to be gone.
        assert {"claude", *({"sleep"} if isolated else ())} <= set(stand.processes)


async def test_killed_while_ending(tmp_path: Path, count: Count) -> None:
    """Between an agent's last words and the end of its run lies little: so it is tried until it was met."""
    async with Stand(tmp_path, 0) as stand:
        while not stand.hit["ending"]:
            assert stand.kills < MOST_KILLS
            await stand.start()
            await stand.until_one_is("ending", [stand.request("says")])
            await stand.kill()
        await stand.start()
        await stand.finish()
        note(count, stand)


async def test_killed_while_a_start_is_answered(tmp_path: Path, count: Count) -> None:
    """Some of the runs whose caller got no answer were stored, some were not; both are tried until they were met."""
    met: Counter[bool] = Counter()
    async with Stand(tmp_path, 0) as stand:
        while True:
            await stand.start()
            for run in stand.unanswered:
                met[await stand.stored(run)] += 1
                stand.repeat(run)
            if met[True] and met[False]:
                break
            assert stand.kills < MOST_KILLS
            if met[False]:
                await stand.kill_when_stored("lasts")
            else:
                stand.request("lasts")
                await stand.pause(stand.random.uniform(0, NOT_ANSWERED_YET))
                await stand.kill()
        await stand.finish()
        note(count, stand)


async def test_killed_again_while_it_ends_what_was_interrupted(tmp_path: Path, count: Count) -> None:
    met = 0
    async with Stand(tmp_path, 0) as stand:
        while not met:
            assert stand.kills < MOST_KILLS
            await stand.start()
            running = [stand.request("lasts") for _ in range(AT_A_TIME)]
            waiting = [stand.request("says") for _ in range(AT_A_TIME)]
            await stand.until_called(running)
            await stand.until_acknowledged(waiting)
            await stand.kill()
            met += await stand.kill_while_recovering(running)
        await stand.start()
        await stand.finish()
        note(count, stand)
    count("server kills while recovering", met)
