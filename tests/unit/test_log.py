"""Logs: JSON lines for machines, one readable line for people, no secrets in either."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from persistence.database import make_engine
from sidecar import log
from sidecar.kinds import Secret, Url


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_json_line_has_the_message_and_its_fields() -> None:
    stream = io.StringIO()
    log.configure("json", "info", stream)
    logging.getLogger("a.b").info("flushed %d", 3, extra={"shard": 7, "path": {"x"}})
    line = json.loads(stream.getvalue())
    assert line["at"].endswith("Z")
    assert {k: line[k] for k in ("level", "logger", "message", "shard", "path")} == {
        "level": "info",
        "logger": "a.b",
        "message": "flushed 3",
        "shard": 7,
        "path": "{'x'}",
    }


def test_a_record_is_one_line_even_with_line_breaks_in_it() -> None:
    stream = io.StringIO()
    log.configure("json", "info", stream)
    logging.getLogger().warning("a\nb", extra={"field": "c\nd"})
    assert stream.getvalue().count("\n") == 1


def test_an_exception_is_a_field_of_the_json_line() -> None:
    stream = io.StringIO()
    log.configure("json", "info", stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger().exception("failed")
    assert "ValueError: broken" in json.loads(stream.getvalue())["exception"]


def test_a_text_line_shows_time_level_message_and_fields() -> None:
    stream = io.StringIO()
    log.configure("text", "info", stream)
    logging.getLogger().warning("fenced", extra={"shard": 7, "why": "other run"})
    _, level, rest = stream.getvalue().split(None, 2)
    assert (level, rest) == ("warning", 'fenced shard=7 why="other run"\n')


def test_auto_is_text_on_a_terminal_and_json_elsewhere() -> None:
    terminal, file = Terminal(), io.StringIO()
    log.configure("auto", "info", terminal)
    logging.getLogger().info("hello")
    log.configure("auto", "info", file)
    logging.getLogger().info("hello")
    assert "\x1b[32m" in terminal.getvalue()
    assert json.loads(file.getvalue())["message"] == "hello"


def test_a_level_below_the_least_one_is_not_logged() -> None:
    stream = io.StringIO()
    log.configure("text", "warning", stream)
    logging.getLogger().info("quiet")
    assert stream.getvalue() == ""


def test_a_library_that_tells_of_every_call_is_quiet_at_info() -> None:
    stream = io.StringIO()
    log.configure("text", "info", stream)
    logging.getLogger("httpx").info("GET / 200")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_no_secret_and_no_password_is_logged(log_format: str) -> None:
    stream = io.StringIO()
    log.configure(log_format, "info", stream)
    fields = {"key": Secret("hunter2"), "url": Url("redis://me:hunter3@host/0")}
    logging.getLogger().info("connected", extra=fields)
    assert "hunter" not in stream.getvalue()
    assert "redis://me:********@host/0" in stream.getvalue()


def test_an_error_of_the_database_shows_no_parameters() -> None:
    engine = make_engine("postgresql://nobody@127.0.0.1:9/none")
    assert engine.hide_parameters
    engine.dispose()
