"""Structured logs on stderr: lines for people on a terminal, JSON otherwise; secrets never get through."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRET_NAMES = re.compile(r"(?i)(password|secret|token|(api|private|access)[-_]?key|authorization|signature|pem)\Z")
# user:password@, :password@ and token@ alike, up to the last @ before the path.
_URL_PASSWORD = re.compile(r"(?<=://)[^/\s]+@")
_PEM = re.compile(r"-----BEGIN [A-Z ]+-----.*?(-----END [A-Z ]+-----|\Z)", re.DOTALL)
_HIDDEN = "[hidden]"


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """structlog processor: hide values of secret names, passwords in URLs and PEM blocks, at any depth."""
    return {name: _HIDDEN if _SECRET_NAMES.search(name) else _clean(value) for name, value in event.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        if "://" in value:
            value = _URL_PASSWORD.sub(f"{_HIDDEN}@", value)
        return _PEM.sub(_HIDDEN, value) if "-----BEGIN" in value else value
    if isinstance(value, dict):
        return {key: _HIDDEN if _SECRET_NAMES.search(str(key)) else _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    if isinstance(value, (bytes, BaseException)):
        return _clean(str(value))
    return value


class _Stderr:
    """Writes lines to stderr; a log on a full disk must not end a process that keeps data in memory."""

    def msg(self, message: str) -> None:
        with contextlib.suppress(OSError):
            print(message, file=sys.stderr, flush=True)

    log = debug = info = warning = warn = error = critical = exception = fatal = failure = err = msg


def configure(level: int = logging.INFO) -> None:
    """Set up logging of this process; call it once, before the first line."""
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=True) if sys.stderr.isatty() else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _Stderr(),
        cache_logger_on_first_use=True,
    )
