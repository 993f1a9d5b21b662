"""A real server, scraped after calls whose numbers are known."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cloutagent_server import __version__
from cloutagent_server.domain.metrics import StorageFault
from cloutagent_server.monitoring.measured_storage import measured_operations
from cloutagent_server.transport.server import METHODS
from tests.support.api.failure import ApiFailure
from tests.support.api.scenario import FOREIGN_KEY, NO_ID, eventually
from tests.support.fake_engine import CALL_COMPLETION_TOKENS, CALL_PROMPT_TOKENS
from tests.support.fake_prices import MODEL
from tests.support.scraping import Watched, watched_server

METHOD = "/cloutagent.v1."
COST = (CALL_PROMPT_TOKENS * 3 + CALL_COMPLETION_TOKENS * 15) / 1_000_000


async def until(server: Watched, value: float, name: str, **labels: str) -> None:
    """Return once a metric has a value: a call is counted a moment after its answer."""

    async def reached() -> bool:
        return (await server.scrape()).sum(name, **labels) == value

    await eventually(reached)


async def test_calls_are_counted_by_method_and_code(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        project = await server.projects()
        for _ in range(3):
            await project.call("GetProject")
        with pytest.raises(ApiFailure):
            await project.call("GetSecret", name="NONE")
        with pytest.raises(ApiFailure):
            await server.api.call("GetProject", {"projectId": project.id}, FOREIGN_KEY)
        get = METHOD + "ProjectService/GetProject"
        await until(server, 1, "cloutagent_grpc_requests_total", method=get, code="UNAUTHENTICATED")
        scrape = await server.scrape()
        assert scrape.sum("cloutagent_grpc_requests_total", method=get, code="OK") == 3
        assert scrape.sum("cloutagent_grpc_requests_total", method=get, code="INTERNAL") == 0
        assert scrape.sum("cloutagent_grpc_request_duration_seconds_count", method=get) == 4
        assert 0 < scrape.sum("cloutagent_grpc_request_duration_seconds_sum", method=get) < 60
        assert scrape.sum("cloutagent_grpc_requests_total", code="NOT_FOUND") == 1
        assert scrape.sum("cloutagent_grpc_requests_in_flight") == 0
        assert scrape.sum("cloutagent_build_info", version=__version__) == 1


async def test_what_alerts_are_about_is_counted_from_the_start(tmp_path: Path) -> None:
    # A rate begins with the second value that is seen: one that appears with the first fault would hide that fault.
    async with watched_server(tmp_path) as server:
        families = {family.name: family.samples for family in (await server.scrape()).families}
        calls = {(sample.labels["method"], sample.labels["code"]) for sample in families["cloutagent_grpc_requests"]}
        for code in ("OK", "INTERNAL", "DATA_LOSS", "UNAVAILABLE", "UNAUTHENTICATED"):
            assert {method for method, of in calls if of == code} == set(METHODS)
        faults = {
            (sample.labels["operation"], sample.labels["fault"]) for sample in families["cloutagent_storage_errors"]
        }
        assert faults == {(operation, fault) for operation in measured_operations() for fault in StorageFault}
        assert {"executions.append", "audit.append", "ledger.reserve"} <= {operation for operation, _ in faults}


async def test_a_key_is_hashed_once_and_then_remembered(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        project = await server.projects()
        for _ in range(5):
            await project.call("GetProject")
        scrape = await server.scrape()
        assert scrape.sum("cloutagent_bcrypt_check_seconds_count") == 1
        assert scrape.sum("cloutagent_key_cache_hits_total") == 4


async def test_a_run_is_counted_with_its_tokens_and_its_money(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        project = await server.projects()
        await project.call("Execute", prompt="three calls please")
        await project.call("Execute", prompt="fail please")
        await until(server, 0, "cloutagent_executions_running")
        scrape = await server.scrape()
        assert scrape.sum("cloutagent_executions_ended_total", status="completed") == 1
        assert scrape.sum("cloutagent_executions_ended_total", status="failed", reason="model_error") == 1
        assert scrape.sum("cloutagent_executions_ended_total") == 2
        assert scrape.sum("cloutagent_model_tokens_total", model=MODEL, kind="prompt") == 4 * CALL_PROMPT_TOKENS
        assert scrape.sum("cloutagent_model_tokens_total", kind="completion") == 4 * CALL_COMPLETION_TOKENS
        assert scrape.sum("cloutagent_model_cost_usd_total", model=MODEL) == pytest.approx(4 * COST)
        assert scrape.sum("cloutagent_queue_wait_seconds_count") == 2
        used = (await project.call("GetUsage"))["report"]["days"][0]["usage"]
        assert scrape.sum("cloutagent_model_cost_usd_total") == pytest.approx(used["totalCost"])


async def test_queue_streams_and_watchers_are_told_while_they_are_there(tmp_path: Path) -> None:
    async with watched_server(tmp_path, max_concurrent_executions=1) as server:
        project = await server.projects()
        runs = [(await project.start("hang"))["id"] for _ in range(3)]
        await project.reaches(runs[0], "started")
        await until(server, 0, "cloutagent_watchers")
        watch = METHOD + "ExecutionService/WatchExecution"
        events: Any = project.watching(runs[0])
        async with aclosing(events):
            await anext(events)
            scrape = await server.scrape()
            assert scrape.sum("cloutagent_queue_length") == 2
            assert scrape.sum("cloutagent_executions_running") == 1
            assert scrape.sum("cloutagent_watchers") == 1
            assert scrape.sum("cloutagent_grpc_streams", method=watch) == 1
        await until(server, 0, "cloutagent_grpc_streams", method=watch)
        await until(server, 0, "cloutagent_watchers")
        ended = (await server.scrape()).sum("cloutagent_grpc_requests_total", method=watch, code="CANCELLED")
        assert ended == 2
        for run in reversed(runs):
            await project.about("CancelExecution", run)
        await until(server, 3, "cloutagent_executions_ended_total", status="cancelled")
        scrape = await server.scrape()
        assert (scrape.sum("cloutagent_queue_length"), scrape.sum("cloutagent_executions_running")) == (0, 0)


async def test_calls_under_way_are_told(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        project = await server.projects()
        execute = METHOD + "ExecutionService/Execute"
        call = asyncio.ensure_future(project.call("Execute", prompt="hang"))
        await until(server, 1, "cloutagent_grpc_requests_in_flight", method=execute)
        await project.about("CancelExecution", (await project.first_execution())["id"])
        await call
        await until(server, 0, "cloutagent_grpc_requests_in_flight", method=execute)


async def test_refusals_of_limits_and_budgets_are_counted(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        project = await server.projects(budget={"daily": {"maxTokens": CALL_PROMPT_TOKENS + CALL_COMPLETION_TOKENS}})
        await project.call("Execute", prompt="tool", options={"maxTokens": 1000})
        with pytest.raises(ApiFailure):
            await project.call("StartExecution", prompt="more")
        scrape = await server.scrape()
        # The second call of the first run, and the second run.
        assert scrape.sum("cloutagent_budget_refusals_total", scope="daily", limit="tokens") == 2
        assert scrape.sum("cloutagent_budget_refusals_total", scope="execution") == 0


async def test_operations_of_the_storage_are_timed_and_their_faults_told(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        project = await server.projects()
        await project.call("GetProject")
        with pytest.raises(ApiFailure):
            await server.api.call("GetExecution", {"executionId": NO_ID}, project.key)
        (tmp_path / "projects" / project.id / "metadata.json").write_text("{")
        with pytest.raises(ApiFailure):
            await project.call("GetProject")
        scrape = await server.scrape()
        assert scrape.sum("cloutagent_storage_operation_seconds_count", operation="projects.create") == 1
        assert scrape.sum("cloutagent_storage_operation_seconds_count", operation="projects.find_key") == 3
        assert scrape.sum("cloutagent_storage_errors_total", operation="projects.find_key", fault="damaged") == 1
        assert scrape.sum("cloutagent_storage_errors_total", fault="unexpected") == 0
        assert scrape.sum("cloutagent_storage_errors_total") == 1


async def test_nothing_that_a_caller_chooses_is_in_the_metrics(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        project = await server.projects(name="a-name-of-mine")
        execution = await project.start("a prompt of mine")
        await project.ended(execution["id"])
        await project.call("SetSecret", name="MY_SECRET", value="my-secret-value")
        text = (await server.get("/metrics")).text
        for chosen in (project.id, project.key, execution["id"], "a-name-of-mine", "prompt of", "MY_SECRET", "my-sec"):
            assert chosen not in text


async def test_the_scraper_chooses_the_form(tmp_path: Path) -> None:
    async with watched_server(tmp_path) as server:
        plain = await server.get("/metrics")
        assert plain.headers["content-type"].startswith("text/plain; version=")
        openmetrics = await server.get("/metrics", accept="application/openmetrics-text; version=1.0.0")
        assert openmetrics.headers["content-type"].startswith("application/openmetrics-text")
        assert openmetrics.text.endswith("# EOF\n")
        assert "_created" not in plain.text
        assert (await server.get("/")).status_code == 404


async def test_an_envoy_in_front_is_asked_at_each_scrape(tmp_path: Path) -> None:
    answers: list[str | Exception] = ["envoy_up 1\n", "envoy_up 2\n", FileNotFoundError(), aiohttp.ClientError()]

    async def statistics() -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with watched_server(tmp_path) as server:
        assert (await server.get("/metrics/envoy")).status_code == 404
        server.app.show_envoy(statistics)
        first, second = await server.get("/metrics/envoy"), await server.get("/metrics/envoy")
        assert (first.text, second.text) == ("envoy_up 1\n", "envoy_up 2\n")
        assert first.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert [(await server.get("/metrics/envoy")).status_code for _ in range(2)] == [503, 503]
        assert answers == []
