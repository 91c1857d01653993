"""The `credit-sidecar` command. Each role is composed elsewhere; here it is only called.

Whatever is slow to import is imported inside the command that needs it, so `--help` is quick.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Final

import click

from sidecar import __version__
from sidecar.commands.accounts import account, balance, grant
from sidecar.commands.audit import audit
from sidecar.commands.dev_state import DEFAULT_DATA_DIRECTORY
from sidecar.commands.doctor import doctor
from sidecar.commands.environment import json_option, process_environment, role_settings
from sidecar.commands.money import alerts, auto_top_up, stripe
from sidecar.commands.rebuild import rebuild
from sidecar.commands.reconcile import reconcile
from sidecar.commands.selling import checkout, offer, plan
from sidecar.commands.sidecars import sidecars
from sidecar.errors import CreditsError, SettingsError
from sidecar.settings import Settings

_FAILED: Final = 1
_WRONG_USE: Final = 2
_INTERRUPTED: Final = 130

_SECTIONS: Final = {
    "Try it": ("dev",),
    "Run it": ("serve", "worker", "control", "migrate"),
    "Operate it": ("account", "grant", "balance", "settings", "health"),
    "Sell it": ("offer", "plan", "checkout", "auto-top-up", "stripe", "alerts"),
    "Prove and mend it": ("doctor", "audit", "sidecars", "rebuild", "reconcile"),
}


class Sections(click.Group):
    """A group whose help lists its commands under headings."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in the order of the headings."""
        for heading, names in _SECTIONS.items():
            with formatter.section(heading):
                formatter.write_dl(
                    [(name, self.commands[name].get_short_help_str(limit=70)) for name in names]
                )


@click.group(
    cls=Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="credit-sidecar")
def cli() -> None:
    """Credits for inference: hold before a call, settle after it, no overspend in between.

    \b
    Start with:
      credit-sidecar dev                      everything on this machine, nothing to install
      credit-sidecar balance demo             what the demo account has left
      credit-sidecar COMMAND --help           what a command does, with examples

    Settings are environment variables that begin with CREDITS_; `credit-sidecar settings` lists
    them. Exit status: 0 done, 1 failed, 2 wrong use or settings.
    """


@cli.command()
@click.option("--listen", metavar="ADDRESS", help="host:port or unix:/path. [CREDITS_LISTEN]")
def serve(listen: str | None) -> None:
    """Run a sidecar: the hot path beside an inference server.

    Talks to Redis only. Needs a worker somewhere to load accounts and to keep the ledger.

    \b
    Examples:
      credit-sidecar serve
      credit-sidecar serve --listen unix:/run/credits.sock
      CREDITS_API_KEY=... credit-sidecar serve --listen 0.0.0.0:8787
    """
    settings = _start_role(role_settings(listen=listen))
    from sidecar.meter.serve import run

    run(settings)


@cli.command()
@click.option(
    "--listen",
    metavar="ADDRESS",
    help="Where /healthz, /readyz and /metrics are. [CREDITS_WORKER_LISTEN]",
)
def worker(listen: str | None) -> None:
    """Run a worker: flush, refill, expiry, Stripe inbox.

    Any number may run; they share the work. Stopping one flushes what is in the streams first.

    \b
    Example:
      CREDITS_POSTGRES_URL=postgresql://credits@db/credits credit-sidecar worker
    """
    settings = _start_role(role_settings(worker_listen=listen))
    from sidecar.worker import run

    run(settings)


@cli.command()
@click.option(
    "--listen", metavar="ADDRESS", help="host:port or unix:/path. [CREDITS_CONTROL_LISTEN]"
)
def control(listen: str | None) -> None:
    """Run the control listener: the admin API and the Stripe webhook.

    \b
    Example:
      CREDITS_ADMIN_TOKEN=... CREDITS_STRIPE_WEBHOOK_SECRET=whsec_... credit-sidecar control
    """
    settings = _start_role(role_settings(control_listen=listen))
    from sidecar.control.serve import run

    run(settings)


@cli.command()
def migrate() -> None:
    """Bring the ledger's schema up to this program. Safe to repeat, and while roles run.

    \b
    Example:
      CREDITS_POSTGRES_URL=postgresql://owner@db/credits credit-sidecar migrate
    """
    settings = role_settings()
    settings.require("postgres_url")
    from persistence.schema import upgrade

    click.echo(f"The ledger's schema is at revision {upgrade(settings.postgres_url)}.")


@cli.command()
@click.option("--port", type=click.IntRange(1, 65535), help="Of the hot path. [default: 8787]")
@click.option(
    "--control-port", type=click.IntRange(1, 65535), help="Of the admin API. [default: 8788]"
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_DATA_DIRECTORY,
    show_default=True,
    help="Where Redis and Postgres keep their data; the next `dev` goes on from there.",
)
@click.option(
    "--story",
    "has_story",
    is_flag=True,
    help="Play the whole life of an account, told step by step, audit, and stop.",
)
def dev(port: int | None, control_port: int | None, data_dir: Path, has_story: bool) -> None:
    """Run everything on this machine, with a demo account.

    The account `demo` has 100 credits at first. Redis and Postgres come along, unless
    CREDITS_REDIS_URL or CREDITS_POSTGRES_URL name others; a fake Stripe sells credits, unless
    CREDITS_STRIPE_SECRET_KEY is set. Ctrl-C stops it all in order, a second Ctrl-C at once.

    \b
    Examples:
      credit-sidecar dev
      credit-sidecar dev --port 9787 --control-port 9788 --data-dir /tmp/credits
      credit-sidecar dev --story
    """
    from sidecar.dev.supervisor import run

    environment = process_environment()
    sys.exit(
        run(
            environment,
            port=port,
            control_port=control_port,
            data_dir=data_dir,
            has_story=has_story,
        )
    )


@cli.command()
@json_option
def settings(is_json: bool) -> None:
    """List every setting, what it is now, and what it is for.

    \b
    Examples:
      credit-sidecar settings
      credit-sidecar settings --json
    """
    from sidecar.commands.show_settings import show

    show(role_settings(), is_json=is_json)


@cli.command()
@click.argument("role", type=click.Choice(["serve", "worker", "control"]), required=False)
def health(role: str | None) -> None:
    """Tell by the exit status whether a role answers: for containers.

    \b
    Examples:
      credit-sidecar health           any of the roles
      credit-sidecar health worker
    """
    from sidecar.commands.probe import status_of

    now = role_settings()
    addresses = {
        "serve": now.listen,
        "worker": now.worker_listen,
        "control": now.control_listen,
    }
    for name, address in addresses.items():
        if role in (None, name) and status_of(address, "/healthz") == 200:
            click.echo(f"{name} answers at {address}.")
            return
    asked = [f"{name} at {addresses[name]}" for name in addresses if role in (None, name)]
    raise CreditsError(f"No answer from {', '.join(asked)}.")


for _command in (
    *(account, grant, balance),
    *(offer, plan, checkout, auto_top_up, stripe, alerts),
    *(doctor, audit, sidecars, rebuild, reconcile),
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line and exit with its status; operators' mistakes are one clear line."""
    try:
        status = cli.main(prog_name="credit-sidecar", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(_INTERRUPTED)
    except CreditsError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(_WRONG_USE if isinstance(error, SettingsError) else _FAILED)
    sys.exit(status)


def _start_role(now: Settings) -> Settings:
    """Set up what roles share: logs, and an end with success when they are told to stop."""
    from sidecar import log

    log.configure(now.log_format, now.log_level)
    # A role takes these signals while it runs. This is for before, and for uvicorn, which sends
    # itself the signal again when all is closed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_with_success)
    return now


def _exit_with_success(_: int, __: FrameType | None) -> None:
    sys.exit(0)
