"""Requests follow the agent's configuration in a form that the vendor takes."""

from __future__ import annotations

from typing import Any

import pytest
from multidict import CIMultiDict

from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine import messages_api


def config(temperature: float = 0.3) -> AgentConfig:
    return AgentConfig("", "agent", "system", "claude-sonnet-4-5", temperature=temperature, max_tokens=1000)


def configured(body: dict[str, Any], temperature: float = 0.3, max_tokens: int = 1000) -> dict[str, Any]:
    document = {"model": "claude-sonnet-4-5", "max_tokens": 32_000, "messages": [], **body}
    messages_api.configure(document, config(temperature), max_tokens)
    return document


def test_the_configured_temperature_is_the_only_sampling_parameter() -> None:
    body = configured({"temperature": 1, "top_p": 0.9, "top_k": 5})
    assert body == {"model": "claude-sonnet-4-5", "max_tokens": 1000, "messages": [], "temperature": 0.3}
    assert configured({}, temperature=0)["temperature"] == 0


@pytest.mark.parametrize(
    "model", ["claude-opus-4-7", "claude-sonnet-5", "claude-haiku-5-5-20261001", "claude-fable-5-1"]
)
def test_a_model_without_sampling_gets_none(model: str) -> None:
    body = configured({"model": model, "temperature": 1, "top_k": 5, "thinking": {"type": "adaptive"}})
    assert not body.keys() & {"temperature", "top_p", "top_k"}
    assert body["thinking"] == {"type": "adaptive"}


@pytest.mark.parametrize(
    "model", ["claude-opus-4", "claude-opus-4-20250514", "claude-opus-4-6", "claude-haiku-4-5-20251001"]
)
def test_a_model_with_sampling_gets_the_temperature(model: str) -> None:
    assert configured({"model": model})["temperature"] == 0.3


@pytest.mark.parametrize(
    ("thinking", "temperature", "kept"),
    [
        ({"type": "disabled"}, 0.3, True),
        ({"type": "enabled", "budget_tokens": 500}, 0.3, False),
        ({"type": "adaptive"}, 0.3, False),
        ({"type": "enabled", "budget_tokens": 500}, 1.0, True),
        ({"type": "enabled", "budget_tokens": 1000}, 1.0, False),
    ],
)
def test_thinking_goes_where_the_vendor_would_refuse_it(
    thinking: dict[str, Any], temperature: float, kept: bool
) -> None:
    assert ("thinking" in configured({"thinking": thinking}, temperature)) is kept


def test_betas_of_several_headers_are_one_list() -> None:
    headers = CIMultiDict([("Anthropic-Beta", "effort-2025-11-24, other"), ("anthropic-beta", "effort-2025-11-24,")])
    headers.add("anthropic-beta", "claude-code-20250219")
    assert messages_api.betas(headers) == ("effort-2025-11-24", "claude-code-20250219")


def test_headers_for_one_hop_stay_behind() -> None:
    headers = {
        "connection": "keep-alive, X-Local",
        "X-Local": "1",
        "Transfer-Encoding": "chunked",
        "Host": "127.0.0.1",
        "Cookie": "a=b",
        "Authorization": "Bearer token",
        "X-Api-Key": "token",
        "anthropic-version": "2023-06-01",
    }
    assert messages_api.request_headers(headers, "key") == {
        "anthropic-version": "2023-06-01",
        "content-type": "application/json",
        "accept-encoding": "identity",
        "x-api-key": "key",
    }
    assert "x-api-key" not in messages_api.request_headers(headers, None)


@pytest.mark.parametrize(
    ("headers", "credential"),
    [
        ({"x-api-key": "t"}, "t"),
        ({"authorization": "Bearer t"}, "t"),
        ({"authorization": "bearer t"}, "t"),
        ({"authorization": "Basic t"}, ""),
        ({}, ""),
    ],
)
def test_credential(headers: dict[str, str], credential: str) -> None:
    assert messages_api.credential(headers) == credential
