"""Templates: filled once, never expanded again, and clear about what is no reference."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloutagent_server.domain.errors import InvalidRequest
from cloutagent_server.service.template import parse

NAMES = st.sampled_from(["a", "b", "_1", "A_b", "timestamp", "secret"])
ANY_TEXT = st.text(alphabet="{}ab: \n_1", max_size=40)
# A literal that is written with `{{` doubled. One that ends in `{` would run into the mark after it.
LITERALS = st.text(alphabet="{}ab: \n", max_size=12).filter(lambda text: not text.endswith("{"))


def written(literal: str) -> str:
    return literal.replace("{{", "{{{{")


def violations(text: str) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as caught:
        parse(text, "prompt")
    return [(violation.field, violation.description) for violation in caught.value.violations]


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("", ""),
        ("no reference", "no reference"),
        ("{{a}}", "A"),
        ("{{ a }}", "A"),
        ("{{\na\t}}", "A"),
        ("x{{a}}y{{b}}z", "xAyBz"),
        ("{{a}}{{a}}", "AA"),
        ("{{secret:K}}", "S"),
        ("{{ secret:K }}", "S"),
        ("{{secret}}", "plain"),
        ("{{{{", "{{"),
        ("{{{{a}}", "{{a}}"),
        ("{{{{{{a}}", "{{A"),
        ("{{{{{{{{", "{{{{"),
        ("{{a}}}}", "A}}"),
        ("}}", "}}"),
        ("{a}", "{a}"),
        ("{ {a} }", "{ {a} }"),
        ('{"json": {"a": 1}}', '{"json": {"a": 1}}'),
    ],
)
def test_fill(text: str, filled: str) -> None:
    variables = {"a": "A", "b": "B", "secret": "plain"}
    assert parse(text, "prompt").fill(variables, {"K": "S"}) == filled


@pytest.mark.parametrize(
    "text",
    [
        "{{",
        "{{}}",
        "{{ }}",
        "{{a",
        "{{a}",
        "{{1a}}",
        "{{a b}}",
        "{{a-b}}",
        "{{ä}}",
        "{{secret:}}",
        "{{secret: K}}",
        "{{secret:a:b}}",
        "{{other:K}}",
        "{{{a}}}",
        "{{a{{b}}",
        "{{" + "a" * 129 + "}}",
    ],
)
def test_what_is_no_reference_is_refused_and_the_field_named(text: str) -> None:
    found = violations(f"before {text} after")
    assert [field for field, _ in found] == ["prompt"]
    assert "{{{{" in found[0][1]


def test_every_fault_is_told_at_once_and_in_order() -> None:
    found = violations("{{1}} {{ok}} {{2}} {{3")
    assert [re.findall(r"\d", description)[0] for _, description in found] == ["1", "2", "3"]


def test_of_many_faults_the_first_ones_are_told() -> None:
    found = violations("".join(f"{{{{{number}}}}}" for number in range(1000)))
    assert len(found) == 10
    assert "{{9}}" in found[-1][1]


def test_a_fault_shows_only_the_start_of_a_long_text() -> None:
    assert len(violations("{{" + "secret words " * 1000)[0][1]) < 120


def test_parse_tells_what_the_text_refers_to() -> None:
    template = parse("{{a}} {{secret:K}} {{timestamp}} {{a}} {{{{b}}", "prompt")
    assert template.variables == {"a", "timestamp"}
    assert template.secrets == {"K"}


def test_a_missing_value_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        parse("{{a}}", "prompt").fill({}, {})
    with pytest.raises(KeyError):
        parse("{{secret:a}}", "prompt").fill({"a": "A"}, {})


@pytest.mark.parametrize("text", ["{{a}} " * 100_000, "{{" + "a" * 1_000_000, "{" * 400_000, "{{a" * 300_000])
def test_a_text_of_the_largest_size_is_parsed_in_time(text: str) -> None:
    started = time.process_time()
    with contextlib.suppress(InvalidRequest):
        parse(text, "prompt")
    assert time.process_time() - started < 10


@given(values=st.dictionaries(NAMES, ANY_TEXT, min_size=1, max_size=4), secret=ANY_TEXT, data=st.data())
def test_filling_never_expands_again(values: dict[str, str], secret: str, data: st.DataObject) -> None:
    """Whatever values hold, the result is the literals and the values, joined."""
    pieces = data.draw(st.lists(st.tuples(LITERALS, st.sampled_from([*values, "secret:K"])), max_size=6))
    last = data.draw(LITERALS)
    text = "".join(f"{written(literal)}{{{{{name}}}}}" for literal, name in pieces) + written(last)
    shown = {**values, "secret:K": secret}
    expected = "".join(literal + shown[name] for literal, name in pieces) + last
    assert parse(text, "prompt").fill(values, {"K": secret}) == expected


@given(st.text(alphabet="{}a", max_size=30))
def test_any_literal_can_be_written(literal: str) -> None:
    assert parse(written(literal), "prompt").fill({}, {}) == literal


@given(ANY_TEXT)
def test_any_text_is_parsed_or_refused_with_its_field(text: str) -> None:
    faults: list[str] = []
    filled = ""
    try:
        template = parse(text, "agent.systemPrompt")
        filled = template.fill(dict.fromkeys(template.variables, ""), dict.fromkeys(template.secrets, ""))
    except InvalidRequest as fault:
        faults = [violation.field for violation in fault.violations]
    assert set(faults) <= {"agent.systemPrompt"}
    assert len(filled) <= len(text)
