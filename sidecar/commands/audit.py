"""`audit`: prove, online, that no credit was lost or invented."""

from __future__ import annotations

from pathlib import Path

import click

from sidecar.commands.environment import client_settings, data_dir_option, json_option


@click.command()
@data_dir_option
@json_option
def audit(data_dir: Path | None, is_json: bool) -> None:
    """Audit."""
    client_settings(data_dir)
    click.echo(str(is_json))
