"""What operators see of the whole stack: one run of the real agent through real Envoy, in metrics, traces and logs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from scripts.demo.rest import Rest
from scripts.demo.stack import Stack
from tests.support.api.ports import reserved_port
from tests.support.scraping import Scrape
from tests.support.trace_receiver import ReceivedSpan, TraceReceiver, receiving

pytestmark = pytest.mark.e2e

MODEL = "claude-sonnet-4-5"
PROJECT = {
    "name": "p",
    "agent": {"name": "a", "systemPrompt": "xyzzy", "model": MODEL, "enabledTools": ["TodoWrite"]},
}
TODO = '[[tool: TodoWrite {"todos": [{"content": "xyzzy", "status": "pending", "activeForm": "f"}]}]]'
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OTHER_TRACE = "9" * 32
START = "cloutagent.v1.ExecutionService/StartExecution"


class Observed(Stack):
    """A stack with its port for operators, which sends its traces to a receiver."""

    def __init__(self, folder: Path, metrics_port: int, receiver_url: str) -> None:
        super().__init__(folder, live=False)
        self._metrics_port = metrics_port
        self._receiver_url = receiver_url

    @property
    def environment(self) -> dict[str, str]:
        """As the demo's, with these."""
        here = {"METRICS_PORT": str(self._metrics_port), "OTEL_EXPORTER_OTLP_ENDPOINT": self._receiver_url}
        return super().environment | here

    def get(self, path: str) -> httpx.Response:
        """What that port answers."""
        return httpx.get(f"http://127.0.0.1:{self._metrics_port}{path}", trust_env=False, timeout=10)


@dataclass(frozen=True)
class Observation:
    """A run that has come to its end, and where it was seen."""

    stack: Observed
    receiver: TraceReceiver
    api_key: str
    path: str
    used: dict[str, Any]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observation]:
    with receiving() as receiver, reserved_port() as port:
        stack = Observed(tmp_path_factory.mktemp("observed"), port, receiver.url)
        with stack:
            yield observation(stack, receiver)


def observation(stack: Observed, receiver: TraceReceiver) -> Observation:
    """Have an agent run once, in a trace of ours, and ask for what does not exist in another one."""
    ready = stack.get("/readyz")
    checks = {"server": "ok", "storage": "ok", "engine": "ok"}
    assert (ready.status_code, ready.json()["checks"]) == (200, checks)
    rest = Rest(stack.url)
    created = rest.call("POST", "/api/v1/projects", PROJECT)
    key, path = created["apiKey"], f"/api/v1/projects/{created['project']['id']}/executions"
    rest.use_key(key)
    with httpx.Client(base_url=stack.url, trust_env=False, timeout=30) as client:
        headers = {"x-api-key": key, "traceparent": f"00-{TRACE}-{CALLER}-01"}
        started = client.post(path, json={"prompt": f"{TODO} [[say: xyzzy]]"}, headers=headers)
        assert started.status_code == 201
        headers["traceparent"] = f"00-{OTHER_TRACE}-{CALLER}-01"
        assert client.get("/api/v1/nothing?key=xyzzy", headers=headers).status_code == 404
    run = started.json()["execution"]["id"]
    assert list(rest.events(run))[-1]["kind"] == "completed"
    used = rest.call("GET", f"/api/v1/executions/{run}/cost")
    rest.close()
    return Observation(stack, receiver, key, path, used)


def test_what_envoy_counts_is_beside_the_metrics(seen: Observation) -> None:
    scrape = Scrape(seen.stack.get("/metrics/envoy").text)
    # The parser names counters as OpenMetrics does; Envoy's own do not end so.
    assert scrape.sum("envoy_http_downstream_rq_xx_total", envoy_response_code_class="2") >= 3
    assert scrape.sum("envoy_cluster_membership_healthy", envoy_cluster_name="server") == 1


def test_what_an_agent_did_is_in_the_metrics(seen: Observation) -> None:
    scrape, used = Scrape(seen.stack.get("/metrics").text), seen.used
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


def test_one_trace_leads_from_envoy_into_the_calls_of_the_model(seen: Observation) -> None:
    wanted = {"POST api_calls", "invoke_agent", f"chat {MODEL}"}
    spans = seen.receiver.until(
        lambda spans: OTHER_TRACE in {span.trace for span in spans} and wanted <= {span.name for span in of_run(spans)}
    )
    mine = of_run(spans)
    calls = [span for span in mine if span.name == f"chat {MODEL}"]
    assert len(calls) == 2
    for call in calls:
        assert chain(mine, call) == [
            ("cloutagent-envoy", "POST api_calls"),
            ("cloutagent-envoy", "server"),
            ("cloutagent-server", START),
            ("cloutagent-server", "invoke_agent"),
            ("cloutagent-server", f"chat {MODEL}"),
        ]
        assert (call.kind, call.attributes["gen_ai.request.model"]) == ("CLIENT", MODEL)
    for kind in ("input", "output"):
        counted = seen.used["usage"]["promptTokens" if kind == "input" else "completionTokens"]
        assert sum(call.attributes[f"gen_ai.usage.{kind}_tokens"] for call in calls) == counted
    first = next(span for span in mine if span.name == "POST api_calls")
    assert (first.parent, first.kind, first.attributes["http.method"]) == (CALLER, "SERVER", "POST")
    assert first.attributes["http.url"] == seen.path
    assert not any(span.failed for span in mine)


def test_logs_name_the_trace_and_traces_hold_nothing_of_what_was_said(seen: Observation) -> None:
    seen.receiver.until(lambda spans: {OTHER_TRACE, TRACE} <= {span.trace for span in spans})
    assert f'"trace_id": "{TRACE}"' in seen.stack.log.read_text()
    assert f'"trace_id":"{TRACE}"' in seen.stack.output.read_text()
    for said in (b"xyzzy", seen.api_key.encode()):
        assert said not in seen.receiver.raw


def of_run(spans: Sequence[ReceivedSpan]) -> list[ReceivedSpan]:
    """Those of the call that started the run, and what came of it."""
    return [span for span in spans if span.trace == TRACE]


def chain(spans: Sequence[ReceivedSpan], last: ReceivedSpan) -> list[tuple[str, str]]:
    """Services and names from the first span of a trace to this one."""
    found = [last]
    while parents := [span for span in spans if span.id == found[0].parent]:
        found[:0] = parents
    return [(span.service, span.name) for span in found]
