"""The log: one JSON object a line, on standard error or in a file.

Lines say what happened to which request; they never hold code, variables, output or keys, so
callers pass ids and counts only, and of an exception its place and the beginning of its words.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Final, TextIO

import structlog

from era import wire
from era.errors import EraError

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
}
MAX_WORDS: Final = 300
"""Characters of an exception's message that are logged."""

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def configure(level: str, path: str = "") -> TextIO:
    """Send every log line, also those of libraries, to `path` (standard error if empty).

    Returns the stream, which the caller closes at the end when it is a file.  Raises OSError.
    """
    # Line buffered: a line that was logged before a crash is there after it.
    stream = open(path, "a", buffering=1, encoding="utf-8") if path else sys.stderr  # noqa: SIM115 - outlives this call
    structlog.configure(
        processors=[_level, _time, _exception, _render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_LibraryLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(LEVELS[level], logging.WARNING))
    return stream


Event = MutableMapping[str, Any]

_stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")


def _level(_logger: Any, name: str, event: Event) -> Event:
    return {"level": "warn" if name == "warning" else name, **event}


def _time(logger: Any, name: str, event: Event) -> Event:
    return _stamp(logger, name, event)


def _exception(_logger: Any, _name: str, event: Event) -> Event:
    error = event.pop("exc_info", None)
    if isinstance(error, BaseException):
        event.update(described(error))
    return event


def _render(_logger: Any, _name: str, event: Event) -> str:
    return wire.encode(dict(event)).decode()


def _words(error: BaseException) -> str:
    """What an error says, and what it says to the operator alone: an answer leaves that out."""
    details = error.extra.get("details") if isinstance(error, EraError) else None
    return f"{error}: {details}" if details else str(error)


def described(error: BaseException) -> dict[str, Any]:
    """An exception as members of a line: its class, the beginning of its words, where it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    return {
        "exception": type(error).__name__,
        "words": _words(error)[:MAX_WORDS],
        "at": [f"{frame.name}:{frame.lineno} {frame.filename}" for frame in frames],
    }


class _LibraryLines(logging.Formatter):
    """Lines of libraries that use the standard log, in our form."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object."""
        event: dict[str, Any] = {
            "level": "warn" if record.levelname == "WARNING" else record.levelname.lower(),
            "event": record.getMessage()[:MAX_WORDS],
            "logger": record.name,
        }
        if record.exc_info and record.exc_info[1] is not None:
            event.update(described(record.exc_info[1]))
        return _render(None, "", _time(None, "", event))
