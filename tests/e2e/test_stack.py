"""The whole stack as a user starts it: Envoy, the server, the real agent, the local model, real files."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from scripts import pictures
from scripts.demo.rest import Rest
from scripts.demo.stack import Stack
from tests.support.processes import Tree, killed, lives

pytestmark = pytest.mark.e2e

Json = dict[str, Any]
PROJECT: Json = {
    "name": "p",
    "agent": {"name": "a", "systemPrompt": "s", "model": "claude-sonnet-4-5", "enabledTools": ["TodoWrite"]},
}
TODO = '[[tool: TodoWrite {"todos": [{"content": "c", "status": "pending", "activeForm": "f"}]}]]'
NOTHING_LEFT_SECONDS = 5.0
PROMPT_TOKEN_PRICE, COMPLETION_TOKEN_PRICE = Decimal("0.000003"), Decimal("0.000015")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack"), live=False) as running:
        yield running


@pytest.fixture
def rest(stack: Stack) -> Iterator[Rest]:
    client = Rest(stack.url)
    yield client
    client.close()


def new_project(rest: Rest) -> tuple[str, str]:
    created = rest.call("POST", "/api/v1/projects", PROJECT)
    rest.use_key(created["apiKey"])
    return created["project"]["id"], created["apiKey"]


def start(rest: Rest, project_id: str, prompt: str) -> str:
    answer = rest.call("POST", f"/api/v1/projects/{project_id}/executions", {"prompt": prompt})
    execution_id: str = answer["execution"]["id"]
    return execution_id


def eventually(holds: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def run_processes(run_root: Path) -> list[psutil.Process]:
    """Processes whose environment names this folder of runs: agents and whatever they started."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                any(str(run_root) in value for value in process.environ().values())
                and process.pid != os.getpid()
                and lives(process)
            ):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def test_three_model_calls_are_counted_to_the_cent(stack: Stack, rest: Rest) -> None:
    project_id, _ = new_project(rest)
    before = len(httpx.get(f"{stack.model_url}/ledger", trust_env=False).json()["calls"])
    execution_id = start(rest, project_id, f"{TODO} [[say: half way]] {TODO} [[say: all done]]")
    events = list(rest.events(execution_id))

    usages = [event["tokenUsage"]["usage"] for event in events if event["kind"] == "token_usage"]
    totals = [usage["promptTokens"] + usage["completionTokens"] for usage in usages]
    assert len(totals) >= 3
    assert totals == sorted(set(totals)), "every usage event tells of more tokens than the one before"
    assert usages[-1]["modelCalls"] == 3

    asked = httpx.get(f"{stack.model_url}/ledger", trust_env=False).json()["calls"][before:]
    calls = [call for call in asked if call["endpoint"] == "messages"]
    assert len(calls) == 3
    cost = sum(
        call["input_tokens"] * PROMPT_TOKEN_PRICE + call["output_tokens"] * COMPLETION_TOKEN_PRICE for call in calls
    )
    answer = rest.call("GET", f"/api/v1/executions/{execution_id}/cost")
    assert abs(Decimal(str(answer["currentCost"])) - cost) < Decimal("1e-9")
    assert answer["usage"]["promptTokens"] == sum(call["input_tokens"] for call in calls)
    assert answer["usage"]["completionTokens"] == sum(call["output_tokens"] for call in calls)
    assert {call["temperature"] for call in calls} == {0.7}
    assert max(call["max_tokens"] for call in calls) <= 4096


def test_usage_and_receipts_are_the_vendors_bill(stack: Stack, rest: Rest) -> None:
    def bill() -> list[Json]:
        calls: list[Json] = httpx.get(f"{stack.model_url}/ledger", trust_env=False).json()["calls"]
        return [call for call in calls if call["endpoint"] == "messages"]

    project_id, _ = new_project(rest)
    before = len(bill())
    receipts = []
    for prompt in ("[[say: one]]", f"{TODO} [[say: two]]", f"{TODO} [[say: x]] {TODO} [[say: three]]"):
        execution_id = start(rest, project_id, prompt)
        assert list(rest.events(execution_id))[-1]["kind"] == "completed"
        receipts.append(rest.call("GET", f"/api/v1/executions/{execution_id}/receipt")["receipt"])
        url = f"/api/v1/executions/{execution_id}/stream"
        with rest.stream("GET", url, {"accept": "application/x-ndjson"}) as response:
            log = b"".join(response.iter_bytes())
        assert receipts[-1]["log"]["sha256"] == hashlib.sha256(log).hexdigest()

    calls = bill()[before:]
    told = rest.call("GET", f"/api/v1/projects/{project_id}/usage")["report"]["sum"]
    cached = sum(call["cache_creation_input_tokens"] + call["cache_read_input_tokens"] for call in calls)
    assert told["modelCalls"] == len(calls) == sum(len(receipt["calls"]) for receipt in receipts) == 6
    assert told["promptTokens"] == sum(call["input_tokens"] for call in calls) + cached
    assert told["completionTokens"] == sum(call["output_tokens"] for call in calls)
    assert cached == 0 and told["estimatedCost"] == 0
    cost = sum(
        call["input_tokens"] * PROMPT_TOKEN_PRICE + call["output_tokens"] * COMPLETION_TOKEN_PRICE for call in calls
    )
    assert abs(Decimal(str(told["totalCost"])) - cost) < Decimal("1e-9")
    assert abs(sum(Decimal(str(receipt["usage"]["totalCost"])) for receipt in receipts) - cost) < Decimal("1e-9")
    assert not any(receipt["sdkCost"]["differs"] for receipt in receipts)


@pytest.mark.parametrize(
    ("fault", "differs"), [("[[say: half a]] [[fail-once: cut]]", True), ("[[fail-once: 529]]", False)]
)
def test_the_sdks_figure_lacks_what_a_cut_call_may_have_used(
    stack: Stack, rest: Rest, fault: str, differs: bool
) -> None:
    project_id, _ = new_project(rest)
    before = len(httpx.get(f"{stack.model_url}/ledger", trust_env=False).json()["calls"])
    execution_id = start(rest, project_id, f"{fault} [[say: all of it]]")
    end = list(rest.events(execution_id))[-1]
    assert end["kind"] == "completed"
    asked = httpx.get(f"{stack.model_url}/ledger", trust_env=False).json()["calls"][before:]
    first, last = (call for call in asked if call["endpoint"] == "messages")
    price = last["input_tokens"] * PROMPT_TOKEN_PRICE + last["output_tokens"] * COMPLETION_TOKEN_PRICE
    # What the SDK has of a cut call is what the vendor told before, if the agent still got that.
    part = (
        first["input_tokens"] * PROMPT_TOKEN_PRICE + first["output_tokens"] * COMPLETION_TOKEN_PRICE if differs else 0
    )
    # Here it counts for all that the model may have gone on to write.
    cut = first["input_tokens"] * PROMPT_TOKEN_PRICE + first["max_tokens"] * COMPLETION_TOKEN_PRICE if differs else 0
    told, ours = end["completed"]["sdkCost"], end["completed"]["usage"]
    assert told["differs"] is differs
    assert -1e-9 < told["cost"] - float(price) < float(part) + 1e-9
    assert abs(Decimal(str(ours["totalCost"])) - price - cut) < Decimal("1e-9")
    assert ours.get("estimated", False) is differs
    assert rest.call("GET", f"/api/v1/executions/{execution_id}/receipt")["receipt"]["sdkCost"] == told


def test_a_late_watcher_gets_exactly_the_rest(rest: Rest) -> None:
    project_id, _ = new_project(rest)
    execution_id = start(rest, project_id, f"[[say: one two three]] {TODO} [[say: four]]")
    seen = list(rest.events(execution_id))
    url = f"/api/v1/executions/{execution_id}/stream?from_event=3"
    with rest.stream("GET", url, {"accept": "application/x-ndjson"}) as response:
        late = [json.loads(line) for line in response.iter_lines() if line]
    assert [event["sequence"] for event in late] == list(range(3, seen[-1]["sequence"] + 1))
    assert late == seen[2:]


def test_grpc_with_reflection_through_the_same_port(stack: Stack, rest: Rest) -> None:
    project_id, key = new_project(rest)
    execution_id = start(rest, project_id, "[[say: hello]]")
    project = buf_curl(stack, key, "ProjectService/GetProject", {"project_id": project_id})
    assert project[0]["project"]["id"] == project_id
    batches = buf_curl(stack, key, "ExecutionService/WatchExecution", {"execution_id": execution_id})
    kinds = [event["kind"] for batch in batches for event in batch["events"]]
    assert kinds[0] == "queued"
    assert kinds[-1] == "completed"


def buf_curl(stack: Stack, key: str, method: str, request: Json) -> list[Json]:
    command = [str(Path(sys.executable).with_name("buf")), "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
    command += ["-H", f"x-api-key: {key}", "-d", json.dumps(request), f"{stack.url}/cloutagent.v1.{method}"]
    # The home is buf's cache, which would be written to the user's otherwise.
    environment = {"PATH": os.environ["PATH"], "HOME": str(stack.log.parent)}
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr
    decoder, text, answers = json.JSONDecoder(), answer.stdout.strip(), []
    while text:
        document, end = decoder.raw_decode(text)
        answers.append(document)
        text = text[end:].strip()
    return answers


def test_keys_and_secrets_are_in_no_file_and_no_process(stack: Stack, rest: Rest) -> None:
    project_id, key = new_project(rest)
    secret = "a-value-that-nobody-else-has-4711"
    rest.call("PUT", f"/api/v1/projects/{project_id}/secrets/TOKEN", {"value": secret})
    execution_id = start(rest, project_id, "[[say: the token is {{secret:TOKEN}}]] [[silence]]")
    events = rest.events(execution_id)
    assert any(event["kind"] == "text_delta" for event in events)

    tree = Tree(stack.pid)
    assert "claude" in tree.names, "the agent runs while its model is silent"
    for process in tree.living():
        shown = " ".join(process.cmdline()) + " ".join(process.environ().values())
        assert secret not in shown
        assert key not in shown
    ended = rest.call("POST", f"/api/v1/executions/{execution_id}/cancel", {})
    assert ended["execution"]["status"] == "cancelled"

    command = [sys.executable, "-m", "cloutagent_server", "backup", "--executions"]
    made = subprocess.run(
        command, cwd=stack.log.parent, env=stack.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert made.returncode == 0, made.stderr
    searched = []
    for path in stack.log.parent.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if path.name.endswith(".gz"):
                content = gzip.decompress(content)
            searched.append(path)
            assert secret.encode() not in content, path
            assert key.encode() not in content, path
    names = {path.name for path in searched}
    assert {"000001.jsonl", "events.jsonl", "secrets.enc", stack.log.name} <= names
    assert any(name.endswith(".tar.gz") for name in names)


def test_a_killed_server_leaves_the_truth_and_no_process(tmp_path: Path) -> None:
    with Stack(tmp_path, live=False) as stack:
        rest = Rest(stack.url)
        project_id, key = new_project(rest)
        running = start(rest, project_id, "[[say: a few words]] [[rate: 20/s]] [[tokens: 100000]]")
        queued = [start(rest, project_id, "[[rate: 20/s]] [[tokens: 100000]]") for _ in range(3)]
        usage: Json = {}
        for event in rest.events(running):
            if event["kind"] == "token_usage":
                usage = event["tokenUsage"]["usage"]
            if event["kind"] == "text_delta":
                break
        tree = killed(stack.pid)
        rest.close()
        assert {"claude", "envoy"} <= set(tree.names)
        assert eventually(lambda: not tree.living(), NOTHING_LEFT_SECONDS), f"what outlives its server: {tree.left()}"
        assert not run_processes(tmp_path / "runs")

    with Stack(tmp_path, live=False) as stack:
        rest = Rest(stack.url)
        rest.use_key(key)
        ended = rest.call("GET", f"/api/v1/executions/{running}")["execution"]
        assert ended["status"] == "failed"
        assert ended["failure"]["reason"] == "interrupted"
        # The call that was cut off may have gone on at the vendor: all that was reserved for it counts.
        assert ended["usage"]["estimated"] is True
        assert ended["usage"]["promptTokens"] >= usage["promptTokens"]
        assert ended["usage"]["completionTokens"] > usage["completionTokens"]
        assert ended["usage"]["totalCost"] > usage["totalCost"]
        assert [event["kind"] for event in rest.events(running)].count("failed") == 1
        # What was still queued is queued again, and runs.
        assert eventually(
            lambda: rest.call("GET", f"/api/v1/executions/{queued[-1]}")["execution"]["status"] == "running", 20
        )
        # The first agent of a server waits for the SDK.
        assert eventually(lambda: "claude" in Tree(stack.pid).names, 20)
        rest.close()
        tree = Tree(stack.pid)
    assert "claude" in tree.names
    assert tree.left() == []
    assert not run_processes(tmp_path / "runs")


@pytest.mark.full
def test_the_demo_keeps_its_promises() -> None:
    demo = subprocess.run(
        [sys.executable, "-m", "scripts.demo"], capture_output=True, text=True, timeout=180, check=False
    )
    assert demo.returncode == 0, demo.stdout + demo.stderr


def second_stack(folder: Path) -> Stack:
    """Another server on the same folder."""
    stack = Stack(folder, live=False)
    stack.output, stack.log = folder / "second-stdout.log", folder / "second-stderr.log"
    return stack


def test_of_two_servers_on_a_folder_the_living_finishes_what_the_killed_one_left(tmp_path: Path) -> None:
    slow = "[[rate: 20/s]] [[tokens: 100000]]"
    with Stack(tmp_path, live=False) as dying, second_stack(tmp_path) as living:
        first, rest = Rest(dying.url), Rest(living.url)
        project_id, key = new_project(first)
        rest.use_key(key)
        theirs = start(rest, project_id, slow)
        running = [start(first, project_id, slow) for _ in range(3)]
        queued = start(first, project_id, "[[say: after all]]")
        watched = rest.events(running[0])
        assert any(event["kind"] == "text_delta" for event in watched), "the other server's run is watched live"
        cancelled = rest.call("POST", f"/api/v1/executions/{running[2]}/cancel", {})
        assert cancelled["execution"]["status"] == "cancelled", "the other server's run is cancelled"
        assert [event["kind"] for event in rest.events(queued)][-1] == "completed", "and makes room for what waits"
        last = start(first, project_id, slow)
        waiting = start(first, project_id, "[[say: at last]]")

        tree = killed(dying.pid)
        first.close()
        assert eventually(lambda: not tree.living(), NOTHING_LEFT_SECONDS), f"what outlives its server: {tree.left()}"
        for execution_id in (running[0], running[1], last):
            kinds = [event["kind"] for event in rest.events(execution_id)]
            assert kinds.count("failed") == 1
            assert kinds[-1] == "failed"
            ended = rest.call("GET", f"/api/v1/executions/{execution_id}")["execution"]
            assert ended["failure"]["reason"] == "interrupted"
        kinds = [event["kind"] for event in rest.events(waiting)]
        assert (kinds.count("started"), kinds[-1]) == (1, "completed")
        assert rest.call("GET", f"/api/v1/executions/{theirs}")["execution"]["status"] == "running"
        rest.call("POST", f"/api/v1/executions/{theirs}/cancel", {})
        rest.close()
    assert not run_processes(tmp_path / "runs")


def test_an_interrupt_from_the_terminal_leaves_a_run_its_time_to_end(tmp_path: Path) -> None:
    with Stack(tmp_path, live=False) as stack:
        rest = Rest(stack.url)
        project_id, key = new_project(rest)
        running = start(rest, project_id, "[[rate: 20/s]] [[tokens: 30]]")
        events = rest.events(running)
        assert any(event["kind"] == "text_delta" for event in events)
        # What Ctrl-C does: the signal goes to the whole process group.
        os.killpg(os.getpgid(stack.pid), signal.SIGINT)
        assert [event["kind"] for event in events][-1] == "completed"
        rest.close()
    with Stack(tmp_path, live=False) as stack:
        rest = Rest(stack.url)
        rest.use_key(key)
        assert rest.call("GET", f"/api/v1/executions/{running}")["execution"]["status"] == "completed"
        rest.close()


def test_a_reader_that_goes_away_ends_its_run_and_the_agent(stack: Stack, rest: Rest) -> None:
    project_id, key = new_project(rest)
    body = {"prompt": "[[say: Hello.]] [[silence]]", "onDisconnect": "cancel"}
    headers = {"x-api-key": key, "accept": "application/x-ndjson"}
    with (
        httpx.Client(base_url=stack.url, timeout=30, trust_env=False) as client,
        client.stream("POST", f"/api/v1/projects/{project_id}/execute/stream", json=body, headers=headers) as answer,
    ):
        events = map(json.loads, answer.iter_lines())
        execution_id = next(event["executionId"] for event in events if event["kind"] == "text_delta")
        # That of the run, and those that wait for the next one.
        agents = [process for process in Tree(stack.pid).living() if process.name() == "claude"]
        assert agents

    def cancelled() -> bool:
        found = rest.call("GET", f"/api/v1/executions/{execution_id}")["execution"]
        return bool(found["status"] == "cancelled" and found["usage"]["modelCalls"] == 1)

    assert eventually(cancelled, 20)
    assert eventually(lambda: not all(map(lives, agents)), 20)
    again = rest.call("POST", f"/api/v1/executions/{execution_id}/cancel", {})["execution"]
    assert again["status"] == "cancelled"


def test_data_without_its_key_is_refused_and_no_other_key_is_made(tmp_path: Path) -> None:
    with Stack(tmp_path, live=False):
        pass
    (tmp_path / ".env").unlink()
    stack = Stack(tmp_path, live=False)
    started = subprocess.run(
        stack.command, cwd=tmp_path, env=stack.environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert started.returncode == 1
    assert started.stderr.startswith("ENCRYPTION_KEY: is required, since PROJECT_ROOT holds secrets")
    assert not (tmp_path / ".env").exists()


def test_the_pictures_of_the_command_line_are_made_of_real_runs(stack: Stack) -> None:
    made = pictures.make(stack.url)
    assert {f"{name}.svg" for name in made} == {path.name for path in pictures.PICTURES.iterdir()}
    text = {name: re.sub(r"<[^>]*>", "", picture).replace("&#160;", " ") for name, picture in made.items()}
    assert "TodoWrite" in text["run"] and "running" in text["run"]
    assert "completed" in text["finished"]
    assert "claude-haiku-4-5" in text["usage"]
    # Behind Envoy the doctor finds the server's clock, too.
    assert text["doctor"].count("ok  ") == 5 and pictures.ADDRESS in text["doctor"]
