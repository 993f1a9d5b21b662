"""Failed attempts: counted by source, in bounded memory."""

from __future__ import annotations

import pytest

from cloutagent_server.domain.errors import ApiKeyInvalid, AuthenticationRateLimited
from cloutagent_server.service import attempts
from cloutagent_server.service.attempts import FailedAttempts


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limited(failed: FailedAttempts, source: str) -> int | None:
    """Counts a failure; in how many seconds to come back, or None if the source is within its limit."""
    answer = failed.failure(source)
    assert type(answer) in (ApiKeyInvalid, AuthenticationRateLimited)
    return answer.retry_seconds if isinstance(answer, AuthenticationRateLimited) else None


def test_a_source_is_told_apart_that_passes_its_limit_for_the_first_time(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "SOURCES", 1)
    failed = FailedAttempts(2, clock)

    def firsts(source: str, count: int) -> list[bool]:
        answers = [failed.failure(source) for _ in range(count)]
        return [answer.first for answer in answers if isinstance(answer, AuthenticationRateLimited)]

    assert firsts("a", 5) == [True, False, False]
    clock.now += 31
    assert firsts("a", 3) == [False, False]
    clock.now += 61
    assert firsts("a", 3) == [True]
    assert firsts("b", 3) == [True]
    assert firsts("a", 3) == [True]


def test_the_limit_is_a_minutes_failures_and_refills(clock: Clock) -> None:
    failed = FailedAttempts(20, clock)
    assert [limited(failed, "a") for _ in range(20)] == [None] * 20
    assert limited(failed, "a") == 3
    clock.now += 1
    assert limited(failed, "a") == 2
    clock.now += 2
    assert limited(failed, "a") is None
    assert limited(failed, "a") == 3
    clock.now += 3600
    assert [limited(failed, "a") for _ in range(20)] == [None] * 20
    assert limited(failed, "a") == 3


@pytest.mark.parametrize("per_minute", [1, 7, 20, 60, 1000])
def test_who_comes_back_when_told_is_within_the_limit(clock: Clock, per_minute: int) -> None:
    failed = FailedAttempts(per_minute, clock)
    for _ in range(50):
        wait = limited(failed, "a")
        if wait is not None:
            assert 1 <= wait <= 60
            clock.now += wait
            assert limited(failed, "a") is None


def test_a_refusal_is_what_the_next_failure_meets_and_counts_nothing(clock: Clock) -> None:
    failed = FailedAttempts(2, clock)
    for _ in range(2):
        assert failed.refusal("a") is None
        assert limited(failed, "a") is None
    for _ in range(3):
        refusal = failed.refusal("a")
        assert refusal is not None and refusal.retry_seconds == 30
    assert failed.refusal("b") is None
    clock.now += 30
    assert failed.refusal("a") is None
    assert limited(failed, "a") is None


def test_sources_do_not_count_for_each_other(clock: Clock) -> None:
    failed = FailedAttempts(1, clock)
    assert limited(failed, "a") is None
    assert limited(failed, "b") is None
    assert limited(failed, "a") == 60


def test_of_too_many_sources_the_one_that_failed_longest_ago_is_forgotten(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "SOURCES", 2)
    failed = FailedAttempts(1, clock)
    for source in "ab":
        assert limited(failed, source) is None
    assert limited(failed, "a") == 60
    assert limited(failed, "c") is None
    assert limited(failed, "a") == 60
    assert limited(failed, "b") is None
