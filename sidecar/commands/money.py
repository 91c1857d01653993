"""`auto-top-up`, `stripe` and `alerts`: what happens by itself, and what to do when it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from sidecar.amounts import format_credits
from sidecar.commands.accounts import Credits
from sidecar.commands.environment import data_dir_option, json_option
from sidecar.commands.paths import account_path, call_control, page_options, path_of, print_page

EVENT_STATUSES: Final = ("pending", "applied", "ignored", "failed", "dead")
ALERT_STATUSES: Final = ("pending", "delivered", "dead")


@click.group("auto-top-up")
def auto_top_up() -> None:
    """Buy credits by itself when an account runs low.

    \b
    Examples:
      credit-sidecar auto-top-up set acme --threshold 5 --amount 25 --monthly-cap 200
      credit-sidecar auto-top-up set acme --off
      credit-sidecar auto-top-up show acme
    """


@auto_top_up.command("set")
@click.argument("account")
@click.option("--threshold", type=Credits(), help="Buy when fewer credits than this are left.")
@click.option("--amount", type=Credits(), help="How many credits to buy.")
@click.option("--monthly-cap", type=Credits(), help="Most credits in a calendar month.")
@click.option("--no-cap", is_flag=True, help="No cap any more.")
@click.option("--on/--off", "enabled", default=None, help="Whether it buys at all.")
@data_dir_option
@json_option
def set_auto_top_up(
    account: str, no_cap: bool, data_dir: Path | None, is_json: bool, **fields: Any
) -> None:
    """Save the settings; what is not named stays as it is. It also ends a pause."""
    body = {name: value for name, value in fields.items() if value is not None}
    if no_cap:
        body["monthly_cap"] = None
    path = account_path(account, "auto-top-up")
    _print_top_up(call_control(data_dir, "PUT", path, body), is_json)


@auto_top_up.command("show")
@click.argument("account")
@data_dir_option
@json_option
def show_auto_top_up(account: str, data_dir: Path | None, is_json: bool) -> None:
    """Show the settings, and why it is paused."""
    path = account_path(account, "auto-top-up")
    _print_top_up(call_control(data_dir, "GET", path), is_json)


@click.group()
def stripe() -> None:
    """What Stripe told, and what it kept.

    \b
    Examples:
      credit-sidecar stripe events --status dead
      credit-sidecar stripe replay evt_123 evt_456
      credit-sidecar stripe fees
    """


@stripe.command("events")
@click.option("--status", type=click.Choice(EVENT_STATUSES), help="Of one status only.")
@page_options
@data_dir_option
@json_option
def events(
    status: str | None, limit: int, cursor: str | None, data_dir: Path | None, is_json: bool
) -> None:
    """List the events in the inbox, newest first."""
    params = _params(limit=limit, cursor=cursor, status=status)
    page = call_control(data_dir, "GET", path_of("stripe", "events"), params=params)
    columns = ("event", "type", "object", "received", "status", ">tries", "error")
    print_page(page, columns, _event_line, page, is_json)


@stripe.command("replay")
@click.argument("events", metavar="EVENT...", nargs=-1, required=True)
@data_dir_option
@json_option
def replay_events(events: tuple[str, ...], data_dir: Path | None, is_json: bool) -> None:
    """Have a worker apply events again; nothing is given twice."""
    for event in events:
        row = call_control(data_dir, "POST", path_of("stripe", "events", event, "replay"))
        _print_replayed(row, is_json)


@stripe.command("fees")
@data_dir_option
@json_option
def fees(data_dir: Path | None, is_json: bool) -> None:
    """Show what Stripe kept, by month and currency."""
    from sidecar.billing.currencies import shown

    page = call_control(data_dir, "GET", path_of("stripe", "fees"))
    columns = ("month", ">payments", ">paid", ">Stripe kept", ">percent", ">fee unknown")

    def line(row: dict[str, Any]) -> tuple[Any, ...]:
        paid, fee = shown(row["paid"], row["currency"]), shown(row["fee"], row["currency"])
        unknown = row["payments_without_fee"]
        return row["month"], row["payments"], paid, fee, row["fee_percent"], unknown

    print_page(page, columns, line, page, is_json)


@click.group()
def alerts() -> None:
    """What your product was told, or should have been.

    \b
    Examples:
      credit-sidecar alerts list --account acme
      credit-sidecar alerts list --status dead
      credit-sidecar alerts replay alert_123 alert_456
    """


@alerts.command("list")
@click.option("--account", help="Of one account only.")
@click.option("--status", type=click.Choice(ALERT_STATUSES), help="Of one status only.")
@page_options
@data_dir_option
@json_option
def list_alerts(data_dir: Path | None, is_json: bool, **filters: Any) -> None:
    """List the alerts, newest first."""
    params = _params(**filters)
    page = call_control(data_dir, "GET", path_of("alerts"), params=params)
    columns = ("alert", "kind", "account", "raised", "status", ">tries", "error")
    print_page(page, columns, _alert_line, page, is_json)


@alerts.command("replay")
@click.argument("alerts", metavar="ALERT...", nargs=-1, required=True)
@data_dir_option
@json_option
def replay_alerts(alerts: tuple[str, ...], data_dir: Path | None, is_json: bool) -> None:
    """Have a worker send alerts again, each under the same id."""
    for alert in alerts:
        row = call_control(data_dir, "POST", path_of("alerts", alert, "replay"))
        _print_replayed(row, is_json)


def _params(**given: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}


def _event_line(row: dict[str, Any]) -> tuple[Any, ...]:
    from sidecar.commands.output import format_instant

    received = format_instant(row["received_ms"])
    named = (row["id"], row["type"], row["object_id"])
    return (*named, received, row["status"], row["attempts"], row["error"])


def _alert_line(row: dict[str, Any]) -> tuple[Any, ...]:
    from sidecar.commands.output import format_instant

    raised = format_instant(row["created_ms"])
    named = (row["id"], row["kind"], row["account"])
    return (*named, raised, row["status"], row["attempts"], row["error"])


def _print_replayed(row: dict[str, Any], is_json: bool) -> None:
    from sidecar.commands.output import print_json

    if is_json:
        print_json(row)
        return
    click.echo(f"{row['id']} is {row['status']}: a worker takes it next.")


def _print_top_up(row: dict[str, Any], is_json: bool) -> None:
    from sidecar.commands.output import format_instant, print_json

    if is_json:
        print_json(row)
        return
    if row["threshold"] is None:
        click.echo(f"{row['account']} does not top up by itself.")
        return
    amounts = {name: format_credits(row[name]) for name in ("threshold", "amount")}
    cap = row["monthly_cap"]
    within = "without a cap" if cap is None else f"up to {format_credits(cap)} a month"
    state = "On" if row["enabled"] else "Off"
    click.echo(f"{state}: below {amounts['threshold']} credits buy {amounts['amount']}, {within}.")
    click.echo(f"Bought this month: {format_credits(row['spent_this_month'])} credits.")
    if row["paused_reason"]:
        click.echo(f"Paused: {row['paused_reason']}. Saving the settings ends that.")
    for one in row["attempts"]:
        error = f", {one['error']}" if one["error"] else ""
        click.echo(f"{format_instant(one['created_ms'])} {one['id']}: {one['status']}{error}")
