"""`offer`, `plan` and `checkout`: what is sold, and a page on which it is paid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sidecar.amounts import format_credits
from sidecar.billing.currencies import shown
from sidecar.commands.accounts import Credits
from sidecar.commands.environment import client_settings, data_dir_option, json_option
from sidecar.commands.paths import account_path, call_control, path_of, print_page

_OFFER_COLUMNS = ("offer", "sells", ">credits", ">price", ">at least", "active")
_PLAN_COLUMNS = ("price at Stripe", ">allowance", "every", ">grace days", ">rollover", ">trial")


@click.group()
def offer() -> None:
    """The price list: packs of credits, and rates for any number.

    \b
    Examples:
      credit-sidecar offer set ten --credits 10 --price 1000 --currency usd
      credit-sidecar offer set rate --rate --credits 1 --price 100 --currency usd
      credit-sidecar offer list
    """


@offer.command("set")
@click.argument("offer")
@click.option("--credits", type=Credits(), help="How many credits it sells, or the rate is for.")
@click.option("--price", type=int, help="In the smallest unit, before tax: 1000 is 10 USD.")
@click.option("--currency", help="Three small letters, e.g. usd.")
@click.option("--rate/--pack", "is_rate", default=None, help="Sells any number in proportion.")
@click.option("--minimum-price", type=int, help="The least price, in the smallest unit.")
@click.option("--active/--inactive", "is_active", default=None, help="Whether it is sold now.")
@data_dir_option
@json_option
def set_offer(offer: str, data_dir: Path | None, is_json: bool, **fields: Any) -> None:
    """Make an offer or change it; what is not named stays as it is."""
    row = call_control(data_dir, "PUT", path_of("offers", offer), _given(fields))
    print_page({"data": [row], "next_cursor": None}, _OFFER_COLUMNS, _offer_line, row, is_json)


@offer.command("list")
@data_dir_option
@json_option
def list_offers(data_dir: Path | None, is_json: bool) -> None:
    """List what is sold, newest first."""
    page = call_control(data_dir, "GET", path_of("offers"))
    print_page(page, _OFFER_COLUMNS, _offer_line, page, is_json)


@click.group()
def plan() -> None:
    """What recurring prices at Stripe give.

    \b
    Examples:
      credit-sidecar plan set price_123 --allowance 100
      credit-sidecar plan set price_123 --grace-days 7 --rollover-cap 50
      credit-sidecar plan list
    """


@plan.command("set")
@click.argument("stripe_price")
@click.option("--allowance", type=Credits(), help="Credits for each unit and period.")
@click.option("--grace-days", type=click.IntRange(0, 365), help="After a renewal that failed.")
@click.option("--rollover-cap", type=Credits(), help="Most credits that are carried over.")
@click.option(
    "--upgrade-allowance", type=click.Choice(["prorated", "full"]), help="What an upgrade adds."
)
@click.option(
    "--allowance-interval", type=click.Choice(["period", "month"]), help="How often it is given."
)
@click.option("--trial-allowance", type=Credits(), help="Credits for a trial.")
@data_dir_option
@json_option
def set_plan(stripe_price: str, data_dir: Path | None, is_json: bool, **fields: Any) -> None:
    """Make a plan or change it; what is not named stays as it is."""
    row = call_control(data_dir, "PUT", path_of("plans", stripe_price), _given(fields))
    print_page({"data": [row], "next_cursor": None}, _PLAN_COLUMNS, _plan_line, row, is_json)


@plan.command("list")
@data_dir_option
@json_option
def list_plans(data_dir: Path | None, is_json: bool) -> None:
    """List the plans, newest first."""
    page = call_control(data_dir, "GET", path_of("plans"))
    print_page(page, _PLAN_COLUMNS, _plan_line, page, is_json)


@click.command()
@click.argument("account")
@click.option("--credits", type=Credits(), help="How many credits, at the rate.")
@click.option("--offer", help="Or a pack of the price list.")
@click.option("--currency", help="Of the rate, when there are several.")
@click.option("--success-url", required=True, help="Where Stripe sends the customer afterwards.")
@click.option("--cancel-url", help="Where it sends one who does not pay.")
@click.option("--save-card", is_flag=True, help="Let auto top-up charge the card later.")
@data_dir_option
@json_option
def checkout(account: str, data_dir: Path | None, is_json: bool, **fields: Any) -> None:
    """Make a page at Stripe on which an account buys credits.

    \b
    Example:
      credit-sidecar checkout acme --credits 25 --success-url https://example.com/thanks
    """
    from sidecar.commands.output import print_json

    client_settings(data_dir).require("stripe_secret_key")
    row = call_control(data_dir, "POST", account_path(account, "checkout"), _given(fields))
    if is_json:
        print_json(row)
        return
    click.echo(f"Order {row['order_id']}. Pay it here:\n{row['url']}")


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _offer_line(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        row["id"],
        "any number" if row["is_rate"] else "a pack",
        format_credits(row["credits"]),
        shown(row["price"], row["currency"]),
        shown(row["minimum_price"], row["currency"]),
        "yes" if row["is_active"] else "no",
    )


def _plan_line(row: dict[str, Any]) -> tuple[Any, ...]:
    return (
        row["stripe_price"],
        format_credits(row["allowance"]),
        row["allowance_interval"],
        row["grace_days"],
        format_credits(row["rollover_cap"]),
        format_credits(row["trial_allowance"]),
    )
