"""Logs: a constant message plus fields; JSON lines in production, readable on a terminal."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from sidecar.kinds import Secret, Url

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "asctime", "message", "taskName", "color_message",
}  # fmt: skip
_COLOURS: Final = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}

# Libraries that tell of every request, connection or step at INFO.
_CHATTY: Final = ("alembic", "httpcore", "httpx", "stripe", "uvicorn.error")


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `at` (RFC 3339), `level`, `logger`, `message`, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        entry: dict[str, Any] = {
            "at": _instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry |= _fields(record)
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """One line to read: time, level, message, `field=value`; an exception goes below it."""

    def __init__(self, *, is_coloured: bool) -> None:
        super().__init__()
        self._is_coloured = is_coloured

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        level = self._paint(f"{record.levelname.lower():8}", _COLOURS.get(record.levelname, "0"))
        fields = [self._paint(f"{name}=", "2") + _text(v) for name, v in _fields(record).items()]
        line = " ".join([at, level, record.getMessage(), *fields])
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line

    def _paint(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._is_coloured else text


def configure(log_format: str, log_level: str, stream: TextIO | None = None) -> None:
    """Send all logs to `stream` (standard error). `log_format`: auto, json or text.

    `auto` is text on a terminal and JSON elsewhere. Replaces what an earlier call set up.
    """
    stream = stream or sys.stderr
    is_terminal = stream.isatty()
    is_text = log_format == "text" or (log_format == "auto" and is_terminal)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(TextFormatter(is_coloured=is_terminal) if is_text else JsonFormatter())
    logging.basicConfig(handlers=[handler], level=log_level.upper(), force=True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.root.level))


def _instant(record: logging.LogRecord) -> str:
    at = datetime.fromtimestamp(record.created, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {name: _shown(value) for name, value in fields.items()}


def _shown(value: Any) -> Any:
    return repr(value).strip("'") if isinstance(value, Secret | Url) else value


def _text(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text or not text else text
