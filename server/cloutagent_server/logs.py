"""Structured logs: one JSON line an event on standard error."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
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
