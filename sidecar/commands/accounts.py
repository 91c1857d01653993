"""`account`, `grant` and `balance`: what operators do with accounts."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from sidecar.amounts import format_credits, parse_credits
from sidecar.commands.environment import data_dir_option, json_option
from sidecar.commands.paths import account_path, call_control, path_of, print_page
from sidecar.domain import Category

_STATUS_COMMANDS = {
    "suspend": "Refuse new holds and debits; running holds can still be settled.",
    "resume": "Let the account spend again; also reopens a closed one.",
    "close": "End the account: like `suspend`, but meant to last.",
}


class Credits(click.ParamType[int]):
    """A number of credits on the command line, e.g. `25` or `0.5`; the value is microcredits."""

    name = "credits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the microcredits of a text."""
        if isinstance(value, int):
            return value
        try:
            return parse_credits(value)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


@click.group()
def account() -> None:
    """Make, change, look at and close accounts.

    \b
    Examples:
      credit-sidecar account create acme --name "Acme Inc."
      credit-sidecar account set acme --overdraft 5
      credit-sidecar account show acme
      credit-sidecar account suspend acme --reason "payment failed"
    """


def _changes(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--stripe-customer", help="Its customer in Stripe, e.g. cus_123."),
        click.option(
            "--low-balance", "low_balance_threshold", type=Credits(), help="Warn below this."
        ),
        click.option(
            "--overdraft", "overdraft_limit", type=Credits(), help="How far below zero it may go."
        ),
        click.option("--name", help="What people call it."),
    ):
        command = option(command)
    return command


@account.command("create")
@click.argument("account")
@_changes
@data_dir_option
@json_option
def create(account: str, data_dir: Path | None, is_json: bool, **changes: Any) -> None:
    """Make an account; harmless when it exists.

    \b
    Example:
      credit-sidecar account create acme --name "Acme Inc." --overdraft 5
    """
    _put(account, data_dir, is_json, changes)


@account.command("set")
@click.argument("account")
@_changes
@data_dir_option
@json_option
def change(account: str, data_dir: Path | None, is_json: bool, **changes: Any) -> None:
    """Change an account that exists; what is not named stays as it is.

    \b
    Example:
      credit-sidecar account set acme --overdraft 0
    """
    _call(data_dir, "GET", account)
    _put(account, data_dir, is_json, changes)


@account.command("show")
@click.argument("account")
@data_dir_option
@json_option
def show(account: str, data_dir: Path | None, is_json: bool) -> None:
    """Show an account and its balances."""
    _print_account(_call(data_dir, "GET", account), is_json)


@account.command("list")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Most rows."
)
@click.option("--cursor", help="`next_cursor` of the page before.")
@data_dir_option
@json_option
def list_accounts(limit: int, cursor: str | None, data_dir: Path | None, is_json: bool) -> None:
    """List the accounts, newest first."""
    params = {"limit": limit} | ({"cursor": cursor} if cursor else {})
    page = call_control(data_dir, "GET", path_of("accounts"), params=params)
    columns = ("account", "name", "status", ">available", ">held", ">ledger")
    print_page(page, columns, _account_line, page, is_json)


def _add_status_command(name: str, sentence: str) -> None:
    @account.command(name, help=sentence, short_help=sentence)
    @click.argument("account")
    @click.option("--reason", required=True, help="Why; the account's callers may see it.")
    @data_dir_option
    @json_option
    def set_status(account: str, reason: str, data_dir: Path | None, is_json: bool) -> None:
        row = _call(data_dir, "POST", account, name, body={"reason": reason})
        _print_account(row, is_json)


for _name, _sentence in _STATUS_COMMANDS.items():
    _add_status_command(_name, _sentence)


@click.command()
@click.argument("account")
@click.option("--credits", type=Credits(), help="How much, in credits, e.g. 25 or 0.5.")
@click.option("--amount", type=int, help="How much, in microcredits (1 credit = 1,000,000).")
@click.option(
    "--category",
    type=click.Choice([category.value for category in Category]),
    default=Category.ADJUSTMENT.value,
    show_default=True,
    help="Where the credits come from.",
)
@click.option("--id", help="Makes a repeat harmless; made up and printed when not given.")
@click.option("--priority", type=click.IntRange(0, 100), help="Lower burns first. [default: 50]")
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]),
    help="When what is left ends, in UTC.",
)
@click.option("--reference", help="What the ledger is to say of it.")
@data_dir_option
@json_option
def grant(
    account: str,
    credits: int | None,
    amount: int | None,
    expires: datetime | None,
    data_dir: Path | None,
    is_json: bool,
    **fields: Any,
) -> None:
    """Give credits to an account.

    \b
    Examples:
      credit-sidecar grant acme --credits 25
      credit-sidecar grant acme --credits 5 --category promo --expires 2030-01-31 --id spring
      credit-sidecar grant acme --amount 1500000 --id order-17 --reference "invoice 17"
    """
    from sidecar.commands.output import print_json

    if (credits is None) == (amount is None):
        raise click.UsageError("Give either --credits or --amount.")
    body = {name: value for name, value in fields.items() if value is not None}
    body |= {"amount": amount if credits is None else credits}
    body["id"] = body.get("id") or f"cli-{uuid.uuid4()}"
    if expires is not None:
        body["expires_at_ms"] = int(expires.replace(tzinfo=UTC).timestamp()) * 1000
    row = _call(data_dir, "POST", account, "grants", body=body)
    if is_json:
        print_json(row)
        return
    given = format_credits(row["granted"])
    click.echo(f"Granted {given} credits ({row['category']}) to {account} as {row['id']}.")


@click.command()
@click.argument("account")
@data_dir_option
@json_option
def balance(account: str, data_dir: Path | None, is_json: bool) -> None:
    """Show what an account can spend, what is held, and its grants.

    \b
    Examples:
      credit-sidecar balance demo
      credit-sidecar balance demo --json
    """
    from sidecar.commands.output import format_instant, print_json, print_table

    row = _call(data_dir, "GET", account)
    grants = _call(data_dir, "GET", account, "grants")["data"]
    if is_json:
        print_json({**row, "grants": grants})
        return
    _print_account(row, is_json)
    columns = ("grant", "category", ">granted", ">left", "expires")
    print_table(
        columns,
        [
            (
                one["id"],
                one["category"],
                format_credits(one["granted"]),
                format_credits(one["remaining"]),
                format_instant(one["expires_at_ms"]),
            )
            for one in grants
        ],
    )


def _put(account: str, data_dir: Path | None, is_json: bool, changes: dict[str, Any]) -> None:
    body = {name: value for name, value in changes.items() if value is not None}
    _print_account(_call(data_dir, "PUT", account, body=body), is_json)


def _call(
    data_dir: Path | None,
    method: str,
    account: str,
    *rest: str,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return call_control(data_dir, method, account_path(account, *rest), body)


def _print_account(row: dict[str, Any], is_json: bool) -> None:
    from sidecar.commands.output import print_json, print_table

    if is_json:
        print_json(row)
        return
    columns = ("account", "name", "status", ">available", ">held", ">ledger")
    print_table(columns, [_account_line(row)])
    if row["status_reason"]:
        click.echo(f"{row['status']}: {row['status_reason']}")


def _account_line(row: dict[str, Any]) -> tuple[Any, ...]:
    balances = row["balances"]
    amounts = [format_credits(balances[name]) for name in ("available", "held", "ledger")]
    return row["account"], row["name"], row["status"], *amounts
