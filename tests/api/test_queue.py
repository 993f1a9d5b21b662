"""The queue: a bounded number of runs, the rest waits in order, and a full queue says so."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.api import failing
from tests.support.api.scenario import Projects, kinds
from tests.support.api.stage import DEPTHS
from tests.support.fake_engine import FakeEngine, answer, wait_for


@pytest.mark.depths(*DEPTHS)
@pytest.mark.server(max_concurrent_executions=1, max_queued_executions=2)
async def test_executions_wait_in_order_and_a_full_queue_is_429(projects: Projects, engine: FakeEngine) -> None:
    project, other = await projects(), await projects()
    first = await project.start("hang")
    await project.reaches(first["id"], "started")
    second, third = await other.start("second"), await project.start("third")
    assert [second["queuePosition"], third["queuePosition"]] == [0, 1]
    assert second["status"] == third["status"] == "queued"
    for rpc in ("Execute", "StartExecution"):
        with failing("RESOURCE_EXHAUSTED", 429, "QUEUE_FULL") as caught:
            await other.call(rpc, prompt="fourth")
        assert caught.failure.metadata == {"limit": "2", "scope": "server"}
        assert caught.failure.detail("RetryInfo") is not None
    with failing("RESOURCE_EXHAUSTED", 429, "QUEUE_FULL"):
        await other.call("Execute", prompt="fourth", idempotencyKey="k")
    assert len((await other.call("ListExecutions"))["executions"]) == 1

    await project.about("CancelExecution", first["id"])
    assert (await other.ended(second["id"]))["result"] == "echo: second"
    assert (await project.ended(third["id"]))["result"] == "echo: third"
    assert engine.order == [first["id"], second["id"], third["id"]]
    assert engine.most_running == 1
    assert (await project.watch(third["id"]))[0]["queued"] == {"position": 1}
    assert (await other.call("Execute", prompt="fourth", idempotencyKey="k"))["status"] == "completed"


@pytest.mark.depths(*DEPTHS)
@pytest.mark.server(
    max_concurrent_executions=3, max_queued_executions=10, max_concurrent_per_project=2, max_queued_per_project=1
)
async def test_a_project_has_bounds_of_its_own(projects: Projects, engine: FakeEngine) -> None:
    project, other = await projects(), await projects()
    running = [await project.start("hang") for _ in range(2)]
    for execution in running:
        await project.reaches(execution["id"], "started")
    waiting = await project.start("third")
    assert (waiting["status"], waiting["queuePosition"]) == ("queued", 0)
    for rpc in ("Execute", "StartExecution"):
        with failing("RESOURCE_EXHAUSTED", 429, "QUEUE_FULL") as caught:
            await project.call(rpc, prompt="fourth")
        assert caught.failure.metadata == {"limit": "1", "scope": "project"}
        assert caught.failure.detail("RetryInfo") is not None
    # The server has a place to run and places to wait: another project gets them.
    assert (await other.call("Execute", prompt="at once"))["result"] == "echo: at once"
    assert waiting["id"] not in engine.executors
    await project.about("CancelExecution", running[0]["id"])
    assert (await project.ended(waiting["id"]))["result"] == "echo: third"
    await project.about("CancelExecution", running[1]["id"])


@pytest.mark.server(max_concurrent_executions=1)
async def test_the_place_in_the_queue_moves_up(projects: Projects) -> None:
    project = await projects()
    started = [await project.start(prompt) for prompt in ("hang", "hang", "hang", "hang")]
    positions = [(await project.execution(execution["id"])).get("queuePosition") for execution in started]
    assert positions == [None, 0, 1, 2]
    await project.about("CancelExecution", started[1]["id"])
    listed = (await project.call("ListExecutions"))["executions"]
    assert [execution.get("queuePosition") for execution in listed] == [1, 0, None, None]
    for execution in started:
        await project.about("CancelExecution", execution["id"])


@pytest.mark.depths(*DEPTHS)
@pytest.mark.server(max_concurrent_executions=1)
async def test_a_queued_execution_is_cancelled_without_having_run(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    running, queued = await project.start("hang"), await project.start("hello")
    cancelled = (await project.about("CancelExecution", queued["id"]))["execution"]
    assert (cancelled["status"], cancelled["duration"], cancelled["usage"]["modelCalls"]) == ("cancelled", 0, 0)
    assert "startedAt" not in cancelled and "queuePosition" not in cancelled
    assert kinds(await project.watch(queued["id"])) == ["queued", "cancelled"]
    await project.about("CancelExecution", running["id"])
    assert queued["id"] not in engine.executors


@pytest.mark.server(max_concurrent_executions=1)
async def test_a_queued_execution_cannot_be_deleted(projects: Projects) -> None:
    project = await projects()
    running, queued = await project.start("hang"), await project.start("hello")
    with failing("FAILED_PRECONDITION", 400, "EXECUTION_NOT_FINISHED"):
        await project.about("DeleteExecution", queued["id"])
    for execution in (queued, running):
        await project.about("CancelExecution", execution["id"])
        await project.about("DeleteExecution", execution["id"], http=204)


@pytest.mark.server(max_concurrent_executions=3)
async def test_no_more_run_at_a_time_than_allowed(projects: Projects, engine: FakeEngine) -> None:
    project = await projects()
    gate = asyncio.Event()
    engine.script = lambda prompt: [wait_for(gate), answer(prompt)]
    started = [await project.start(str(number)) for number in range(8)]
    await project.reaches(started[2]["id"], "started")
    gate.set()
    results = [(await project.ended(execution["id"]))["result"] for execution in started]
    assert results == [str(number) for number in range(8)]
    assert engine.most_running == 3


@pytest.mark.server(max_concurrent_executions=1)
async def test_deleting_a_project_takes_its_executions_out_of_the_queue(projects: Projects, engine: FakeEngine) -> None:
    project, other = await projects(), await projects()
    await project.start("hang")
    await project.start("hello")
    waiting = await other.start("hello")
    await project.call("DeleteProject", http=204)
    assert (await other.ended(waiting["id"]))["status"] == "completed"
    assert len(engine.order) == 2
