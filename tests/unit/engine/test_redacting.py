"""A secret is taken out of a stream wherever it is cut, and nothing else is held back."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloutagent_server.engine.redacting import Redactor, StreamRedactor

SECRET = "ababcabab"


@given(
    parts=st.lists(st.sampled_from([SECRET, "ab", "abab", "c", "x", "ababc"]), max_size=8),
    cuts=st.lists(st.integers(0, 80), max_size=8),
)
def test_cuts_do_not_matter(parts: list[str], cuts: list[int]) -> None:
    data = "".join(parts).encode()
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    stream = StreamRedactor(Redactor(SECRET))
    passed = b"".join(stream.feed(data[start:end]) for start, end in itertools.pairwise(bounds)) + stream.end()
    assert passed == data.replace(SECRET.encode(), b"[redacted]")


def test_only_what_may_begin_the_secret_is_held_back() -> None:
    stream = StreamRedactor(Redactor(SECRET))
    assert stream.feed(b"hello ab") == b"hello "
    assert stream.feed(b"x") == b"abx"
    assert stream.end() == b""


@pytest.mark.parametrize("secret", [None, "", "k", "short"])
def test_what_is_no_key_is_found_nowhere(secret: str | None) -> None:
    redactor = Redactor(secret)
    stream = StreamRedactor(redactor)
    assert redactor.text("a short key") == "a short key"
    assert redactor.data(b"k") == b"k"
    assert stream.feed(b"a short k") + stream.end() == b"a short k"
