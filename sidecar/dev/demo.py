"""The demo account, and what `dev` says when all is up."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from persistence.accounts import get_account, put_account
from persistence.database import in_transaction, make_engine
from persistence.grants import GrantRequest, add_grant
from sidecar.commands.probe import reachable
from sidecar.dev.plan import FAKE_STRIPE_KEY, Plan
from sidecar.domain import Category
from sidecar.kinds import Url

ACCOUNT: Final = "demo"
# Without it, curl says that what follows -d is a form.
_JSON: Final = "-H 'Content-Type: application/json'"
_WELCOME: Final = GrantRequest(ACCOUNT, "demo-welcome", 100_000_000, Category.PROMO)


def make_demo_account(postgres_url: str) -> None:
    """Make the account `demo` with 100 credits, unless an earlier start did."""

    def work(connection: Connection) -> None:
        if get_account(connection, ACCOUNT) is None:
            put_account(connection, ACCOUNT, {"name": "Demo"})
        add_grant(connection, _WELCOME)

    engine = make_engine(postgres_url, pool_size=1)
    try:
        in_transaction(engine, work)
    finally:
        engine.dispose()


def welcome(plan: Plan, redis_url: str, postgres_url: str, data_dir: Path) -> str:
    """Return what runs where, and lines to try."""
    settings = plan.settings
    rows = [
        ("hot path", _url(settings.listen)),
        ("control", f"{_url(settings.control_listen)}   token: {settings.admin_token}"),
        ("worker", f"{_url(settings.worker_listen)}/metrics"),
        ("Stripe", _stripe(plan)),
        ("Redis", _shown(redis_url)),
        ("Postgres", _shown(postgres_url)),
        ("data", str(data_dir)),
    ]
    lines = ["", "Credit Sidecar is ready.", ""]
    lines += [f"  {name:10}{value}" for name, value in rows]
    lines += ["", "Try, in another terminal:", "", *_tries(plan, data_dir), ""]
    lines += ["Ctrl-C stops everything; the credits stay in the data directory.", ""]
    return "\n".join(lines)


def _tries(plan: Plan, data_dir: Path) -> list[str]:
    hot, hot_options = _curl(plan.settings.listen)
    control, control_options = _curl(plan.settings.control_listen)
    key = plan.settings.api_key
    if key:
        hot_options += f" -H 'Authorization: Bearer {key}'"
    admin = f"{control_options} -H 'Authorization: Bearer {plan.settings.admin_token}'"
    hold = '{"account":"demo","id":"call-1","amount":2000000}'
    settle = '{"account":"demo","id":"call-1","amount":1500000}'
    lines = [
        "# an inference call: set 2 credits aside before it, charge 1.5 after it",
        f"curl{hot_options} {hot}/v1/hold {_JSON} -d '{hold}'",
        f"curl{hot_options} {hot}/v1/settle {_JSON} -d '{settle}'",
        f"curl{hot_options} '{hot}/v1/balance?account=demo'",
        "# the same call in the ledger, a moment later",
        f"curl{admin} {control}/v1/accounts/demo/usage",
        *_buy(plan),
        "# metrics, balances, and the proof that nothing was lost",
        f"curl{hot_options} {hot}/metrics",
        f"{_program()} balance demo --data-dir {shlex.quote(str(data_dir))}",
        f"{_program()} audit --data-dir {shlex.quote(str(data_dir))}",
    ]
    return [f"  {line}" for line in lines]


def _program() -> str:
    """Return how the reader can call this program: by its name only where that is found."""
    if shutil.which("credit-sidecar"):
        return "credit-sidecar"
    if Path(sys.argv[0]).name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m sidecar"
    return shlex.quote(os.path.relpath(sys.argv[0]))


def _buy(plan: Plan) -> list[str]:
    if plan.fake_stripe is None:
        return []
    fields = {
        "amount": "500",
        "currency": "usd",
        "confirm": "true",
        "payment_method": "pm_card_visa",
        "metadata[purpose]": "topup",
        "metadata[account]": "demo",
        "metadata[credits]": "10000000",
    }
    data = " ".join(f"-d '{name}={value}'" for name, value in fields.items())
    return [
        "# buy 10 credits from the fake Stripe: its webhook raises the balance",
        f"curl -u {FAKE_STRIPE_KEY}: http://{plan.fake_stripe}/v1/payment_intents {data}",
    ]


def _stripe(plan: Plan) -> str:
    if plan.fake_stripe is None:
        return plan.settings.stripe_api_base
    secrets = ",".join(plan.settings.stripe_webhook_secret)
    return f"http://{plan.fake_stripe}   a fake, with buttons; webhook secret: {secrets}"


def _curl(address: str) -> tuple[str, str]:
    """Return the URL of a listener and the options with which curl reaches it."""
    if address.startswith("unix:"):
        return "http://localhost", f" --unix-socket {address.removeprefix('unix:')}"
    return f"http://{reachable(address)}", ""


def _url(address: str) -> str:
    return address if address.startswith("unix:") else f"http://{reachable(address)}"


def _shown(url: str) -> str:
    return repr(Url(url)).strip("'")
