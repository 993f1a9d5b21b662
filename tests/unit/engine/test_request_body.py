"""A body is read once and says the same to the vendor; what would take the server's memory is refused before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloutagent_server.domain.project import AgentConfig
from cloutagent_server.engine import request_body
from cloutagent_server.engine.request_body import BadBody, read_body

MODEL = "claude-sonnet-4-5"
CONFIG = AgentConfig("", "agent", "system", MODEL, temperature=1, max_tokens=1000)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(messages=VALUES, system=VALUES, ascii_only=st.booleans())
def test_what_goes_out_says_the_same(messages: Any, system: Any, ascii_only: bool) -> None:
    document = {"model": MODEL, "messages": messages, "system": system, "stream": True}
    body = read_body(json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass"))
    assert json.loads(body.whole()) == document
    assert json.loads(body.counted()) == {"model": MODEL, "messages": messages, "system": system}
    sent = json.loads(body.configured(CONFIG, 5).whole())
    assert sent == {**document, "temperature": 1, "max_tokens": 5}


def test_half_a_pair_of_surrogates_is_escaped() -> None:
    body = read_body(b'{"model":"m","messages":"\\ud800"}')
    assert body.whole() == b'{"model":"m","messages":"\\ud800"}'


def test_a_bound_of_text_is_what_goes_out_of_it() -> None:
    body = read_body(json.dumps({"model": "m", "system": "ä" * 10, "messages": []}).encode())
    assert body.text_bytes == len('{"system":"ääääääääää","messages":[]}'.encode())


def test_what_the_vendor_adds_depends_on_all_but_text() -> None:
    def added(**extra: Any) -> str | None:
        return read_body(json.dumps({"model": "m", "messages": [], **extra}).encode()).added_for

    assert added() is added(tools=[], thinking={"type": "disabled"}, cache_control={"type": "ephemeral"}) is None
    others = [
        added(tools=[{"name": "a"}]),
        added(tools=[{"name": "b"}]),
        added(tools=[{"name": "b"}], model="n"),
        added(thinking={"type": "adaptive"}),
        added(output_config={"effort": "low"}),
    ]
    assert None not in others and len(set(others)) == len(others)
    assert added(tools=[{"name": "a"}], messages=["x"]) == others[0]


def test_thinking_that_is_dropped_is_not_counted() -> None:
    body = read_body(b'{"model":"claude-sonnet-4-5","messages":[],"thinking":{"type":"enabled","budget_tokens":9}}')
    configured = body.configured(CONFIG, 5)
    assert body.added_for is not None
    assert configured.added_for is None
    assert b"thinking" not in configured.counted()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b'{"model":NaN}',
        b'{"messages":[1e999]}',
        b'{"messages":' + b"9" * 5000 + b"}",
        b'{"thinking":{"type":[]}}',
        b'{"thinking":[]}',
        b'{"messages":' + b"[" * 100_000,
        b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"messages":' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
        b"\xff\xfe{}",
    ],
)
def test_what_is_no_request_is_refused(raw: bytes) -> None:
    with pytest.raises(BadBody):
        read_body(raw)


@pytest.fixture
def few_parts() -> Iterator[int]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(request_body, "MOST_PARTS", 100)
        patch.setattr(request_body, "_STEP", 7)
        yield 100


@pytest.mark.parametrize("part", ["[]", "{}", '""', '{"a":1}', "1"])
def test_many_parts_are_refused_before_they_are_read(few_parts: int, part: str) -> None:
    def body(parts: int) -> bytes:
        return b'{"messages":[' + b",".join([part.encode()] * parts) + b"]}"

    read_body(body(few_parts // 5))
    with pytest.raises(BadBody, match="too many parts"):
        read_body(body(few_parts))


@pytest.mark.parametrize(
    "text", ["[{,:" * 100, '\\"' * 200, "\\\\" * 200, "a" * 500, '\\"[,' * 100, "\\u005b" * 60, '[\\\\\\"{' * 60]
)
def test_what_stands_in_a_string_is_no_part(few_parts: int, text: str) -> None:
    read_body(b'{"messages":["' + text.encode() + b'","' + text.encode() + b'"]}')
    with pytest.raises(BadBody, match="too many parts"):
        read_body(b'{"messages":["' + text.encode() + b'",' + b"1," * few_parts + b"1]}")


def test_a_string_without_an_end_is_no_request(few_parts: int) -> None:
    for text in (b'"' + b'\\"' * 500, b'"' + b"[" * 500, b'"' + b"[" * 500 + b"\\"):
        with pytest.raises(BadBody):
            read_body(b'{"messages":' + text)
