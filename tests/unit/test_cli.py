"""The command line as a stranger meets it: help, examples, mistakes, exit statuses."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from sidecar import __version__
from sidecar.amounts import format_credits, parse_credits
from sidecar.cli import _SECTIONS, cli, main
from sidecar.domain import MAX_AMOUNT


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in list(os.environ):
        if name.startswith("CREDITS_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for number, handler in signals.items():
        signal.signal(number, handler)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def status_and_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[object, str]:
    monkeypatch.setattr(sys, "argv", ["credit-sidecar", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


def commands(group: click.Group = cli, path: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield f"{path}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


def test_the_help_names_every_command_under_a_heading() -> None:
    assert {name for names in _SECTIONS.values() for name in names} == set(cli.commands)
    text = run("--help").output
    for heading, names in _SECTIONS.items():
        assert f"{heading}:" in text
        for name in names:
            assert f"  {name} " in text


@pytest.mark.parametrize(("path", "command"), list(commands()))
def test_every_command_explains_itself_in_lines_that_fit(path: str, command: click.Command) -> None:
    text = run(*path.split(), "--help").output
    assert command.help
    assert command.get_short_help_str(limit=70).endswith(".")
    assert "..." not in command.get_short_help_str(limit=70)
    assert max(map(len, text.splitlines())) <= 100
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


@pytest.mark.parametrize(("path", "command"), [one for one in commands() if " " not in one[0]])
def test_every_command_gives_an_example_that_names_it(path: str, command: click.Command) -> None:
    assert f"credit-sidecar {path}" in (command.help or "")


def test_the_help_is_quick_because_nothing_heavy_is_imported() -> None:
    heavy = ("sqlalchemy", "psycopg", "redis", "starlette", "uvicorn", "stripe", "httpx", "rich")
    program = f"""
import sys
from sidecar.cli import cli
print([name for name in {heavy!r} if name in sys.modules])
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert printed.stdout.decode().strip() == "[]"


def test_the_version_is_the_package_s() -> None:
    assert run("--version").output.strip() == f"credit-sidecar, version {__version__}"


def test_python_m_sidecar_is_the_same_command() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "sidecar", "--version"], capture_output=True, check=True, text=True
    )
    assert printed.stdout.startswith("credit-sidecar, version")


def test_a_wrong_setting_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CREDITS_REDIS_TIMEOUT_MS", "soon")
    for role in ("serve", "worker", "control", "migrate", "settings"):
        status, error = status_and_error(monkeypatch, capsys, role)
        assert status == 2
        assert error.startswith("Error: CREDITS_REDIS_TIMEOUT_MS='soon' is wrong")
        assert error.count("\n") == 1


def test_an_option_is_checked_like_the_variable_that_it_stands_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, error = status_and_error(monkeypatch, capsys, "serve", "--listen", "0.0.0.0:8787")
    assert (status, "set CREDITS_API_KEY" in error) == (2, True)
    status, error = status_and_error(monkeypatch, capsys, "control", "--listen", "8788")
    assert (status, "CREDITS_CONTROL_LISTEN='8788' is wrong" in error) == (2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ("migrate",),
        ("worker",),
        ("account", "list"),
        ("balance", "demo"),
        ("grant", "demo", "--credits", "1"),
        ("audit",),
        ("doctor",),
        ("sidecars",),
        ("rebuild", "--yes"),
    ],
)
def test_a_missing_ledger_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    status, error = status_and_error(monkeypatch, capsys, *arguments)
    assert (status, "CREDITS_POSTGRES_URL is not set" in error) == (2, True)


def test_a_data_directory_without_a_running_dev_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, error = status_and_error(
        monkeypatch, capsys, "balance", "demo", "--data-dir", "nowhere"
    )
    assert (status, error) == (1, "Error: No `credit-sidecar dev` runs on nowhere.\n")


def test_health_without_any_role_is_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CREDITS_LISTEN", "unix:/nowhere/at/all.sock")
    status, error = status_and_error(monkeypatch, capsys, "health", "serve")
    assert (status, error) == (1, "Error: No answer from serve at unix:/nowhere/at/all.sock.\n")


def test_a_grant_needs_one_way_of_saying_how_much() -> None:
    for arguments in (["grant", "demo"], ["grant", "demo", "--credits", "1", "--amount", "2"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "Give either --credits or --amount." in result.output


def test_settings_lists_all_and_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDITS_API_KEY", "hunter2")
    monkeypatch.setenv("CREDITS_STRIPE_WEBHOOK_SECRET", "hunter3,hunter4")
    monkeypatch.setenv("CREDITS_POSTGRES_URL", "postgresql://me:hunter5@db/credits")
    assert "hunter" not in run("settings").output
    text = run("settings", "--json").output
    assert "hunter" not in text
    listed = json.loads(text)
    assert listed["CREDITS_API_KEY"]["value"] == "set"
    assert listed["CREDITS_ADMIN_TOKEN"]["value"] == "not set"
    assert listed["CREDITS_LISTEN"]["value"] == "127.0.0.1:8787"
    assert listed["CREDITS_STRIPE_WEBHOOK_SECRET"]["value"] == "set,set"


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("25", 25_000_000),
        ("0.5", 500_000),
        ("0.000001", 1),
        ("1.10", 1_100_000),
        ("9007199254.740991", MAX_AMOUNT),
    ],
)
def test_credits_are_read_digit_by_digit(text: str, amount: int) -> None:
    assert parse_credits(text) == amount


@pytest.mark.parametrize(
    "text", ["", "-1", "+1", "1e3", "1,5", ".5", "1.", "0.0000001", "٢", "nan", "9007199254.740992"]
)
def test_what_is_not_a_number_of_credits_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="credits"):
        parse_credits(text)


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0, "0"),
        (1, "0.000001"),
        (1_500_000, "1.5"),
        (1_234_000_000, "1,234"),
        (-500_000, "-0.5"),
        (None, "?"),
    ],
)
def test_credits_are_written_without_loss(amount: int | None, text: str) -> None:
    assert format_credits(amount) == text
