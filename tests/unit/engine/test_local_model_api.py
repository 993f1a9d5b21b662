"""The local model over HTTP, as a client of the Messages API sees it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from cloutagent_server.engine.local_model import Call, LocalModel, ScriptLibrary
from cloutagent_server.engine.local_model.library import sections

KEY = "sk-ant-for-tests"
TOOL_SCRIPT = '[[say: I plan.]] [[tool: TodoWrite {"todos": ["é"]}]] [[say: All done.]]'
Messages = list[dict[str, Any]]


@pytest.fixture
async def model() -> AsyncIterator[LocalModel]:
    model = LocalModel()
    await model.start()
    yield model
    await model.stop()


@pytest.fixture
async def client(model: LocalModel) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    async with httpx.AsyncClient(base_url=model.base_url, headers=headers, timeout=10, trust_env=False) as client:
        yield client


def request(prompt: str | Messages, **changes: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    return {"model": "claude-sonnet-4-5", "max_tokens": 1000, "messages": messages, "stream": True, **changes}


def events(body: str) -> list[dict[str, Any]]:
    parsed = []
    for block in body.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        parsed.append(event)
    return parsed


def text_of(parsed: list[dict[str, Any]]) -> str:
    return "".join(event["delta"].get("text", "") for event in parsed if event["type"] == "content_block_delta")


async def stream(client: httpx.AsyncClient, prompt: str | Messages, **changes: object) -> list[dict[str, Any]]:
    response = await client.post("/v1/messages", json=request(prompt, **changes))
    assert response.status_code == 200, response.text
    return events(response.text)


async def whole(client: httpx.AsyncClient, prompt: str | Messages, **changes: object) -> dict[str, Any]:
    response = await client.post("/v1/messages", json=request(prompt, stream=False, **changes))
    assert response.status_code == 200, response.text
    message: dict[str, Any] = response.json()
    return message


async def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def last_call(model: LocalModel) -> Call:
    return list(model.ledger)[-1]


async def test_a_stream_has_the_events_of_the_api_in_order(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/messages?beta=true", json=request("[[say: Hello]]"))

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["request-id"].startswith("req_")
    parsed = events(response.text)
    assert [event["type"] for event in parsed] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start = parsed[0]["message"]
    assert start["role"] == "assistant"
    assert start["model"] == "claude-sonnet-4-5"
    assert start["content"] == []
    assert start["usage"]["output_tokens"] == 1
    assert parsed[5]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert parsed[5]["usage"]["input_tokens"] == start["usage"]["input_tokens"]
    assert parsed[5]["usage"]["output_tokens"] == 2


async def test_no_foreign_name_is_answered(client: httpx.AsyncClient) -> None:
    for path in ("/", "/ledger"):
        assert (await client.get(path, headers={"host": "localhost"})).status_code == 200
        assert (await client.get(path, headers={"host": "page.example:80"})).status_code == 404
    refused = await client.post("/v1/messages", json=request("hello"), headers={"host": "page.example"})
    assert refused.status_code == 404
    assert (await client.get("/ledger")).json()["calls"] == []


async def test_without_directives_the_prompt_is_quoted(client: httpx.AsyncClient) -> None:
    answer = text_of(await stream(client, "What is [[this]]?  " + "x" * 300))

    assert "development stand-in" in answer
    assert "“What is [[this]]? xxx" in answer
    assert answer.endswith("x…”")


async def test_a_tool_call_ends_the_answer_and_its_result_leads_on(client: httpx.AsyncClient) -> None:
    first = await stream(client, TOOL_SCRIPT)
    assert text_of(first) == "I plan."
    [start] = [e for e in first if e["type"] == "content_block_start" and e["index"] == 1]
    assert start["content_block"]["name"] == "TodoWrite"
    assert start["content_block"]["input"] == {}
    arguments = "".join(e["delta"]["partial_json"] for e in first if e.get("delta", {}).get("partial_json"))
    assert json.loads(arguments) == {"todos": ["é"]}
    assert first[-2]["delta"]["stop_reason"] == "tool_use"

    identifier = start["content_block"]["id"]
    call = {"type": "tool_use", "id": identifier, "name": "TodoWrite", "input": {"todos": ["é"]}}
    conversation = [
        {"role": "user", "content": [{"type": "text", "text": TOOL_SCRIPT}]},
        {"role": "assistant", "content": [{"type": "text", "text": "I plan."}, call]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": identifier, "content": "ok"},
                {"type": "text", "text": "[[say: not a prompt]]"},
            ],
        },
    ]
    second = await stream(client, conversation)
    assert text_of(second) == "All done."
    assert second[-2]["delta"]["stop_reason"] == "end_turn"

    again = await whole(client, [*conversation, *conversation[1:]])
    assert again["content"] == [{"type": "text", "text": "Done."}]


async def test_the_result_of_the_last_tool_is_written(client: httpx.AsyncClient) -> None:
    prompt = "[[tool: A {}]] [[tool: B {}]] [[say: It is ]] [[result]] [[say: .]]"
    conversation: Messages = [{"role": "user", "content": prompt}]
    assert text_of(await stream(client, "[[result]]")) == ""
    parts = ["4", "2\n<system-reminder>\na\n</system-reminder>", "<system-reminder>b</system-reminder>"]
    blocks = [{"type": "image"}, *({"type": "text", "text": part} for part in parts)]
    for content in ("first", blocks):
        result = {"type": "tool_result", "tool_use_id": "t", "content": content}
        conversation += [{"role": "assistant", "content": "…"}, {"role": "user", "content": [result]}]
    assert text_of(await stream(client, conversation)) == "It is 4\n2."


async def test_a_prompt_without_directives_is_answered_by_the_script_that_fits() -> None:
    model = LocalModel(scripts=ScriptLibrary(sections("when: weather\n[[say: Rain.]]")))
    await model.start()
    headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    try:
        async with httpx.AsyncClient(base_url=model.base_url, headers=headers, trust_env=False) as client:
            assert text_of(await stream(client, "How is the weather?")) == "Rain."
            assert text_of(await stream(client, "The weather? [[say: Sun.]]")) == "Sun."
            assert "stand-in" in text_of(await stream(client, "How are you?"))
    finally:
        await model.stop()


async def test_the_script_is_in_the_last_prompt_beside_reminders(client: httpx.AsyncClient) -> None:
    conversation: Messages = [
        {"role": "user", "content": "[[say: old]]"},
        {"role": "assistant", "content": "old"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "<system-reminder>[[say: reminder]]</system-reminder>"},
                {"type": "text", "text": "Please [[say: new]]"},
            ],
        },
        {"role": "system", "content": "[[say: system]]"},
    ]

    assert text_of(await stream(client, conversation)) == "new"


async def test_a_header_takes_the_place_of_the_prompts_script(client: httpx.AsyncClient) -> None:
    headers = {"x-local-model-script": "[[say: header]]"}
    response = await client.post("/v1/messages", json=request("[[say: prompt]]"), headers=headers)

    assert text_of(events(response.text)) == "header"


async def test_a_whole_message_says_the_same_as_the_stream(client: httpx.AsyncClient) -> None:
    message = await whole(client, TOOL_SCRIPT)
    streamed = await stream(client, TOOL_SCRIPT)

    text, call = message["content"]
    assert text == {"type": "text", "text": "I plan."}
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "TodoWrite", {"todos": ["é"]})
    assert message["stop_reason"] == "tool_use"
    assert message["usage"] == streamed[-2]["usage"]


async def test_input_is_counted_by_the_documented_rule(client: httpx.AsyncClient) -> None:
    tools = [{"name": "T", "input_schema": {"type": "object"}}]
    body = request("Grüße", system="Be brief.", tools=tools, stream=False)
    counted = {name: body[name] for name in ("system", "messages", "tools")}
    expected = -(-len(json.dumps(counted, ensure_ascii=False, separators=(",", ":"))) // 4)

    message = (await client.post("/v1/messages", json=body)).json()
    del body["max_tokens"]
    count = (await client.post("/v1/messages/count_tokens", json=body)).json()

    assert message["usage"]["input_tokens"] == expected
    assert count == {"input_tokens": expected}


async def test_output_is_counted_by_the_documented_rule(client: httpx.AsyncClient, model: LocalModel) -> None:
    parsed = await stream(client, "[[say: five5]][[say: one]]" + '[[tool: Tool {"a": 1}]]')

    assert parsed[-2]["usage"]["output_tokens"] == 2 + 1 + 1 + 2
    assert last_call(model).output_tokens == 6


async def test_many_tokens_are_streamed_exactly(client: httpx.AsyncClient, model: LocalModel) -> None:
    parsed = await stream(client, "[[tokens: 5000]]", max_tokens=8000)

    assert len(text_of(parsed)) == 4 * 5000
    assert parsed[-2]["usage"]["output_tokens"] == last_call(model).output_tokens == 5000


@pytest.mark.parametrize(
    ("prompt", "content"),
    [
        ("[[tokens: 100]]", [{"type": "text", "text": "one two six "}]),
        ("[[say: 12345678]][[say: 12345678]]", [{"type": "text", "text": "123456781234"}]),
        ("[[say: 12345678]][[tool: TodoWrite]]", [{"type": "text", "text": "12345678"}]),
    ],
)
async def test_an_answer_stops_at_max_tokens(client: httpx.AsyncClient, prompt: str, content: object) -> None:
    message = await whole(client, prompt, max_tokens=3)

    assert message["stop_reason"] == "max_tokens"
    assert message["content"] == content
    assert message["usage"]["output_tokens"] <= 3


async def test_a_tool_call_is_cut_at_max_tokens(client: httpx.AsyncClient) -> None:
    message = await whole(client, '[[tool: Tool {"key": "value"}]]', max_tokens=3)

    [call] = message["content"]
    assert (call["name"], call["input"]) == ("Tool", {})
    assert message["stop_reason"] == "max_tokens"
    assert message["usage"]["output_tokens"] == 3


async def test_an_answer_of_exactly_max_tokens_is_complete(client: httpx.AsyncClient) -> None:
    message = await whole(client, "[[say: 12345678]]", max_tokens=2)

    assert message["stop_reason"] == "end_turn"
    assert message["usage"]["output_tokens"] == 2


async def test_usage_can_be_set(client: httpx.AsyncClient, model: LocalModel) -> None:
    usage = (await whole(client, "[[usage: input=900 cache_read=50 cache_write=20]] [[say: x]]"))["usage"]

    assert usage["input_tokens"] == 900
    assert usage["cache_read_input_tokens"] == 50
    assert usage["cache_creation_input_tokens"] == 20
    assert usage["cache_creation"] == {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 0}
    call = last_call(model)
    assert (call.input_tokens, call.cache_read_input_tokens, call.cache_creation_input_tokens) == (900, 50, 20)


async def test_a_delay_before_the_answer_holds_back_the_status(client: httpx.AsyncClient) -> None:
    start = time.monotonic()
    async with client.stream("POST", "/v1/messages", json=request("[[delay: 300ms]] [[say: x]]")) as response:
        headers_after = time.monotonic() - start
        await response.aread()

    assert headers_after >= 0.3


async def test_a_delay_inside_the_answer_does_not(client: httpx.AsyncClient) -> None:
    start = time.monotonic()
    async with client.stream("POST", "/v1/messages", json=request("[[say: first]] [[delay: 3s]]")) as response:
        async for line in response.aiter_lines():
            if "first" in line:
                break
        first_after = time.monotonic() - start

    assert first_after < 3


async def test_a_rate_spreads_the_tokens(client: httpx.AsyncClient) -> None:
    start = time.monotonic()
    parsed = await stream(client, "[[rate: 200/s]] [[tokens: 100]]")

    assert time.monotonic() - start >= 0.5
    assert len([event for event in parsed if event["type"] == "content_block_delta"]) == 10


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
async def test_an_error_has_its_status_and_type(
    client: httpx.AsyncClient, model: LocalModel, status: int, kind: str
) -> None:
    response = await client.post("/v1/messages", json=request(f"[[error: {status} retry-after=2]]"))

    assert response.status_code == status
    assert response.headers["retry-after"] == "2"
    body = response.json()
    assert body["type"] == "error"
    assert body["error"]["type"] == kind
    assert body["request_id"] == response.headers["request-id"]
    call = last_call(model)
    assert (call.status, call.outcome, call.input_tokens, call.output_tokens) == (status, "error", 0, 0)


async def test_an_error_inside_a_stream_is_an_event(client: httpx.AsyncClient, model: LocalModel) -> None:
    parsed = await stream(client, "[[say: half]] [[error: 529]]")

    assert parsed[-1]["type"] == "error"
    assert parsed[-1]["error"]["type"] == "overloaded_error"
    call = last_call(model)
    assert (call.status, call.outcome, call.output_tokens) == (200, "error", 1)
    assert call.input_tokens > 0


async def test_a_whole_message_that_fails_late_is_an_error(client: httpx.AsyncClient, model: LocalModel) -> None:
    response = await client.post("/v1/messages", json=request("[[say: half]] [[error: 529]]", stream=False))

    assert response.status_code == 529
    assert (last_call(model).input_tokens, last_call(model).output_tokens) == (0, 0)


@pytest.mark.parametrize(("prompt", "tokens"), [("[[cut]]", 0), ("[[say: half]] [[cut]]", 1)])
async def test_a_cut_drops_the_connection(
    client: httpx.AsyncClient, model: LocalModel, prompt: str, tokens: int
) -> None:
    received = b""

    async def receive() -> None:
        nonlocal received
        async with client.stream("POST", "/v1/messages", json=request(prompt)) as response:
            async for part in response.aiter_raw():
                received += part

    with pytest.raises(httpx.RemoteProtocolError):
        await receive()

    assert b"message_stop" not in received
    assert (b"half" in received) == bool(tokens)
    call = last_call(model)
    assert (call.outcome, call.output_tokens, call.stop_reason) == ("cut", tokens, None)


@pytest.mark.parametrize("streamed", [True, False])
async def test_garbage_is_no_json(client: httpx.AsyncClient, model: LocalModel, streamed: bool) -> None:
    response = await client.post("/v1/messages", json=request("[[garbage]]", stream=streamed))

    assert response.status_code == 200
    assert "{this is no JSON" in response.text
    assert last_call(model).outcome == "garbage"


async def test_silence_lasts_until_the_client_goes(client: httpx.AsyncClient, model: LocalModel) -> None:
    with pytest.raises(httpx.ReadTimeout):
        await client.post("/v1/messages", json=request("[[silence]]"), timeout=0.2)

    await until(lambda: last_call(model).outcome == "disconnected")
    assert last_call(model).status is None


async def test_what_was_sent_before_the_client_went_is_counted(client: httpx.AsyncClient, model: LocalModel) -> None:
    async with client.stream("POST", "/v1/messages", json=request("[[rate: 20/s]] [[tokens: 900]]")) as response:
        async for line in response.aiter_lines():
            if "content_block_delta" in line:
                break

    await until(lambda: last_call(model).outcome == "disconnected")
    assert 1 <= last_call(model).output_tokens < 900


async def test_stop_ends_answers_under_way(client: httpx.AsyncClient, model: LocalModel) -> None:
    answer = asyncio.create_task(client.post("/v1/messages", json=request("[[silence]]")))
    await until(lambda: len(model.ledger) == 1)

    await asyncio.wait_for(model.stop(), 5)

    with pytest.raises(httpx.TransportError):
        await answer
    assert last_call(model).outcome == "disconnected"


async def test_fail_once_strikes_each_session_once(client: httpx.AsyncClient) -> None:
    async def status(session: str) -> int:
        body = request("[[fail-once: 529]] [[say: ok]]")
        response = await client.post("/v1/messages", json=body, headers={"X-Claude-Code-Session-Id": session})
        return response.status_code

    assert [await status("a"), await status("a"), await status("b"), await status("b")] == [529, 200, 529, 200]


async def test_each_fail_once_of_a_script_strikes(client: httpx.AsyncClient) -> None:
    body = request("[[fail-once: 529]] [[fail-once: 500]] [[say: ok]]")

    assert [(await client.post("/v1/messages", json=body)).status_code for _ in range(3)] == [529, 500, 200]


async def test_a_faulty_directive_is_a_bad_request(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/messages", json=request("[[tokens: many]]"))

    assert response.status_code == 400
    assert "[[tokens: many]]" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("changes", "status", "named"),
    [
        ({"model": None}, 400, "model"),
        ({"model": "gpt-4"}, 404, "gpt-4"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"max_tokens": None}, 400, "max_tokens"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "role"),
        ({"messages": [{"role": "user"}]}, 400, "content"),
        ({"temperature": 1.5}, 400, "temperature"),
        ({"temperature": 0.5, "thinking": {"type": "enabled", "budget_tokens": 1024}}, 400, "thinking"),
    ],
)
async def test_a_request_that_the_api_refuses_is_refused(
    client: httpx.AsyncClient, changes: dict[str, object], status: int, named: str
) -> None:
    response = await client.post("/v1/messages", json=request("x", **changes))

    assert response.status_code == status
    assert named in response.json()["error"]["message"]


async def test_a_body_that_is_no_object_is_refused(client: httpx.AsyncClient) -> None:
    for body in (b"{", b"[]"):
        assert (await client.post("/v1/messages", content=body)).status_code == 400


async def test_a_body_that_is_too_large_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/messages", content=b" " * (33 * 1024 * 1024))

    assert response.status_code == 413
    assert response.json()["error"]["type"] == "request_too_large"


async def test_the_headers_of_the_api_are_required(model: LocalModel) -> None:
    async with httpx.AsyncClient(base_url=model.base_url, trust_env=False) as client:
        version = {"anthropic-version": "2023-06-01"}
        without_key = await client.post("/v1/messages", json=request("x"), headers=version)
        without_version = await client.post("/v1/messages", json=request("x"), headers={"x-api-key": KEY})

    assert without_key.status_code == 401
    assert without_key.json()["error"]["type"] == "authentication_error"
    assert without_version.status_code == 400


async def test_only_the_required_key_opens() -> None:
    model = LocalModel(required_key=KEY)
    await model.start()
    try:
        async with httpx.AsyncClient(base_url=model.base_url, trust_env=False) as client:
            for key, status in ((KEY, 200), ("other", 401)):
                headers = {"x-api-key": key, "anthropic-version": "2023-06-01"}
                response = await client.post("/v1/messages", json=request("x"), headers=headers)
                assert response.status_code == status
                assert key not in response.text
    finally:
        await model.stop()


async def test_the_ledger_tells_what_was_asked_and_holds_no_text(client: httpx.AsyncClient, model: LocalModel) -> None:
    body = request("[[say: secret-text]]", temperature=0.2, max_tokens=77)
    headers = {"X-Claude-Code-Session-Id": "session-1"}
    usage = events((await client.post("/v1/messages", json=body, headers=headers)).text)[-2]["usage"]
    await client.post("/v1/messages/count_tokens", json=body)

    response = await client.get("/ledger")
    first, second = response.json()["calls"]
    assert (first["number"], second["number"]) == (1, 2)
    assert (first["endpoint"], second["endpoint"]) == ("messages", "count_tokens")
    assert first["model"] == "claude-sonnet-4-5"
    assert first["temperature"] == 0.2
    assert first["max_tokens"] == 77
    assert first["stream"] is True
    assert first["session_id"] == "session-1"
    assert first["key_digest"] == hashlib.sha256(KEY.encode()).hexdigest()[:16]
    assert (first["status"], first["outcome"], first["stop_reason"]) == (200, "complete", "end_turn")
    assert first["input_tokens"] == usage["input_tokens"] == second["input_tokens"]
    assert first["output_tokens"] == usage["output_tokens"]
    assert KEY not in response.text
    assert "secret-text" not in response.text
    assert [call.number for call in model.ledger.messages] == [1]


async def test_it_says_what_it_is(client: httpx.AsyncClient, model: LocalModel) -> None:
    assert "development stand-in" in (await client.get("/")).json()["notice"]
    assert model.base_url in model.notice


async def test_a_taken_port_is_an_error(model: LocalModel) -> None:
    port = int(model.base_url.rsplit(":", 1)[1])
    with pytest.raises(OSError, match="address"):
        await LocalModel().start(port=port)
