"""Structured logs: one JSON line an event on standard error."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

import structlog

from cloutagent_server.settings import LogLevel

_LEVELS: Final = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARN: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}

_GRPC: Final = "grpc._cython.cygrpc"
_HTTP: Final = "aiohttp.server"
_MALFORMED: Final = "aiohttp.http_exceptions"
_QUIET_SECONDS: Final = 60.0
_undecodable: ContextVar[bool] = ContextVar("undecodable", default=False)


class _WithoutBytes(logging.Filter):
    """Lets no bytes off the wire into the log: gRPC tells metadata that is not UTF-8 as it came, and that may be a key.

    One line a call says that there were such.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written; it is changed where that is needed."""
        if not isinstance(record.args, tuple) or not any(isinstance(each, bytes) for each in record.args):
            return True
        if _undecodable.get():
            return False
        _undecodable.set(True)
        record.msg, record.args, record.exc_info = "metadata of a call is not UTF-8 and was ignored", (), None
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
        return True


@dataclass(slots=True)
class _Fault:
    """How often it came since its last line, and until when (monotonic seconds) it gets none."""

    times: int = 0
    quiet_until: float = 0.0


class _WithoutRequests(logging.Filter):
    """Lets nothing of an HTTP request into the log, and of each fault one line a minute with how often it came.

    aiohttp tells every fault with its text, which has the bytes of a malformed request. Agents send what they like, as
    often as they like, and what they know may be secret. The line of a fault of the server's own has its places in the
    code.
    """

    def __init__(self) -> None:
        super().__init__()
        self._faults: dict[tuple[object, ...], _Fault] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written; it is changed where that is needed."""
        raised = record.exc_info[1] if record.exc_info else None
        if raised is None:
            return True
        malformed = type(raised).__module__ == _MALFORMED
        frames = [] if malformed else traceback.extract_tb(raised.__traceback__)
        place = [(frame.filename, frame.lineno) for frame in frames[-1:]]
        fault = self._faults.setdefault((malformed or type(raised), *place), _Fault())
        fault.times += 1
        now = time.monotonic()
        if now < fault.quiet_until:
            return False
        facts: dict[str, object] = {"times": fault.times}
        fault.times, fault.quiet_until = 0, now + _QUIET_SECONDS
        if malformed:
            record.msg, record.levelno = "malformed HTTP requests were refused", logging.WARNING
        else:
            record.msg, record.levelno = f"HTTP requests failed: {type(raised).__name__}", logging.ERROR
            facts["traceback"] = "".join(traceback.format_list(frames))
        record.levelname = logging.getLevelName(record.levelno)
        record.args, record.exc_info, record.exc_text = (), None, None
        record.__dict__.update(facts)
        return True


_WITHOUT_BYTES: Final = _WithoutBytes()


def configure(level: LogLevel, *facts: structlog.typing.Processor) -> None:
    """Send the server's own lines and those of its libraries through one formatter. `facts` add to each line."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        *facts,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.add_log_level,
            *facts,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    logging.getLogger(_GRPC).addFilter(_WITHOUT_BYTES)
    logging.getLogger(_HTTP).filters[:] = [_WithoutRequests()]
