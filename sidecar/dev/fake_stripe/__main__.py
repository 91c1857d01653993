"""`python -m sidecar.dev.fake_stripe`: Stripe, played on this machine."""

from __future__ import annotations

import click
import httpx

from sidecar import log, server
from sidecar.dev.fake_stripe.app import build
from sidecar.dev.fake_stripe.delivery import Delivery


@click.command()
@click.option("--listen", default="127.0.0.1:8789", show_default=True, help="host:port")
@click.option("--webhook-url", help="Where events are sent; none are without it.")
@click.option(
    "--webhook-secret",
    "webhook_secrets",
    default="",
    help="What events are signed with; several, with commas between, all sign.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
def main(listen: str, webhook_url: str | None, webhook_secrets: str, log_level: str) -> None:
    """Play Stripe for development and tests. Nothing is kept when it stops."""
    log.configure("text", log_level)
    secrets = [secret.strip() for secret in webhook_secrets.split(",") if secret.strip()]
    if webhook_url and not secrets:
        raise click.UsageError("--webhook-url needs a --webhook-secret to sign with.")
    try:
        delivery = Delivery(webhook_url, secrets) if webhook_url else None
    except httpx.InvalidURL as error:
        raise click.BadParameter(str(error), param_hint="--webhook-url") from error
    server.run(build(delivery), listen, setting="--listen", grace_ms=2_000)


if __name__ == "__main__":
    main()
