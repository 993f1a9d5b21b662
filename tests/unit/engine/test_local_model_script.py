"""The directive language of the local model."""

from __future__ import annotations

import pytest

from cloutagent_server.engine.local_model import script
from cloutagent_server.engine.local_model.script import (
    Cut,
    Delay,
    Error,
    FailOnce,
    Garbage,
    Rate,
    ReportUsage,
    Result,
    Say,
    ScriptError,
    Silence,
    Tool,
)
from cloutagent_server.engine.local_model.tokens import count_text


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("[[say: Hello [you] ]]", Say("Hello [you] ")),
        ("[[say:  two\nlines]]", Say(" two\nlines")),
        ('[[tool: Write {"rows": [[1]], "q": "a]] \\" é"}]]', Tool("Write", {"rows": [[1]], "q": 'a]] " é'})),
        ("[[tool: mcp__srv__list-all ]]", Tool("mcp__srv__list-all", {})),
        ("[[result]]", Result()),
        ("[[delay: 200ms]]", Delay(0.2)),
        ("[[delay:1.5s]]", Delay(1.5)),
        ("[[rate: 50/s]]", Rate(50)),
        ("[[usage: input=9 cache_read=5]]", ReportUsage(input=9, cache_read=5)),
        ("[[usage: cache_write=7]]", ReportUsage(cache_write=7)),
        ("[[error: 529]]", Error(529)),
        ("[[error: 429 retry-after=12]]", Error(429, 12)),
        ("[[cut]]", Cut()),
        ("[[garbage]]", Garbage()),
        ("[[silence]]", Silence()),
        ("[[fail-once: 500]]", FailOnce(Error(500))),
        ("[[fail-once: cut]]", FailOnce(Cut())),
    ],
)
def test_a_directive_becomes_its_step(text: str, step: script.Step) -> None:
    assert script.parse(f"before {text} after") == [step]


def test_filler_has_exactly_the_tokens_asked_for() -> None:
    [step] = script.parse("[[tokens: 4999]]")

    assert isinstance(step, Say)
    assert count_text(step.text) == 4999


def test_directives_keep_their_order_and_the_text_around_them_is_ignored() -> None:
    text = 'Do this: [[say: a]] then {{name}} [[tool: T {"k": 1}]], and\n[[say: b]].'

    assert script.parse(text) == [Say("a"), Tool("T", {"k": 1}), Say("b")]


@pytest.mark.parametrize("text", ["", "see [[Page]] and [[note: x]]", "if [[ -f a ]]; then", "[[say]", "[[sayer: x]]"])
def test_other_double_brackets_are_text(text: str) -> None:
    assert script.parse(text) == []


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[[say: open", "say"),
        ("[[say]]", "say"),
        ("[[cut: now]]", "cut"),
        ("[[tool]]", "tool"),
        ("[[tool: {}]]", "tool"),
        ("[[tool: T {]]", "T"),
        ("[[tool: T [1]]]", "T"),
        ("[[tool: T {} {}]]", "T"),
        ("[[tokens: 0]]", "tokens: 0"),
        ("[[tokens: 1000001]]", "tokens: 1000001"),
        ("[[tokens: many]]", "tokens: many"),
        ("[[delay: 1]]", "delay: 1"),
        ("[[delay: 1h]]", "delay: 1h"),
        ("[[delay: 3601s]]", "delay: 3601s"),
        ("[[rate: 0/s]]", "rate: 0/s"),
        ("[[rate: fast]]", "rate: fast"),
        ("[[usage: output=1]]", "usage: output=1"),
        ("[[error: 200]]", "200"),
        ("[[error: soon]]", "soon"),
        ("[[fail-once: never]]", "never"),
    ],
)
def test_a_wrong_argument_is_named(text: str, named: str) -> None:
    with pytest.raises(ScriptError) as raised:
        script.parse(text)

    assert named in str(raised.value)


def test_a_tool_call_ends_a_turn_and_the_rate_outlasts_it() -> None:
    first, call, second, last = Say("a"), Tool("T", {}), Say("b"), Say("c")
    steps: list[script.Step] = [Rate(10), first, call, Rate(20), second, call, last]

    assert script.turn(steps, 0) == [Rate(10), first, call]
    assert script.turn(steps, 1) == [Rate(10), Rate(20), second, call]
    assert script.turn(steps, 2) == [Rate(20), last]
    assert script.turn(steps, 3) == [Rate(20)]
