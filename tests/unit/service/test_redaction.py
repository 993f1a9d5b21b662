"""Redaction: no secret comes through, however a stream is cut."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloutagent_server.service.redaction import MAX_DEPTH, REDACTED, TOO_DEEP, Redactor

# Letters that the mark does not have, few of them, so that secrets overlap each other and themselves.
VALUES = st.lists(st.text(alphabet="abc", max_size=5), max_size=4)
TEXTS = st.text(alphabet="abcx", max_size=40)


@pytest.mark.parametrize(
    ("values", "text", "shown"),
    [
        ([], "anything", "anything"),
        ([""], "anything", "anything"),
        (["key"], "a key, the key", f"a {REDACTED}, the {REDACTED}"),
        (["key", "keyring"], "keyring key", f"{REDACTED} {REDACTED}"),
        (["a.c"], "abc a.c", f"abc {REDACTED}"),
        (["(", "\\"], "(\\", REDACTED * 2),
        (["ü\nx"], "ü\nx ü x", f"{REDACTED} ü x"),
        (["key"], "KEY", "KEY"),
    ],
)
def test_text(values: list[str], text: str, shown: str) -> None:
    assert Redactor(values).text(text) == shown


def test_document_redacts_keys_and_values_at_every_depth() -> None:
    document = {
        "cmd": "curl -H key",
        "key": [1, True, None, 2.5, "key", ("key", {"a key": {"deep": "xkeyx"}})],
        "plain": "text",
    }
    assert Redactor(["key"]).document(document) == {
        "cmd": f"curl -H {REDACTED}",
        REDACTED: [1, True, None, 2.5, REDACTED, [REDACTED, {f"a {REDACTED}": {"deep": f"x{REDACTED}x"}}]],
        "plain": "text",
    }


def test_document_redacts_numbers_that_spell_a_secret() -> None:
    document = {"pin": 482_915, "inside": 14_829_157, "price": 4829.5, "other": 7, "flag": True}
    assert Redactor(["482915", "4829.5", "True"]).document(document) == {
        "pin": REDACTED,
        "inside": f"1{REDACTED}7",
        "price": REDACTED,
        "other": 7,
        "flag": True,
    }


def test_document_leaves_what_it_got_unchanged() -> None:
    document = {"a": ["key"]}
    Redactor(["key"]).document(document)
    assert document == {"a": ["key"]}


def test_a_stream_holds_back_only_what_could_become_a_secret() -> None:
    stream = Redactor(["key"]).stream()
    assert [stream.push(piece) for piece in ("a k", "e", "n ke", "y!")] == ["a ", "", "ken ", f"{REDACTED}!"]
    assert stream.flush() == ""


def test_flush_gives_what_did_not_become_a_secret_and_the_stream_can_go_on() -> None:
    stream = Redactor(["key"]).stream()
    assert stream.push("ke") == ""
    assert stream.flush() == "ke"
    assert stream.flush() == ""
    assert stream.push("key.") == f"{REDACTED}."


def test_without_secrets_a_stream_holds_nothing_back() -> None:
    stream = Redactor([""]).stream()
    assert [stream.push(piece) for piece in ("a", "", "b")] == ["a", "", "b"]
    assert stream.flush() == ""


@given(values=VALUES, text=TEXTS, data=st.data())
def test_a_stream_shows_what_redacting_the_whole_shows(values: list[str], text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    redactor = Redactor(values)
    stream = redactor.stream()
    shown = [stream.push(text[start:end]) for start, end in itertools.pairwise([0, *cuts, len(text)])]
    assert "".join(shown) + stream.flush() == redactor.text(text)


@given(values=VALUES, text=TEXTS)
def test_a_stream_of_single_characters_shows_the_same(values: list[str], text: str) -> None:
    redactor = Redactor(values)
    stream = redactor.stream()
    assert "".join(map(stream.push, text)) + stream.flush() == redactor.text(text)


@given(values=VALUES, text=TEXTS)
def test_no_secret_survives(values: list[str], text: str) -> None:
    redactor = Redactor(values)
    stream = redactor.stream()
    shown = stream.push(text)
    for value in filter(None, values):
        assert value not in redactor.text(text)
        assert value not in shown
        assert value not in json.dumps(redactor.document({text: [text]}))


def test_the_beginning_of_a_value_that_was_cut_off_is_redacted() -> None:
    redactor = Redactor(["a-long-secret-value"])
    assert redactor.whole("the token is a-long-secret-va") == "the token is [REDACTED]"
    stream = redactor.stream()
    assert stream.push("the token is a-long-sec") + stream.flush() == "the token is [REDACTED]"
    assert redactor.whole("the token is a-lon") == "the token is a-lon", "so little tells nothing"


def test_what_is_nested_too_deep_is_left_out() -> None:
    document: object = "leaf"
    for _ in range(100):
        document = {"in": document}
    shown = Redactor([]).document(document)
    depth = 0
    while isinstance(shown, dict):
        shown, depth = shown["in"], depth + 1
    assert (shown, depth) == (TOO_DEEP, MAX_DEPTH + 1)
