"""How often an execution that waits is told its place."""

from __future__ import annotations

import math

import pytest

from cloutagent_server.service.places import worth_telling


@pytest.mark.parametrize(
    ("told", "position", "worth"),
    [
        (5, 4, True),
        (5, 5, False),
        (10, 9, True),
        (100, 95, False),
        (100, 90, True),
        (100, 110, True),
        (100, 109, False),
    ],
)
def test_small_changes_far_from_the_front_are_not_told(told: int, position: int, worth: bool) -> None:
    assert worth_telling(told, position) is worth


@pytest.mark.parametrize("ahead", [10, 1000, 100_000])
def test_a_long_wait_is_told_in_few_events(ahead: int) -> None:
    told, events = ahead, 0
    for position in range(ahead - 1, -1, -1):
        if worth_telling(told, position):
            told, events = position, events + 1
    assert told == 0
    assert events <= 11 + 10 * math.log(ahead / 10)
