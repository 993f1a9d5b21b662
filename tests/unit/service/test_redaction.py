"""Redaction: no secret comes through, however a stream is cut."""

from __future__ import annotations

import base64
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloutagent_server.service import forms as forms_module
from cloutagent_server.service.forms import Form
from cloutagent_server.service.occurrences import Search
from cloutagent_server.service.patterns import ANCHOR_BYTES, Patterns
from cloutagent_server.service.redaction import (
    MAX_DEPTH,
    REDACTED,
    TOO_DEEP,
    RedactedStream,
    Redactor,
)
from tests.support.naive_redaction import forms_of, redacted_naively

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
        (["abcd", "cdef"], "abcdef", REDACTED),
        (["cd", "abcdef"], "abcdef cd", f"{REDACTED} {REDACTED}"),
        (["aa"], "aaaaa.a", f"{REDACTED}.a"),
        (["abcab"], "abcabcab", REDACTED),
        (["bcx", "abcd"], "abcx abcd", f"a{REDACTED} {REDACTED}"),
        (["key"], "keykey", REDACTED * 2),
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


NOT_OF_THE_MARK = st.text(st.characters(codec="utf-8", exclude_characters=set(REDACTED)), min_size=1, max_size=20)
LONG_VALUES = st.lists(st.text(alphabet="ab", max_size=14), max_size=5)
LONG_TEXTS = st.text(alphabet="abx", max_size=60)


@settings(max_examples=300, deadline=None)
@given(values=LONG_VALUES, text=LONG_TEXTS, data=st.data())
def test_everything_agrees_with_the_naive_reading(values: list[str], text: str, data: st.DataObject) -> None:
    """Texts are made of pieces of the values too, so that there is something to find."""
    parts = [text, *(value[: data.draw(st.integers(0, 14))] for value in values), *values]
    whole = "".join(data.draw(st.permutations(parts)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    redactor = Redactor(values)
    assert redactor.text(whole) == redacted_naively(values, whole, cut_off=False)
    assert redactor.whole(whole) == redacted_naively(values, whole, cut_off=True)
    stream = redactor.stream()
    for _ in range(2):  # the second time on the same stream, after a flush
        shown = [stream.push(whole[start:end]) for start, end in itertools.pairwise([0, *cuts, len(whole)])]
        assert "".join(shown) + stream.flush() == redactor.whole(whole)


# Values that are written in many ways, of all lengths that are looked for and compared in another way.
ODD_VALUES = st.lists(
    st.sampled_from(["a", "ab", 'a"', "a/&\n", "aé😀", "+/ a"]).flatmap(
        lambda alphabet: st.text(alphabet=alphabet, min_size=1, max_size=120)
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=60, deadline=None)
@given(values=ODD_VALUES, data=st.data())
def test_parts_of_all_forms_agree_with_the_naive_reading(values: list[str], data: st.DataObject) -> None:
    forms = st.sampled_from(sorted({form for value in values for form in forms_of(value)}))
    whole = ""
    for _ in range(data.draw(st.integers(1, 5))):
        form = data.draw(forms)
        start = data.draw(st.sampled_from([0, 0, len(form) // 3]))
        whole += form[start : data.draw(st.sampled_from([len(form), len(form) - 1, len(form) // 2]))]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    redactor = Redactor(values)
    assert redactor.text(whole) == redacted_naively(values, whole, cut_off=False)
    assert redactor.whole(whole) == redacted_naively(values, whole, cut_off=True)
    stream = redactor.stream()
    shown = [stream.push(whole[start:end]) for start, end in itertools.pairwise([0, *cuts, len(whole)])]
    assert "".join(shown) + stream.flush() == redactor.whole(whole)


@given(value=st.text(min_size=1, max_size=60), size=st.integers(1, 70))
def test_the_beginning_of_a_form_is_that_of_all_of_it(value: str, size: int) -> None:
    forms = list(forms_module.forms_of(value))
    for form, (same, shared, all_of_it) in zip(forms, forms_module.beginnings_of(forms, size), strict=True):
        whole = form.write(form.value).encode()
        assert same is form
        assert form.beginning(size) == (whole[:size], len(whole) <= size) == (shared, all_of_it)


def test_the_forms_of_a_value_are_those_of_the_naive_reading() -> None:
    for value in (WRITTEN, " \x7f\x00\t'=+~%2f\u2028\U0010ffff\n", "x" * 1024, "é" * 5000, "plain-value_1.~"):
        assert {form.write(form.value) for form in forms_module.forms_of(value)} == set(forms_of(value))


def test_making_a_redactor_writes_no_more_than_the_beginning_of_a_value() -> None:
    """What it costs is the number of values, not their length; what it keeps is bounded for each form."""
    written: list[int] = []

    def write(part: str) -> str:
        written.append(len(part))
        return part

    patterns = Patterns([Form(f"{number}-" + "x&" * 30_000, write) for number in range(100)])
    assert max(written) == ANCHOR_BYTES
    assert patterns.words <= 100 * ANCHOR_BYTES
    # Text that has no more of a value does not change that, and what has more does so in proportion.
    search = Search(patterns)
    search.push(b"nothing of them " * 1000)
    assert max(written) == ANCHOR_BYTES
    search.push(b"7-" + b"x&" * 200)
    assert sum(written[100:]) <= 8 * 402
    search.push(b"x&" * 29_800 + b".")
    assert search.held == b""


def test_values_that_begin_alike_are_told_apart_however_late() -> None:
    values = [f"{'a' * 5000}{number:02}" for number in range(30)]
    redactor = Redactor(values)
    assert redactor.whole(f"it is {values[7]}, {'a' * 5000}!") == f"it is {REDACTED}, {'a' * 5000}!"


def test_a_value_within_another_is_found_wherever_it_ends() -> None:
    """Also where it ends just where the other was written to until then."""
    text = "".join(f"{number:04}" for number in range(100))
    redactor = Redactor([text[:size] for size in (*range(80, 200), 400)])
    for size in range(80, 200):
        assert redactor.text(f"{text[:size]}!") == f"{REDACTED}!"
        assert redactor.text(f"{text[:size]}-{text}") == f"{REDACTED}-{REDACTED}"


@given(text=st.text(st.characters(categories=["Cs", "Ll"]), max_size=30), at=st.integers(0, 30))
def test_half_of_a_surrogate_pair_comes_through(text: str, at: int) -> None:
    """Agents may write such texts; they are no UTF-8."""
    redactor = Redactor(["KEY"])
    stream = redactor.stream()
    assert stream.push(text[:at] + "KEY") + stream.push(text[at:]) + stream.end() == text[:at] + REDACTED + text[at:]


@settings(max_examples=200, deadline=None)
@given(value=NOT_OF_THE_MARK, before=st.text(max_size=3), after=st.text(max_size=3))
def test_a_value_is_found_in_json_texts_of_every_kind(value: str, before: str, after: str) -> None:
    redactor = Redactor([value])
    for ascii_only in (True, False):
        redacted = redactor.text(json.dumps({before: [value, after]}, ensure_ascii=ascii_only))
        for form in (value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]):
            assert form not in redacted


@pytest.mark.parametrize(
    "written",
    [
        r"p\"w\\\n\u00fc\ud83d\ude00",
        r"p\"w\\\nü😀",
        r"p\"w\\\n\u00FC\uD83D\uDE00",
        r"p\u0022w\u005c\u000a\u00fc\ud83d\ude00",
        r"p\u0022w\u005C\u000A\u00FC\uD83D\uDE00",
    ],
)
def test_a_value_with_quotes_newlines_and_other_letters_is_found_as_json_writes_it(written: str) -> None:
    value = 'p"w\\\nü😀'
    assert json.loads(f'"{written}"') == value
    tool_input = f'{{"command": "login {written}"}}'
    assert Redactor([value]).document({"json": tool_input}) == {"json": f'{{"command": "login {REDACTED}"}}'}
    stream = Redactor([value]).stream()
    assert "".join(map(stream.push, tool_input)) + stream.flush() == f'{{"command": "login {REDACTED}"}}'


@settings(deadline=None)
@given(before=st.binary(max_size=7), value=st.text(min_size=12, max_size=40), after=st.binary(max_size=7))
def test_no_more_than_the_ends_of_a_value_show_in_base64(before: bytes, value: str, after: bytes) -> None:
    redactor = Redactor([value])
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        shown = redactor.text(encode(before + value.encode() + after).decode())
        assert REDACTED in shown
        assert len(shown) <= len(REDACTED) + 4 * (len(before) + len(after)) // 3 + 8


WRITTEN = "a&<b>/\"c\\'=\nü😀 +"


@pytest.mark.parametrize(
    "written",
    [
        r"a\u0026\u003cb\u003e/\"c\\'=\nü😀 +",
        r"a\u0026\u003cb\u003e/\"c\\\u0027\u003d\nü😀 +",
        r"a&<b>\/\"c\\'=\n\u00fc\ud83d\ude00 +",
        r"a&<b>\/\"c\\'=\nü😀 +",
        json.dumps(json.dumps(WRITTEN))[1:-1],
        json.dumps(json.dumps(WRITTEN, ensure_ascii=False), ensure_ascii=False)[1:-1],
        json.dumps(json.dumps(WRITTEN, ensure_ascii=False))[1:-1],
        json.dumps(r"a\u0026\u003cb\u003e/\"c\\'=\nü😀 +", ensure_ascii=False)[1:-1],
        json.dumps(r"a&<b>\/\"c\\'=\n\u00fc\ud83d\ude00 +").replace("/", r"\/")[1:-1],
        "a%26%3Cb%3E%2F%22c%5C%27%3D%0A%C3%BC%F0%9F%98%80%20%2B",
        "a%26%3cb%3e%2f%22c%5c%27%3d%0a%c3%bc%f0%9f%98%80%20%2b",
        "a%26%3Cb%3E/%22c%5C%27%3D%0A%C3%BC%F0%9F%98%80%20%2B",
        "a%26%3Cb%3E%2F%22c%5C%27%3D%0A%C3%BC%F0%9F%98%80+%2B",
        "a%26%3Cb%3E%2F%22c%5C'%3D%0A%C3%BC%F0%9F%98%80%20%2B",
        "a&%3Cb%3E/%22c%5C'=%0A%C3%BC%F0%9F%98%80%20+",
    ],
)
def test_a_value_is_found_as_others_write_it(written: str) -> None:
    """Go, Gson, PHP, JSON within JSON, and URLs as several languages make them."""
    redactor = Redactor([WRITTEN])
    # The quotes of the JSON text within are no part of the value.
    shown = redactor.whole(f"[{written}]").replace('\\"', "")
    assert shown == f"[{REDACTED}]"
    stream = redactor.stream()
    assert ("".join(map(stream.push, f"[{written}]")) + stream.flush()).replace('\\"', "") == shown


@pytest.mark.parametrize("value", ["a-secret\n", " \ta-secret", "a-secret\r\n"])
def test_white_space_around_a_value_may_be_missing(value: str) -> None:
    """Files are often stored with the line end that they have."""
    redactor = Redactor([value])
    assert redactor.whole("it is a-secret, ok") == f"it is {REDACTED}, ok"
    assert redactor.whole(f"it is{value}") == f"it is{REDACTED}"
    assert Redactor(["a-secret-value\n"]).text(base64.b64encode(b"a-secret-value").decode()).startswith(REDACTED)
    assert Redactor([" \n"]).text("a \nb c") == f"a{REDACTED}b c"


@settings(max_examples=60, deadline=None)
@given(
    before=st.binary(max_size=60),
    value=st.text(min_size=12, max_size=200),
    columns=st.sampled_from([1, 64, 70, 76]),
    line_end=st.sampled_from(["\n", "\r\n", "\r", r"\n", r"\r\n"]),
    data=st.data(),
)
def test_no_more_than_the_ends_of_a_value_show_in_wrapped_base64(
    before: bytes, value: str, columns: int, line_end: str, data: st.DataObject
) -> None:
    encoded = base64.b64encode(before + value.encode()).decode()
    text = line_end.join(encoded[at : at + columns] for at in range(0, len(encoded), columns))
    shown = Redactor([value]).whole(text)
    assert REDACTED in shown
    assert len("".join(shown.split(line_end))) <= len(REDACTED) + 4 * len(before) // 3 + 8
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    stream = Redactor([value]).stream()
    pieces = [stream.push(text[start:end]) for start, end in itertools.pairwise([0, *cuts, len(text)])]
    assert "".join(pieces) + stream.flush() == shown


def test_wrapped_base64_that_was_cut_off_is_redacted_and_empty_lines_end_it() -> None:
    value = "a-long-secret-value-of-some-length"
    encoded = base64.b64encode(value.encode()).decode()
    redactor = Redactor([value])
    assert redactor.whole(f"{encoded[:10]}\n{encoded[10:20]}") == REDACTED
    apart = f"{encoded[:20]}\n\n{encoded[20:]}"
    assert redactor.whole(apart) == apart


def test_what_is_found_within_the_beginning_of_a_value_waits_for_the_rest_of_it() -> None:
    value = "a-long-secret-value-of-some-length!!"
    encoded = base64.b64encode(value.encode()).decode()
    redactor = Redactor([value, encoded[4:8]])
    for rest, shown in ((encoded[20:], REDACTED), ("!", f"{encoded[:2]}\n{encoded[2:4]}{REDACTED}{encoded[8:20]}!")):
        stream = redactor.stream()
        assert stream.push(f"{encoded[:2]}\n{encoded[2:20]}") == ""
        assert stream.push(rest) + stream.flush() == shown


def test_what_is_held_back_of_wrapped_text_is_bounded() -> None:
    value = "a-long-secret-value-of-some-length"
    stream = Redactor([value]).stream()
    encoded = base64.b64encode(value.encode()).decode()
    for piece in ("\n" * 1000, encoded[:9], "\n" * 1000, *("\n" + character for character in encoded[:40])):
        stream.push(piece)
        assert stream.held <= 5 * len(encoded)


@pytest.mark.no_cover
def test_many_lines_and_large_values_take_time_in_proportion() -> None:
    value = "a-long-secret-value-of-some-length/&" * 100
    encoded = base64.b64encode(value[:36].encode()).decode()
    redactor = Redactor([value, value[:36], value * 18])
    text = (encoded[:30] + "\n") * 20_000 + "\n".join(encoded) + "\n" * 100_000
    assert REDACTED in redactor.whole(text)


def test_base64_of_short_and_of_large_values_is_left_alone() -> None:
    for value in ("x" * 11, "x" * 1025):
        encoded = base64.b64encode(value.encode()).decode()
        assert Redactor([value]).text(encoded) == encoded


def test_what_is_held_back_is_bounded_by_the_longest_value() -> None:
    """Also where values overlap without an end: the mark is shown once, and the rest is dropped."""

    def held(stream: RedactedStream) -> int:
        return stream.held

    stream = Redactor(["aaaa"]).stream()
    shown = ""
    for _ in range(1000):
        shown += stream.push("a")
        assert held(stream) <= 4
    assert shown == REDACTED
    assert stream.push("b") + stream.flush() == "b"


REPETITIVE = ["a" * 4096, *("a" * at + "b" + "a" * (4095 - at) for at in range(0, 3990, 210))]


@pytest.mark.no_cover
@pytest.mark.parametrize("period", ["a", "a" * 4095 + "b", "a" * 3000 + "c"])
def test_long_repetitive_values_take_no_more_than_one_look_at_each_character(period: str) -> None:
    """Looked for one by one, they would take thousands of times as many steps, and the test far beyond its time."""
    assert len(REPETITIVE) == 20
    text = period * (60_000 // len(period)) + "!"
    redactor = Redactor(REPETITIVE)
    shown = redactor.whole(text)
    stream = redactor.stream()
    pieces = [stream.push(text[at : at + 100]) for at in range(0, len(text), 100)]
    assert "".join(pieces) + stream.flush() == shown
    assert shown.endswith("!")
    assert (REDACTED in shown) is ("c" not in period)
