"""When a client tries again: bounded, after growing pauses by chance, and never what is not safe. On a fake clock."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloutagent import RetryPolicy
from cloutagent._retry import Attempts, Reconnects, passes_by
from cloutagent.errors import ApiError, DeadlineExceededError, NotFoundError, UnavailableError

policies = st.builds(
    RetryPolicy,
    attempts=st.integers(1, 8),
    first_delay=st.floats(0.01, 1),
    longest_delay=st.floats(1, 60),
    outage=st.floats(0, 600),
)
chances = st.floats(0, 1, exclude_max=True)
delays = st.none() | st.floats(0, 100)


@dataclass
class FakeClock:
    """A clock that the test sets."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def unavailable(retry_delay: float | None = None) -> UnavailableError:
    """A failure that passes by."""
    return UnavailableError("away", code="UNAVAILABLE", retry_delay=retry_delay)


def tried(pauses: Attempts | Reconnects, clock: FakeClock, failure: ApiError, most: int = 10_000) -> list[float]:
    """The pauses until the failure, or that the time is up, is raised."""
    made: list[float] = []

    def fail_on() -> None:
        for _ in range(most):
            made.append(pauses.pause(failure))
            clock.now += made[-1]

    with pytest.raises((type(failure), DeadlineExceededError)):
        fail_on()
    return made


@given(policies, st.integers(1, 1000), delays, chances)
def test_a_pause_lies_within_its_bounds(policy: RetryPolicy, failures: int, asked: float | None, draw: float) -> None:
    pause = policy.pause(failures, asked, draw)
    own = min(policy.longest_delay, policy.first_delay * 2 ** (failures - 1))
    if asked is None:
        assert own / 2 <= pause <= own
    else:
        assert asked <= pause <= max(own, asked * 1.25)


@given(policies, chances)
def test_pauses_grow(policy: RetryPolicy, draw: float) -> None:
    pauses = [policy.pause(failures, None, draw) for failures in range(1, 20)]
    assert pauses == sorted(pauses)


@settings(deadline=None)
@given(policies, chances, st.floats(0.001, 300), st.none() | st.floats(0.01, 100))
def test_a_call_is_made_as_often_as_the_policy_says_and_never_beyond_its_deadline(
    policy: RetryPolicy, draw: float, timeout: float, asked: float | None
) -> None:
    clock = FakeClock()
    attempts = Attempts(policy, timeout, repeatable=True, clock=clock, draw=lambda: draw)
    assert len(tried(attempts, clock, unavailable(asked))) <= policy.attempts - 1
    assert clock.now <= 1000 + timeout


def test_a_call_with_time_enough_is_made_the_whole_number_of_times() -> None:
    clock = FakeClock()
    attempts = Attempts(RetryPolicy(), 30, repeatable=True, clock=clock, draw=lambda: 0.0)
    assert tried(attempts, clock, unavailable()) == [0.05, 0.1, 0.2, 0.4, 0.8]


def test_a_patient_call_is_made_until_its_time_is_up() -> None:
    clock = FakeClock()
    attempts = Attempts(RetryPolicy(), 300, repeatable=True, patient=True, clock=clock)
    tried(attempts, clock, unavailable())
    assert 1290 < clock.now < 1300


def test_a_call_that_is_not_safe_is_made_once() -> None:
    clock = FakeClock()
    assert tried(Attempts(RetryPolicy(), 30, repeatable=False, clock=clock), clock, unavailable()) == []


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (ApiError("m", code="UNAVAILABLE"), True),
        (ApiError("m", code="INTERNAL"), True),
        (ApiError("m", code="CANCELLED"), True),
        (ApiError("m", code="UNAVAILABLE", reason="SERVER_UNAVAILABLE", retry_delay=5), True),
        (ApiError("m", code="RESOURCE_EXHAUSTED", reason="QUEUE_FULL", retry_delay=5), True),
        (ApiError("m", code="INTERNAL", reason="INTERNAL_ERROR"), False),
        (ApiError("m", code="RESOURCE_EXHAUSTED"), False),
        (ApiError("m", code="UNKNOWN"), False),
        (ApiError("m", code="DEADLINE_EXCEEDED"), False),
        (ApiError("m", code="NOT_FOUND", reason="PROJECT_NOT_FOUND"), False),
        (ApiError("m", code="ABORTED", reason="REVISION_CONFLICT"), False),
    ],
    ids=lambda value: f"{value.code}-{value.reason}" if isinstance(value, ApiError) else None,
)
def test_what_passes_by(failure: ApiError, expected: bool) -> None:
    assert passes_by(failure) is expected


def watching(clock: FakeClock, timeout: float | None = None, policy: RetryPolicy | None = None) -> Reconnects:
    """A watch's patience."""
    return Reconnects(policy or RetryPolicy(), timeout, clock=clock, draw=lambda: 0.5)


def test_a_watch_that_never_had_an_answer_gives_up_as_a_call_does() -> None:
    clock = FakeClock()
    reconnects = watching(clock)
    assert len(tried(reconnects, clock, unavailable())) == 5


def test_a_watch_of_a_server_that_is_known_to_be_there_is_patient_at_once() -> None:
    clock = FakeClock()
    tried(Reconnects(RetryPolicy(), None, patient=True, clock=clock), clock, unavailable())
    assert clock.now > 1300


@settings(max_examples=50, deadline=None)
@given(policies, st.sampled_from([None, 0.1, 1000]))
def test_a_watch_that_was_connected_tries_for_as_long_as_the_outage_may_take(
    policy: RetryPolicy, asked: float | None
) -> None:
    clock = FakeClock()
    reconnects = watching(clock, policy=policy)
    clock.now += 10_000
    reconnects.answered()
    tried(reconnects, clock, unavailable(asked), most=10_000_000)
    outage = clock.now - 11_000
    assert policy.outage < outage <= policy.outage + policy.first_delay + 1e-6


def test_an_answer_makes_a_watch_patient_again() -> None:
    clock = FakeClock()
    reconnects = watching(clock)
    reconnects.answered()
    for _ in range(10_000):
        assert reconnects.pause(unavailable()) == pytest.approx(0.075)
        clock.now += 1
        reconnects.answered()


def test_a_watch_ends_at_its_deadline() -> None:
    clock = FakeClock()
    reconnects = watching(clock, timeout=20)
    reconnects.answered()
    tried(reconnects, clock, unavailable())
    assert 1000 < clock.now < 1020
    clock.now = 1021
    assert reconnects.timeout() == 0
    with pytest.raises(DeadlineExceededError, match="before that: away"):
        reconnects.pause(unavailable())
    with pytest.raises(DeadlineExceededError, match="late"):
        reconnects.pause(DeadlineExceededError("late", code="DEADLINE_EXCEEDED"))


def test_a_deadline_of_somebody_on_the_way_does_not_end_a_watch() -> None:
    reconnects = watching(FakeClock())
    assert reconnects.pause(DeadlineExceededError("a proxy's", code="DEADLINE_EXCEEDED")) > 0


def test_what_does_not_pass_by_ends_a_watch_at_once() -> None:
    with pytest.raises(NotFoundError):
        watching(FakeClock()).pause(NotFoundError("gone", code="NOT_FOUND", reason="EXECUTION_NOT_FOUND"))


@pytest.mark.parametrize(
    "faulty", [{"attempts": 0}, {"first_delay": 0}, {"first_delay": 9, "longest_delay": 8}, {"outage": -1}]
)
def test_a_policy_that_makes_no_sense_is_refused(faulty: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="retry policy"):
        RetryPolicy(**faulty)  # type: ignore[arg-type]


def test_signs_of_life_before_each_failure_do_not_keep_the_pauses_small() -> None:
    clock = FakeClock()
    reconnects = watching(clock, policy=RetryPolicy(first_delay=0.1, longest_delay=10, outage=5))
    pauses = []
    for _ in range(12):
        reconnects.answered(new=False)
        pauses.append(reconnects.pause(unavailable()))
    assert pauses == sorted(pauses)
    assert pauses[-1] > 20 * pauses[0]
    # A connection that lasts is a good one, and so is one that brings something.
    for new in (False, True):
        reconnects.answered(new=new)
        reconnects.answered(new=new)
        assert reconnects.pause(unavailable()) == pauses[0]
