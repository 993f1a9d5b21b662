"""Exit codes and texts."""

from __future__ import annotations

import inspect
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from cloutagent import errors
from cloutagent.cli import text
from cloutagent.cli.endings import CommandError, ExitCode, exit_code, told
from cloutagent.cli.values import length, moment, pairs, without_line_end

PAGE = Path(__file__).parents[2] / "docs/command-line.md"


def test_every_error_of_the_client_has_its_exit_code() -> None:
    kinds = [
        kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.CloutAgentError)
    ]
    codes = {kind.__name__: exit_code(kind("why")).name for kind in kinds}
    failed = {"CloutAgentError", "ApiError", "InternalError", "DataLossError", "UnimplementedError"}
    failed |= {"ExecutionFailedError", "ExecutionCancelledError"}
    assert {name for name, code in codes.items() if code == "FAILED"} == failed
    assert codes["BudgetUsedUpError"] == codes["LimitExceededError"] == codes["ExecutionTimedOutError"] == "LIMIT"
    assert codes["NoProjectError"] == codes["InvalidArgumentError"] == "USAGE"
    assert codes["AuthenticationError"] == codes["PermissionDeniedError"] == "DENIED"
    assert codes["QueueFullError"] == codes["DeadlineExceededError"] == "UNAVAILABLE"
    assert codes["ConflictError"] == codes["FailedPreconditionError"] == "CONFLICT"


def test_the_page_has_the_table_of_exit_codes() -> None:
    table = re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE)
    assert [int(code) for code in table] == [code.value for code in ExitCode]


def test_an_error_is_told_on_one_line() -> None:
    error = errors.InvalidArgumentError("the request\nis \x1b[31mwrong", code="INVALID_ARGUMENT", request_id="r")
    error.violations = (errors.Violation("agent.model", "is required"), errors.Violation("", "is odd"))
    expected = "the request is [31mwrong (INVALID_ARGUMENT, request r); agent.model is required; request is odd"
    assert told(error) == expected
    error = errors.InvalidArgumentError("agent.model: is required", code="INVALID_ARGUMENT")
    error.violations = (errors.Violation("agent.model", "is required"),)
    assert told(error) == "agent.model: is required (INVALID_ARGUMENT)"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.money(0), "$0.00"),
        (text.money(0.0000123), "$0.000012"),
        (text.money(0.05), "$0.05"),
        (text.money(0.0512), "$0.0512"),
        (text.money(1234.5), "$1,234.50"),
        (text.count(1234567.0), "1,234,567"),
        (text.duration(1234), "1.2 s"),
        (text.duration(300_000), "5 min"),
        (text.duration(61_000), "1 min 1 s"),
        (text.duration(3_600_000), "1 h"),
        (text.duration(7_260_000), "2 h 1 min"),
        (text.one_line("a\n\tb  c"), "a b c"),
        (text.one_line("abcdef", 4), "abc…"),
        (text.clean("a\x1bb\x07c\r\nd\te\x9bf\u202eg"), "abc\nd\tefg"),
        (without_line_end("a\r\n"), "a"),
        (without_line_end("a\n\n"), "a\n"),
    ],
)
def test_texts(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize(
    ("ago", "expected"), [(5, "5 s"), (300, "5 min"), (7200, "2 h"), (200_000, "2 d"), (-9, "0 s")]
)
def test_ages(ago: int, expected: str) -> None:
    now = round(datetime.now(UTC).timestamp())
    assert text.age(Timestamp(seconds=now - ago)) in (expected, expected.replace("5 s", "6 s"))


def test_lengths_of_time() -> None:
    assert length(None, "--x") is None
    assert length("90", "--x") == length("90s", "--x") == length("1.5min", "--x") == timedelta(seconds=90)
    assert length("1w", "--x") == timedelta(days=7)
    for wrong in ("", "-1s", "1y", "1e9", "9" * 400):
        with pytest.raises(CommandError, match="--x"):
            length(wrong, "--x")


def test_points_in_time() -> None:
    assert moment(None, "--x") is None
    assert moment("2026-01-31T12:00+00:00", "--x") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    local = moment("2026-01-31", "--x")
    assert local is not None and local.tzinfo is not None
    before, after = moment("1h", "--x"), moment("1h", "--x", ahead=True)
    assert before is not None and after is not None and after - before > timedelta(hours=1.99)
    for wrong in ("soon", "2026-13-01", "9999999d"):
        with pytest.raises(CommandError, match="--x"):
            moment(wrong, "--x", ahead=True)


def test_pairs() -> None:
    assert pairs(["a=1", "b=x=y", "c="], "--var") == {"a": "1", "b": "x=y", "c": ""}
    for wrong in ("a", "=1"):
        with pytest.raises(CommandError, match="--var takes NAME=VALUE"):
            pairs([wrong], "--var")
