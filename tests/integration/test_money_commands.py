"""The operators' commands about money, against a real ledger and a fake Stripe."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from sidecar.billing import alert_rows, inbox_rows
from sidecar.billing.alerts import AlertKind, raise_alert
from sidecar.billing.webhook import parse_event
from sidecar.cli import cli
from sidecar.commands import money
from sidecar.errors import Refusal, SettingsError
from tests.integration import fake_stripe
from tests.integration.stripe_events import body_of, payment_succeeded


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch, postgres_url: str, redis_url: str) -> None:
    monkeypatch.setenv("CREDITS_POSTGRES_URL", postgres_url)
    monkeypatch.setenv("CREDITS_REDIS_URL", redis_url)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def answer(*arguments: str) -> Any:
    return json.loads(run(*arguments, "--json").output)


def put_rate() -> None:
    run("offer", "set", "rate", "--rate", "--credits", "1", "--price", "100", "--currency", "usd")


def test_offers_are_made_changed_and_listed() -> None:
    put_rate()
    made = answer(
        *("offer", "set", "pack", "--credits", "12.5", "--price", "1000", "--currency", "usd")
    )
    assert (made["credits"], made["is_rate"], made["is_active"]) == (12_500_000, False, True)
    changed = answer("offer", "set", "pack", "--inactive")
    assert (changed["price"], changed["is_active"]) == (1_000, False)
    assert [row["id"] for row in answer("offer", "list")["data"]] == ["pack", "rate"]
    table = run("offer", "list").output
    assert "10.00 USD" in table
    assert "any number" in table
    with pytest.raises(Refusal, match=r"Of 5\.00 USD Stripe would keep about 8\.9 %"):
        run("offer", "set", "pack", "--price", "500")


def test_plans_are_made_and_listed() -> None:
    made = answer("plan", "set", "price_1", "--allowance", "100", "--rollover-cap", "20")
    assert (made["allowance"], made["rollover_cap"]) == (100_000_000, 20_000_000)
    assert answer("plan", "set", "price_1", "--grace-days", "7")["grace_days"] == 7
    assert "price_1" in run("plan", "list").output


def test_auto_top_up_is_saved_and_shown() -> None:
    run("account", "create", "acme")
    assert "does not top up" in run("auto-top-up", "show", "acme").output
    put_rate()
    saved = answer(
        *("auto-top-up", "set", "acme", "--threshold", "5", "--amount", "25"),
        *("--monthly-cap", "100"),
    )
    assert (saved["enabled"], saved["monthly_cap"]) == (True, 100_000_000)
    text = run("auto-top-up", "set", "acme", "--no-cap", "--off").output
    assert "Off: below 5 credits buy 25, without a cap." in text
    assert answer("auto-top-up", "show", "acme")["monthly_cap"] is None


def test_a_page_to_pay_on_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    run("account", "create", "acme")
    put_rate()
    wish = ("checkout", "acme", "--credits", "25", "--success-url", "https://a.example")
    with pytest.raises(SettingsError, match="CREDITS_STRIPE_SECRET_KEY"):
        run(*wish)
    with fake_stripe.running() as fake:
        monkeypatch.setenv("CREDITS_STRIPE_SECRET_KEY", fake_stripe.KEY)
        monkeypatch.setenv("CREDITS_STRIPE_API_BASE", fake.url)
        assert fake.url in run(*wish).output
        assert set(answer(*wish, "--save-card")) == {"url", "order_id"}


def test_events_are_listed_and_replayed_and_fees_are_shown(engine: Engine) -> None:
    event = payment_succeeded()
    with engine.begin() as c:
        inbox_rows.store(c, parse_event(body_of(event)), 1)
    assert event["id"] in run("stripe", "events", "--limit", "1").output
    assert answer("stripe", "replay", event["id"])["status"] == "pending"
    assert "a worker takes it next" in run("stripe", "replay", event["id"]).output
    both = run("stripe", "replay", event["id"], event["id"]).output
    assert both.count("a worker takes it next") == 2
    assert [row["id"] for row in answer("stripe", "events", "--status", "pending")["data"]] == [
        event["id"]
    ]
    assert answer("stripe", "events", "--status", "dead")["data"] == []
    assert answer("stripe", "fees")["data"] == []
    assert "Stripe kept" in run("stripe", "fees").output


def test_alerts_are_listed_and_replayed(engine: Engine) -> None:
    with engine.begin() as c:
        for name in ("acme", "other"):
            raise_alert(c, AlertKind.EXHAUSTED, name, {}, key="1", now_ms=1)
    (row,) = answer("alerts", "list", "--account", "acme")["data"]
    assert row["kind"] == "balance.exhausted"
    assert "--cursor" in run("alerts", "list", "--limit", "1").output
    assert answer("alerts", "replay", row["id"])["status"] == "pending"
    assert len(answer("alerts", "list", "--status", "pending")["data"]) == 2
    assert answer("alerts", "list", "--status", "dead")["data"] == []


def test_the_statuses_that_can_be_asked_for_are_those_that_there_are() -> None:
    assert money.EVENT_STATUSES == inbox_rows.STATUSES
    assert money.ALERT_STATUSES == alert_rows.STATUSES
