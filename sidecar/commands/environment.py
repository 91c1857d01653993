"""Where a command finds its settings: the environment, or a running `dev`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.commands import dev_state
from sidecar.settings import Settings, variable_of

if TYPE_CHECKING:
    from sidecar.nodes import RedisNodes

_REDIS_SECONDS = 10.0


def process_environment() -> Mapping[str, str]:
    """Return this process's environment. Nothing else reads it."""
    return os.environ


def role_settings(**options: str | None) -> Settings:
    """Return the settings of a role: the environment, overridden by the options that are given.

    Raises `SettingsError`.
    """
    given = {variable_of(name): value for name, value in options.items() if value is not None}
    return Settings.from_environment({**process_environment(), **given})


def client_settings(data_dir: Path | None) -> Settings:
    """Return the settings of a command that looks or changes from outside.

    They are those of the `dev` that runs on `data_dir`; without one, the environment's, and when
    that names no ledger, those of a `dev` that runs in the current directory. Raises
    `SettingsError` and `DevNotRunning`.
    """
    if data_dir is not None:
        return Settings.from_environment({**process_environment(), **dev_state.read(data_dir)})
    settings = role_settings()
    if settings.postgres_url:
        return settings
    try:
        variables = dev_state.read(dev_state.DEFAULT_DATA_DIRECTORY)
    except dev_state.DevNotRunning:
        settings.require("postgres_url")
        raise
    return Settings.from_environment({**process_environment(), **variables})


def redis_nodes(settings: Settings) -> RedisNodes:
    """Return the nodes of Redis for a command. Nothing is connected yet."""
    from sidecar.nodes import RedisNodes

    return RedisNodes.of_url(settings.redis_url, timeout_s=_REDIS_SECONDS)


def data_dir_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--data-dir` to a client command."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False, path_type=Path),
        help="Ask the `dev` that runs on this directory instead of the environment.",
    )(command)


def yes_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--yes` to a command that asks before it does something that costs."""
    return click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json` to a command."""
    return click.option("--json", "is_json", is_flag=True, help="Print JSON instead.")(command)
