"""Metrics of the whole stack: what the real agent did through the real gateway is in them, to the token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from scripts.demo.rest import Rest
from scripts.demo.stack import Stack
from tests.support.api.ports import reserved_port
from tests.support.scraping import Scrape

pytestmark = pytest.mark.e2e

MODEL = "claude-sonnet-4-5"
PROJECT = {
    "name": "p",
    "agent": {"name": "a", "systemPrompt": "s", "model": MODEL, "enabledTools": ["TodoWrite"]},
}
TODO = '[[tool: TodoWrite {"todos": [{"content": "c", "status": "pending", "activeForm": "f"}]}]]'


class Observed(Stack):
    """A stack with its port for operators."""

    def __init__(self, folder: Path, metrics_port: int) -> None:
        super().__init__(folder, live=False)
        self.metrics_port = metrics_port

    @property
    def environment(self) -> dict[str, str]:
        """As the demo's, with that port."""
        return {**super().environment, "METRICS_PORT": str(self.metrics_port)}

    def get(self, path: str) -> httpx.Response:
        """What that port answers."""
        return httpx.get(f"http://127.0.0.1:{self.metrics_port}{path}", trust_env=False, timeout=10)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Observed]:
    with reserved_port() as port:
        observed = Observed(tmp_path, port)
        with observed:
            yield observed


def test_what_an_agent_did_is_in_the_metrics(stack: Observed) -> None:
    ready = stack.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]) == (200, {"server": "ok", "storage": "ok", "engine": "ok"})
    rest = Rest(stack.url)
    try:
        created = rest.call("POST", "/api/v1/projects", PROJECT)
        rest.use_key(created["apiKey"])
        project = f"/api/v1/projects/{created['project']['id']}"
        started = rest.call("POST", f"{project}/executions", {"prompt": f"{TODO} [[say: done]]"})
        assert list(rest.events(started["execution"]["id"]))[-1]["kind"] == "completed"
        used = rest.call("GET", f"/api/v1/executions/{started['execution']['id']}/cost")
    finally:
        rest.close()
    scrape = Scrape(stack.get("/metrics").text)
    assert scrape.sum("cloutagent_model_calls_total", model=MODEL, outcome="ok") == used["usage"]["modelCalls"] == 2
    assert scrape.sum("cloutagent_model_calls_total") == 2
    assert scrape.sum("cloutagent_model_first_byte_seconds_count", model=MODEL) == 2
    assert scrape.sum("cloutagent_model_tokens_total", model=MODEL, kind="prompt") == used["usage"]["promptTokens"]
    assert scrape.sum("cloutagent_model_tokens_total", kind="completion") == used["usage"]["completionTokens"]
    assert scrape.sum("cloutagent_model_cost_usd_total") == pytest.approx(used["currentCost"])
    assert scrape.sum("cloutagent_executions_ended_total", status="completed") == 1
    stream = "/cloutagent.v1.ExecutionService/StreamExecutionEvents"
    assert scrape.sum("cloutagent_grpc_requests_total", method=stream, code="OK") == 1
    assert scrape.sum("process_resident_memory_bytes") > 0
