"""Logs: one JSON line an event on standard error, whoever writes it."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from typing import Any

import pytest
import structlog

from cloutagent_server import logs
from cloutagent_server.settings import LogLevel


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    shown = capsys.readouterr()
    assert shown.out == ""
    return [json.loads(line) for line in shown.err.splitlines()]


def test_both_kinds_of_loggers_write_the_same_form(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogLevel.INFO)
    logging.getLogger("library").info("started %s", "well", extra={"port": 1})
    structlog.get_logger("ours").info("call", method="/x", code="OK")
    library, ours = lines(capsys)
    assert (library["event"], library["port"], library["level"]) == ("started well", 1, "info")
    assert (ours["event"], ours["method"], ours["code"], ours["level"]) == ("call", "/x", "OK", "info")
    for line in (library, ours):
        assert datetime.fromisoformat(line["timestamp"]).utcoffset() is not None


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (LogLevel.DEBUG, ["debug", "info", "warning", "error"]),
        (LogLevel.INFO, ["info", "warning", "error"]),
        (LogLevel.WARN, ["warning", "error"]),
        (LogLevel.ERROR, ["error"]),
    ],
)
def test_the_level_holds_for_both(level: LogLevel, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level)
    for logger in (logging.getLogger("library"), structlog.get_logger("ours")):
        for method in ("debug", "info", "warning", "error"):
            getattr(logger, method)("text")
    assert [line["level"] for line in lines(capsys)] == shown * 2


def test_an_exception_is_one_line_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogLevel.INFO)
    fault = RuntimeError("boom\nboom")
    try:
        raise fault
    except RuntimeError:
        logging.getLogger("library").exception("failed", extra={"execution_id": "e"})
    structlog.get_logger("ours").error("failed", exc_info=fault)
    library, ours = lines(capsys)
    assert "RuntimeError: boom" in library["exception"] and "RuntimeError: boom" in ours["exception"]
    assert library["execution_id"] == "e"


def test_configuring_again_does_not_write_twice(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogLevel.INFO)
    logs.configure(LogLevel.INFO)
    logging.getLogger("library").info("once")
    assert len(lines(capsys)) == 1


def test_a_fault_in_answering_http_is_told_once_a_minute_and_by_its_place_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, text = 1000.0, " ".join(("what", "the", "caller", "wrote"))
    monkeypatch.setattr("cloutagent_server.logs.time.monotonic", lambda: now)
    logs.configure(LogLevel.INFO)

    def fail(kind: type[Exception]) -> None:
        try:
            raise kind(text)
        except kind as fault:
            # As aiohttp does it.
            logging.getLogger("aiohttp.server").exception("Error handling request from %s", "::1", exc_info=fault)

    for _ in range(3):
        fail(ValueError)
        fail(KeyError)
    now += 60
    fail(ValueError)
    told = lines(capsys)
    assert [(line["event"], line["level"], line["times"]) for line in told] == [
        ("HTTP requests failed: ValueError", "error", 1),
        ("HTTP requests failed: KeyError", "error", 1),
        ("HTTP requests failed: ValueError", "error", 3),
    ]
    assert all("test_logs.py" in line["traceback"] for line in told)
    assert text not in str(told)
