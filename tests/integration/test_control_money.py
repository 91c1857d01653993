"""Plans, auto top-up, payments and fees over HTTP, as operators save and see them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, insert, select, update

from persistence.money_tables import orders, stripe_disputes, stripe_refunds
from persistence.plan_tables import allowances, stripe_subscriptions
from persistence.stripe_tables import control_actions, stripe_payments
from persistence.tables import accounts as accounts_table
from persistence.top_up_tables import alerts, auto_top_up_attempts, auto_top_ups
from tests.integration.control_client import error_of, refused

CREDIT = 1_000_000
TOP_UP = "/v1/accounts/acme/auto-top-up"
SETTINGS: dict[str, Any] = {
    "enabled": True,
    "threshold": 5 * CREDIT,
    "amount": 20 * CREDIT,
    "monthly_cap": 100 * CREDIT,
}
RATE = {"credits": CREDIT, "price": 100, "currency": "usd", "is_rate": True}
NOVEMBER_MS = 1_795_000_000_000  # 18 November 2026
DAY_MS = 86_400_000
WRONG_PLANS: list[tuple[dict[str, Any], str]] = [
    *(({"allowance": value}, "allowance") for value in (0, 2**53, 1.5, "1", None)),
    *(({"grace_days": value}, "grace_days") for value in (-1, 366, 1.0)),
    ({"rollover_cap": -1}, "rollover_cap"),
    ({"upgrade_allowance": "some"}, "upgrade_allowance"),
    ({"allowance_interval": "week"}, "allowance_interval"),
    ({"trial_allowance": True}, "trial_allowance"),
    ({"price": "x"}, "price"),
]


def actions(engine: Engine) -> list[str]:
    """Return what operators did, in its order."""
    with engine.connect() as c:
        query = select(control_actions.c.action).order_by(control_actions.c.id)
        return list(c.scalars(query))


@pytest.fixture
def shop(control: httpx.Client) -> httpx.Client:
    """A listener whose price list has a rate."""
    assert control.put("/v1/offers/rate", json=RATE).status_code == 200
    return control


def marks(engine: Engine) -> list[int | None]:
    """Return below which balance the accounts are topped up."""
    with engine.connect() as c:
        return list(c.scalars(select(accounts_table.c.top_up_threshold)))


def test_auto_top_up_is_off_until_it_is_saved(shop: httpx.Client, engine: Engine) -> None:
    off = shop.get(TOP_UP).json()
    assert (off["enabled"], off["threshold"], off["next_ms"]) == (False, None, None)
    saved = shop.put(TOP_UP, json=SETTINGS)
    assert saved.status_code == 200, saved.text
    assert saved.json() == SETTINGS | {
        "account": "acme",
        "paused_reason": None,
        "paused_ms": None,
        "declines": 0,
        "next_ms": None,
        "spent_this_month": 0,
        "in_flight": False,
        "attempts": [],
    }
    assert shop.get(TOP_UP).json() == saved.json()
    assert set(off) == set(saved.json())
    assert marks(engine) == [5 * CREDIT]
    assert actions(engine)[-1] == "put_auto_top_up"


def test_absent_fields_of_auto_top_up_stay_and_a_null_cap_is_none(
    shop: httpx.Client, engine: Engine
) -> None:
    shop.put(TOP_UP, json=SETTINGS)
    changed = shop.put(TOP_UP, json={"threshold": 7 * CREDIT, "monthly_cap": None}).json()
    assert (changed["amount"], changed["threshold"]) == (20 * CREDIT, 7 * CREDIT)
    assert (changed["monthly_cap"], changed["enabled"]) == (None, True)
    assert shop.put(TOP_UP, json={"enabled": None}).json()["enabled"] is False
    assert marks(engine) == [None]


def test_auto_top_up_can_be_switched_off_whatever_the_price_list_says(
    shop: httpx.Client, engine: Engine
) -> None:
    shop.put(TOP_UP, json=SETTINGS)
    assert shop.put("/v1/offers/rate", json={"minimum_price": 10**6}).status_code == 200
    refused(shop.put(TOP_UP, json={}), 422, "invalid_request", "amount")
    off = shop.put(TOP_UP, json={"enabled": False})
    assert (off.status_code, off.json()["enabled"]) == (200, False)
    assert marks(engine) == [None]


def test_saving_ends_a_pause(shop: httpx.Client, engine: Engine) -> None:
    shop.put(TOP_UP, json=SETTINGS)
    with engine.begin() as c:
        paused = {"paused_reason": "declined", "paused_ms": 5, "declines": 4, "next_ms": 10**14}
        c.execute(update(auto_top_ups).values(paused))
    shown = shop.get(TOP_UP).json()
    assert (shown["paused_reason"], shown["declines"], shown["next_ms"]) == ("declined", 4, 10**14)
    resumed = shop.put(TOP_UP, json={}).json()
    assert (resumed["paused_reason"], resumed["declines"], resumed["next_ms"]) == (None, 0, None)
    with engine.connect() as c:
        assert list(c.scalars(select(alerts.c.kind))) == ["auto_top_up.resumed"]


def test_auto_top_up_shows_what_it_bought_this_month(shop: httpx.Client, engine: Engine) -> None:
    shop.put(TOP_UP, json=SETTINGS)
    now_ms = shop.get("/v1/accounts/acme").json()["created_ms"]
    order = {"id": "ord_1", "account": "acme", "purpose": "auto_top_up", "offer": "rate"}
    attempt = {"id": "a1", "account": "acme", "order_id": "ord_1", "status": "charged"}
    times = {"created_ms": now_ms, "updated_ms": now_ms, "due_ms": now_ms}
    with engine.begin() as c:
        money = {"credits": 20 * CREDIT, "price": 2_000, "currency": "usd", "created_ms": now_ms}
        c.execute(insert(orders).values(order | money))
        c.execute(insert(auto_top_up_attempts).values(attempt | times | {"parameters": "{}"}))
    shown = shop.get(TOP_UP).json()
    assert (shown["spent_this_month"], shown["in_flight"]) == (20 * CREDIT, True)
    assert [(one["id"], one["status"]) for one in shown["attempts"]] == [("a1", "charged")]
    assert "parameters" not in shown["attempts"][0]


def test_auto_top_up_needs_something_that_is_sold_at_a_rate(
    control: httpx.Client, engine: Engine
) -> None:
    refused(control.put(TOP_UP, json=SETTINGS), 422, "invalid_request", "enabled")
    assert control.get(TOP_UP).json()["threshold"] is None
    off = control.put(TOP_UP, json=SETTINGS | {"enabled": False})
    assert (off.status_code, off.json()["enabled"]) == (200, False)
    control.put("/v1/offers/rate", json=RATE)
    response = control.put(TOP_UP, json={"enabled": True, "amount": 5 * CREDIT})
    refused(response, 422, "invalid_request", "amount")
    assert "Stripe would keep about 8.9 %" in error_of(response)["message"]
    assert control.put(TOP_UP, json={"enabled": True}).status_code == 200


@pytest.mark.parametrize(
    ("change", "param"),
    [
        *(({"threshold": value}, "threshold") for value in (0, -1, 2**53, 1.0, "1", None)),
        *(({"amount": value}, "amount") for value in (0, True, None)),
        *(({"monthly_cap": value}, "monthly_cap") for value in (0, 1, 0.5)),
        *(({"enabled": value}, "enabled") for value in (1, "true")),
        ({"paused_reason": None}, "paused_reason"),
    ],
)
def test_wrong_settings_of_auto_top_up_are_refused(
    shop: httpx.Client, engine: Engine, change: dict[str, Any], param: str
) -> None:
    refused(shop.put(TOP_UP, json=SETTINGS | change), 422, "invalid_request", param)
    with engine.connect() as c:
        assert c.execute(select(auto_top_ups)).first() is None


def test_plans_are_made_changed_and_listed(control: httpx.Client, engine: Engine) -> None:
    refused(control.put("/v1/plans/price_1", json={}), 422, "invalid_request", "allowance")
    made = control.put("/v1/plans/price_1", json={"allowance": 5}).json()
    assert 0 < made.pop("created_ms") <= made.pop("updated_ms")
    assert made == {
        "stripe_price": "price_1",
        "allowance": 5,
        "grace_days": 3,
        "rollover_cap": 0,
        "upgrade_allowance": "prorated",
        "allowance_interval": "period",
        "trial_allowance": 0,
    }
    body = {"grace_days": 0, "upgrade_allowance": "full", "allowance_interval": "month"}
    changed = control.put("/v1/plans/price_1", json=body | {"rollover_cap": 7}).json()
    assert changed.items() >= (body | {"allowance": 5, "rollover_cap": 7}).items()
    cleared = control.put("/v1/plans/price_1", json={"grace_days": None}).json()
    assert (cleared["grace_days"], cleared["rollover_cap"]) == (3, 7)
    cleared = control.put("/v1/plans/price_1", json={}).json()
    control.put("/v1/plans/price_2", json={"allowance": 1})
    first = control.get("/v1/plans?limit=1").json()
    second = control.get(f"/v1/plans?limit=1&cursor={first['next_cursor']}").json()
    assert [first["data"][0]["stripe_price"], *second["data"]] == ["price_2", cleared]
    assert actions(engine) == ["put_account", *["put_plan"] * 4]


@pytest.mark.usefixtures("nothing_changes")
def test_wrong_fields_of_a_plan_are_refused_by_their_name(control: httpx.Client) -> None:
    for change, param in WRONG_PLANS:
        response = control.put("/v1/plans/price_1", json={"allowance": 5} | change)
        refused(response, 422, "invalid_request", param)
    for path in ("a%20b", "%00", "%ff", "x" * 129):
        response = control.put(f"/v1/plans/{path}", json={"allowance": 5})
        refused(response, 422, "invalid_request", "stripe_price")


def test_an_accounts_subscriptions_come_with_their_allowances(
    control: httpx.Client, engine: Engine
) -> None:
    assert control.get("/v1/accounts/acme/subscriptions").json() == {
        "data": [],
        "next_cursor": None,
    }
    times = {"created_ms": 1, "updated_ms": 1}
    with engine.begin() as c:
        c.execute(
            insert(stripe_subscriptions).values(
                subscription="sub_1",
                account="acme",
                customer="cus_1",
                status="active",
                items=[{"item": "si_1", "price": "price_1", "quantity": 2}],
                state="active",
                is_ending=False,
                fetched_ms=1,
                **times,
            )
        )
        c.execute(
            insert(allowances).values(
                subscription_item="si_1",
                starts_ms=1,
                account="acme",
                subscription="sub_1",
                stripe_price="price_1",
                quantity=2,
                ends_ms=9,
                expires_ms=10,
                due_ms=1,
                rollover_cap=0,
                target=50,
                granted=50,
                invoice="in_1",
                **times,
            )
        )
    (row,) = control.get("/v1/accounts/acme/subscriptions").json()["data"]
    assert (row["subscription"], row["state"], row["is_ending"]) == ("sub_1", "active", False)
    (allowance,) = row["allowances"]
    assert (allowance["granted"], allowance["ends_ms"]) == (50, 9)


def add_payment(c: Any, id: str, **fields: Any) -> None:
    """Write a payment of ten dollars of which Stripe kept 59 cents."""
    row: dict[str, Any] = {
        "payment_intent": id,
        "account": "acme",
        "credits": 10 * CREDIT,
        "granted": 10 * CREDIT,
        "is_paid": True,
        "paid_minor_units": 1_000,
        "amount": 1_000,
        "currency": "usd",
        "charge": f"ch_of_{id}",
        "fee": 59,
        "fee_currency": "usd",
        "livemode": False,
        "created_ms": NOVEMBER_MS,
        "updated_ms": NOVEMBER_MS,
    }
    c.execute(insert(stripe_payments).values(row | fields))


def test_payments_show_what_went_back_and_what_stripe_kept(
    control: httpx.Client, engine: Engine
) -> None:
    times = {"created_ms": 1, "updated_ms": 1}
    money = {"amount": 250, "currency": "usd"} | times
    with engine.begin() as c:
        add_payment(c, "pi_1", clawed_back=5 * CREDIT)
        add_payment(c, "pi_2", fee=None, fee_currency=None, created_ms=NOVEMBER_MS + 1)
        add_payment(c, "pi_3", fee_currency="eur", created_ms=NOVEMBER_MS + 2)
        add_payment(c, "pi_4", is_paid=False, granted=0, paid_minor_units=None, account="other")
        for id, status, field in (
            ("re_1", "succeeded", {"payment_intent": "pi_1"}),
            ("re_2", "pending", {"charge": "ch_of_pi_1"}),
            ("re_3", "failed", {"payment_intent": "pi_1"}),
        ):
            c.execute(
                insert(stripe_refunds).values(money | field | {"refund": id, "status": status})
            )
        dispute = {"dispute": "dp_1", "status": "lost", "is_withdrawn": True, "fetched_ms": 1}
        c.execute(insert(stripe_disputes).values(money | dispute | {"payment_intent": "pi_1"}))

    rows = control.get("/v1/accounts/acme/payments").json()["data"]
    assert [row["payment_intent"] for row in rows] == ["pi_3", "pi_2", "pi_1"]
    assert [row["fee_percent"] for row in rows] == [None, None, 5.9]
    assert [row["refunded"] for row in rows] == [0, 0, 500]
    assert [row["disputed"] for row in rows] == [0, 0, 250]
    assert (rows[2]["granted"], rows[2]["clawed_back"]) == (10 * CREDIT, 5 * CREDIT)
    csv = control.get("/v1/accounts/acme/payments", headers={"Accept": "text/csv"})
    assert csv.text.splitlines()[0].startswith("payment_intent,order_id")


def test_payments_of_the_same_moment_are_all_on_some_page(
    control: httpx.Client, engine: Engine
) -> None:
    with engine.begin() as c:
        for number in range(7):
            add_payment(c, f"pi_{number}")
    found: list[str] = []
    cursor = ""
    while True:
        page = control.get(f"/v1/accounts/acme/payments?limit=3{cursor}").json()
        found += [row["payment_intent"] for row in page["data"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert sorted(found) == [f"pi_{number}" for number in range(7)]
    refused(control.get("/v1/accounts/acme/payments?cursor=WzFd"), 422, "invalid_request", "cursor")


def test_fees_are_summed_by_month_and_currency_and_thin_margins_named(
    control: httpx.Client, engine: Engine
) -> None:
    with engine.begin() as c:
        add_payment(c, "pi_1")
        add_payment(c, "pi_2", paid_minor_units=10_000, fee=320, created_ms=NOVEMBER_MS + 1)
        add_payment(c, "pi_3", fee=None, fee_currency=None)
        add_payment(c, "pi_4", currency="jpy", fee_currency="jpy", fee=36)
        add_payment(c, "pi_5", created_ms=NOVEMBER_MS - 30 * DAY_MS)
        add_payment(c, "pi_6", is_paid=False, granted=0, paid_minor_units=None, fee=None)
    answer = control.get("/v1/stripe/fees").json()
    assert [tuple(row.values()) for row in answer["data"]] == [
        ("2026-11", "jpy", 1, 1_000, 36, 3.6, 0),
        ("2026-11", "usd", 3, 12_000, 379, 3.4, 1),
        ("2026-10", "usd", 1, 1_000, 59, 5.9, 0),
    ]
    assert answer["thin_percent"] == 5
    assert [row["payment_intent"] for row in answer["thin"]] == ["pi_1", "pi_5"]
    assert answer["thin"][0]["fee_percent"] == 5.9
    later = control.get(f"/v1/stripe/fees?since_ms={NOVEMBER_MS}&thin_percent=3&limit=1").json()
    assert [row["month"] for row in later["data"]] == ["2026-11", "2026-11"]
    assert [row["payment_intent"] for row in later["thin"]] == ["pi_2"]
    assert control.get("/v1/stripe/fees?thin_percent=50").json()["thin"] == []
    csv = control.get("/v1/stripe/fees", headers={"Accept": "text/csv"}).text
    assert csv.splitlines()[1] == "2026-11,jpy,1,1000,36,3.6,0"
    for query, param in (("thin_percent=101", "thin_percent"), ("month=x", "month")):
        refused(control.get(f"/v1/stripe/fees?{query}"), 422, "invalid_request", param)


def test_what_belongs_to_an_account_is_a_404_without_one(control: httpx.Client) -> None:
    for path in ("payments", "subscriptions", "auto-top-up"):
        refused(control.get(f"/v1/accounts/nobody/{path}"), 404, "account_not_found")
    response = control.put("/v1/accounts/nobody/auto-top-up", json=SETTINGS)
    refused(response, 404, "account_not_found")


def test_all_of_it_needs_the_token(control: httpx.Client) -> None:
    for method, path in (
        ("GET", "/v1/offers"),
        ("PUT", "/v1/offers/x"),
        ("GET", "/v1/plans"),
        ("PUT", "/v1/plans/x"),
        ("GET", TOP_UP),
        ("PUT", TOP_UP),
        ("GET", "/v1/accounts/acme/payments"),
        ("GET", "/v1/accounts/acme/subscriptions"),
        ("GET", "/v1/stripe/fees"),
        ("GET", "/v1/alerts"),
        ("POST", "/v1/alerts/x/replay"),
    ):
        response = control.request(method, path, headers={"Authorization": "no"}, json={})
        refused(response, 401, "unauthorized")
