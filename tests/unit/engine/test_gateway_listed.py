"""What goes through the gateway is listed: nothing else of an agent's request reaches the vendor."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from cloutagent_server.engine import messages_api
from tests.support.gateway_stage import KEY, MODEL, running
from tests.support.messages import answering, running_upstream, stream_events, streaming

# What the agent's command line (2.1.330) sends with tools, thinking and a model that takes turns of the system's.
COMMAND_LINE_BETAS = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
    "thinking-token-count-2026-05-13,effort-2025-11-24,thinking-display-updates-2026-08-18,"
    "per-turn-control-2026-07-01,mid-conversation-tool-changes-2026-07-01"
)
COMMAND_LINE_BODY: dict[str, Any] = {
    "model": "claude-sonnet-5",
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]},
        {"role": "system", "content": [{"type": "text", "text": "env"}], "output_config": {"effort": "medium"}},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "…", "signature": "s"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x", "is_error": False}]},
    ],
    "system": [{"type": "text", "text": "You are an agent."}],
    "tools": [{"name": "Bash", "description": "d", "input_schema": {"type": "object"}}],
    "tool_choice": {"type": "auto"},
    "metadata": {"user_id": "{}"},
    "max_tokens": 1000,
    "thinking": {"type": "adaptive", "display": "updates"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "stream": True,
}


async def test_what_the_command_line_sends_goes_through_as_it_is() -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        headers = {"x-api-key": run.session.token, "anthropic-beta": COMMAND_LINE_BETAS}
        async with run.post(COMMAND_LINE_BODY, headers=headers) as answer:
            assert answer.status == 200
        (received,), (planned,) = run.upstream.received, run.listener.planned
        assert received.body == COMMAND_LINE_BODY
        assert received.headers["anthropic-beta"] == COMMAND_LINE_BETAS
        assert planned.unbounded is None


@pytest.mark.parametrize(
    "extra",
    [
        {"fallbacks": "default"},
        {"fallbacks": [{"model": "claude-opus-4-1", "max_tokens": 32_000}]},
        {"compaction": {"type": "auto"}},
        {"thread": {"id": "thr_1"}},
        {"mcp_servers": [{"type": "url"}]},
        {"container": "c1"},
        {"speed": "fast"},
        {"user_profile_id": "u"},
        {"anything": {"the": "next change brings"}},
    ],
)
async def test_a_field_that_is_not_listed_does_not_go_out(extra: dict[str, Any]) -> None:
    body = {"model": MODEL, "max_tokens": 5, "messages": [], **extra}
    async with running(streaming(stream_events(1, 1))) as run:
        for path in (messages_api.MESSAGES_PATH, messages_api.COUNT_TOKENS_PATH):
            async with run.post(body, path) as answer:
                assert answer.status == 200
        for received in run.upstream.received:
            assert not received.body.keys() & extra.keys()


async def test_within_a_field_only_what_is_listed_goes_out() -> None:
    extra = {
        "metadata": {"user_id": "u", "tags": {"billing_group": "other"}},
        "output_config": {"effort": "low", "speed": "fast"},
    }
    async with running(streaming(stream_events(1, 1))) as run:
        async with run.post({"model": MODEL, "max_tokens": 5, "messages": [], **extra}) as answer:
            await answer.read()
        (received,) = run.upstream.received
        assert received.body["metadata"] == {"user_id": "u"}
        assert received.body["output_config"] == {"effort": "low"}


TOOL = {"type": "tool_definition", "definition": {"type": "web_search_20260209", "name": "web_search"}}


@pytest.mark.parametrize(
    "extra",
    [
        {"compaction": {"type": "auto"}},
        {"thread": {"id": "thr_1"}},
        {"context_management": {"edits": [{"type": "compact_20260112"}]}},
        {"context_management": {"edits": [{"type": "clear_thinking_20251015"}, {}]}},
        {"context_management": "all"},
        {"context_management": {"edits": [], "compaction": {}}},
        {"messages": [{"role": "system", "content": "x", "output_config": {"speed": "fast"}}]},
        {"messages": [{"role": "system", "content": "x", "output_config": "fast"}]},
        {"messages": [{"role": "system", "content": [{"type": "tool_addition", "tool": TOOL}]}]},
        {"messages": [{"role": "user", "content": "x", "tools": [TOOL]}]},
        {"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "new"}]}]}]},
        {"messages": [{"role": "user", "content": [{"type": ["text"]}]}]},
        {"messages": [{"role": "user", "content": ["text"]}]},
        {"messages": ["text"]},
        {"system": [{"type": "tool_addition", "tool": TOOL}]},
    ],
)
async def test_what_may_be_billed_beside_the_input_is_told_to_the_budget(extra: dict[str, Any]) -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        async with run.post({"model": MODEL, "max_tokens": 5, "messages": [], **extra}) as answer:
            await answer.read()
        (planned,) = run.listener.planned
        assert planned.unbounded is not None
        assert planned.input_bound is None


@pytest.mark.parametrize(
    "beta",
    [
        "server-side-fallback-2026-06-01",
        "fast-mode-2026-02-01",
        "context-1m-2025-08-07",
        "inline-tools-2026-09-15",
        "x",
    ],
)
async def test_a_beta_that_is_not_listed_does_not_go_out(beta: str) -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        headers = {"x-api-key": run.session.token, "anthropic-beta": f"{beta}, effort-2025-11-24"}
        async with run.post(headers=headers) as answer:
            await answer.read()
        async with run.post(headers={**headers, "anthropic-beta": beta}) as answer:
            await answer.read()
        assert [received.headers.get("anthropic-beta") for received in run.upstream.received] == [
            "effort-2025-11-24",
            None,
        ]


async def test_a_header_that_is_not_listed_does_not_go_out() -> None:
    listed = {
        "accept": "application/json",
        "user-agent": "claude-cli/2.1.330",
        "x-app": "cli",
        "x-stainless-retry-count": "1",
        "x-claude-code-session-id": "s",
    }
    others = {
        "x-litellm-tags": "a",
        "anthropic-workspace-id": "w",
        "anthropic-user-profile-id": "u",
        "anthropic-version": "2023-01-01",
        "content-type": "text/plain",
        "x-forwarded-for": "1.2.3.4",
        "cookie": "a=b",
    }
    async with running(streaming(stream_events(1, 1))) as run:
        headers = {"x-api-key": run.session.token, **listed, **others}
        async with run.post(headers=headers) as answer:
            await answer.read()
        received = dict(run.upstream.received[0].headers)
        for hop in ("host", "content-length", "transfer-encoding"):
            received.pop(hop, None)
        assert received == {
            **listed,
            "anthropic-version": "2023-06-01",
            "content-type": "application/json",
            "accept-encoding": "identity",
            "x-api-key": KEY,
        }


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("/v1/messages", "/v1/messages"),
        ("/v1/messages?beta=true", "/v1/messages?beta=true"),
        ("/v1/messages?beta=true&evil=/../..", "/v1/messages?beta=true"),
        ("/v1/messages?x=1", "/v1/messages"),
        ("/v1/%6Dessages", None),
        ("/v1/messages%2Fcount_tokens", None),
        ("/v1/messages/%2e%2e/files", None),
    ],
)
async def test_the_address_is_the_gateways_own(written: str, sent: str | None) -> None:
    async with running(streaming(stream_events(1, 1))) as run:
        url = URL(run.session.base_url + written, encoded=True)
        body = {"model": MODEL, "max_tokens": 5, "messages": []}
        async with run.http.post(url, json=body, headers={"x-api-key": run.session.token}) as answer:
            assert answer.status == (404 if sent is None else 200)
        assert [received.path for received in run.upstream.received] == ([] if sent is None else [sent])


async def test_a_redirect_takes_the_key_nowhere() -> None:
    async def away(request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"location": f"{elsewhere.url}/steal"})

    async with running_upstream(answering({"input_tokens": 1})) as elsewhere, running(away) as run:
        async with run.post() as answer:
            assert (answer.status, answer.headers.get("location")) == (307, None)
        (planned,) = run.listener.planned
        assert await planned.count_input() is None
        async with run.post(path=messages_api.COUNT_TOKENS_PATH) as answer:
            assert answer.status == 307
        assert elsewhere.received == []


@pytest.mark.parametrize("packing", ["deflate", "gzip"])
async def test_a_packed_body_is_none(packing: str) -> None:
    plain = json.dumps({"model": MODEL, "messages": []}).encode()
    packed = gzip.compress(plain) if packing == "gzip" else zlib.compress(plain)
    async with running(streaming([])) as run:
        headers = {"x-api-key": run.session.token, "content-encoding": packing}
        url = run.session.base_url + messages_api.MESSAGES_PATH
        async with run.http.post(url, data=packed, headers=headers) as answer:
            assert answer.status == 400
        assert run.upstream.received == []
