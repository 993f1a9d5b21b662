"""Identifiers, times and errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloutagent_server.domain import errors, timestamps
from cloutagent_server.domain.identifiers import is_id, new_id
from tests.support import builders


def test_new_ids_are_ids_and_differ() -> None:
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(is_id(one) for one in ids)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "..",
        "6D0F2C1E-0000-4000-8000-000000000000",
        "6d0f2c1e00004000800000000000000000",
        "6d0f2c1e-0000-4000-8000-00000000000",
        "6d0f2c1e-0000-4000-8000-000000000000\n",
        "../6d0f2c1e-0000-4000-8000-000000000000",
        "{6d0f2c1e-0000-4000-8000-000000000000}",
        "6d0f2c1e-0000-4000-8000-00000000000\u0660",
    ],
)
def test_anything_else_is_no_id(text: str) -> None:
    assert not is_id(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_is_read_back_to_the_millisecond(time: datetime) -> None:
    time = time.replace(microsecond=time.microsecond // 1000 * 1000)
    assert timestamps.from_text(timestamps.to_text(time)) == time


def test_a_time_is_written_in_utc() -> None:
    time = datetime(2026, 1, 31, 13, 0, tzinfo=timezone(timedelta(hours=1)))
    assert timestamps.to_text(time) == "2026-01-31T12:00:00.000Z"
    assert timestamps.from_text("2026-01-31T13:00:00+01:00") == time
    assert timestamps.from_text("2026-01-31T13:00:00+01:00").tzinfo is UTC


def test_now_is_in_whole_milliseconds() -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    now = timestamps.now()
    assert now.microsecond % 1000 == 0
    assert before <= now <= datetime.now(UTC)
    assert timestamps.from_text(timestamps.to_text(now)) == now


@pytest.mark.parametrize("text", ["", "yesterday", "2026-01-31", "2026-01-31T12:00:00"])
def test_a_time_without_an_offset_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (the message is that of the standard library, where it is not ours)
        timestamps.from_text(text)


def test_an_invalid_request_names_its_fields() -> None:
    error = errors.InvalidRequest([errors.FieldViolation("agent.model", "is required"), errors.FieldViolation("", "x")])
    assert str(error) == error.message == "agent.model: is required; x"
    assert [violation.field for violation in error.violations] == ["agent.model", ""]
    assert errors.InvalidRequest.of("name", "is too long").message == "name: is too long"


def test_what_is_for_the_operator_is_not_in_the_message() -> None:
    damaged = errors.StoredDataDamaged("/srv/projects/x", "not JSON")
    refused = errors.StorageUnavailable("ENOSPC /srv")
    for error in (damaged, refused):
        assert "srv" not in str(error) + repr(dict(error.metadata))
    assert (damaged.location, damaged.fault, refused.cause) == ("/srv/projects/x", "not JSON", "ENOSPC /srv")


def test_a_credential_does_not_show_its_hash() -> None:
    credential = builders.credential()
    assert credential.hash not in repr(credential)
