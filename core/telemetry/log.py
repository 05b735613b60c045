"""Structured logs: readable on a terminal, one JSON object a line elsewhere; always on stderr."""

import logging
import sys
from typing import Any, cast

import structlog

from core.settings import settings

_configured = False


def configure(format: str | None = None, level: str | None = None) -> None:
    """Set up logging for this process; later calls replace the earlier set-up."""
    global _configured
    format = format or settings().log_format
    if format == "auto":
        format = "console" if sys.stderr.isatty() else "json"
    number = logging.getLevelNamesMapping()[(level or settings().log_level).upper()]
    render: Any = (
        structlog.dev.ConsoleRenderer() if format == "console" else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _configured = True


def logger(name: str, **context: Any) -> structlog.typing.FilteringBoundLogger:
    """A logger that carries `name` and `context` in every line."""
    if not _configured:
        configure()
    return cast(structlog.typing.FilteringBoundLogger, structlog.get_logger(component=name, **context))
