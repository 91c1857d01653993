"""The price list over HTTP: what is sold, at which price, and what is refused."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, select

from persistence.money_tables import orders
from persistence.stripe_tables import control_actions
from sidecar.billing import offers
from sidecar.billing.orders import OrderPurpose, get_order, make_order
from sidecar.errors import Refusal
from tests.integration.control_client import error_of, refused

TEN: dict[str, Any] = {"credits": 10_000_000, "price": 1_000, "currency": "usd"}
RATE: dict[str, Any] = {"credits": 1_000_000, "price": 100, "currency": "usd", "is_rate": True}
WRONG: list[tuple[dict[str, Any], str]] = [
    *(({"credits": value}, "credits") for value in (0, -1, 2**53, 1.0, True, "1")),
    *(({"price": value}, "price") for value in (0, 100_000_000, 1.5, "1")),
    *(({"currency": value}, "currency") for value in ("USD", "us", "usdd", "u$d", "", 1)),
    *(({"is_rate": value}, "is_rate") for value in (1, "true")),
    *(({"minimum_price": value}, "minimum_price") for value in (0, 100_000_000)),
    ({"is_active": 0}, "is_active"),
    ({"id": "x"}, "id"),
]


def put(control: httpx.Client, id: str = "ten", **fields: Any) -> httpx.Response:
    """Make or change an offer."""
    return control.put(f"/v1/offers/{id}", json=fields)


def made(response: httpx.Response) -> dict[str, Any]:
    """Return the offer of an answer."""
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def test_an_offer_is_answered_as_it_now_is(control: httpx.Client) -> None:
    row = made(put(control, **TEN))
    assert 0 < row.pop("created_ms") <= row.pop("updated_ms")
    assert row == TEN | {"id": "ten", "is_rate": False, "minimum_price": 1_000, "is_active": True}


def test_put_keeps_absent_fields_and_sets_null_ones_to_their_default(control: httpx.Client) -> None:
    put(control, **TEN | {"price": 500, "minimum_price": 500, "is_active": False})
    kept = made(put(control, credits=6_000_000))
    assert (kept["price"], kept["credits"], kept["minimum_price"]) == (500, 6_000_000, 500)
    assert kept["is_active"] is False
    reset = made(put(control, price=2_000, minimum_price=None, is_active=None))
    assert (reset["minimum_price"], reset["is_active"]) == (1_000, True)
    for name in ("credits", "price", "currency"):
        response = control.put("/v1/offers/ten", json={name: None})
        refused(response, 422, "invalid_request", name)


def test_a_new_offer_needs_credits_price_and_currency(control: httpx.Client) -> None:
    for name in TEN:
        fields = {key: value for key, value in TEN.items() if key != name}
        refused(put(control, **fields), 422, "invalid_request", name)
    assert control.get("/v1/offers").json() == {"data": [], "next_cursor": None}


def test_another_currency_has_another_minimum(control: httpx.Client) -> None:
    put(control, **TEN)
    assert made(put(control, price=1_500, currency="jpy"))["minimum_price"] == 1_000
    assert made(put(control, price=10_000, currency="kwd"))["minimum_price"] == 10_000
    refused(put(control, price=9_990), 422, "invalid_request", "price")
    refused(put(control, price=10_001), 422, "invalid_request", "price")


def test_a_price_of_which_stripe_would_keep_much_is_refused_unless_it_is_wanted(
    control: httpx.Client,
) -> None:
    response = put(control, **TEN | {"price": 500})
    refused(response, 422, "invalid_request", "price")
    message = error_of(response)["message"]
    assert "Of 5.00 USD Stripe would keep about 8.9 %" in message
    assert "10.00 USD" in message
    assert made(put(control, **TEN | {"price": 500, "minimum_price": 500}))["price"] == 500


def test_a_rate_may_cost_little_for_one_credit(control: httpx.Client) -> None:
    row = made(put(control, "rate", **RATE | {"price": 1}))
    assert (row["price"], row["minimum_price"], row["is_rate"]) == (1, 1_000, True)


def test_a_currency_has_one_active_rate(control: httpx.Client) -> None:
    put(control, "rate", **RATE)
    response = put(control, "other", **RATE)
    refused(response, 422, "invalid_request", "is_rate")
    assert "Offer rate" in error_of(response)["message"]
    assert made(put(control, "euro", **RATE | {"currency": "eur"}))["is_active"] is True
    assert made(put(control, "other", **RATE | {"is_active": False}))["is_active"] is False
    refused(put(control, "other", is_active=True), 422, "invalid_request", "is_rate")
    put(control, "rate", is_active=False)
    assert made(put(control, "other", is_active=True))["is_active"] is True


def test_of_many_rates_at_once_one_is_made(control: httpx.Client) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: put(control, f"rate{n}", **RATE), range(16)))
    assert sorted(answer.status_code for answer in answers) == [200] + [422] * 15


@pytest.mark.usefixtures("nothing_changes")
def test_wrong_fields_are_refused_by_their_name(control: httpx.Client) -> None:
    for change, param in WRONG:
        response = control.put("/v1/offers/ten", json=TEN | change)
        refused(response, 422, "invalid_request", param)


def test_offers_are_listed_newest_first_in_pages_and_as_csv(
    control: httpx.Client, engine: Engine
) -> None:
    for name in ("a", "b", "c"):
        put(control, name, **TEN)
    put(control, "a", price=2_000)
    put(control, "a", price=2_000)
    first = control.get("/v1/offers?limit=2").json()
    assert [row["id"] for row in first["data"]] == ["c", "b"]
    second = control.get(f"/v1/offers?limit=2&cursor={first['next_cursor']}").json()
    assert [row["id"] for row in second["data"]] == ["a"]
    assert set(second["data"][0]) == set(made(put(control, "a")))
    csv = control.get("/v1/offers", headers={"Accept": "text/csv"}).text
    assert csv.splitlines()[0].startswith("id,credits,price,currency")
    refused(control.get("/v1/offers?cursor=x"), 422, "invalid_request", "cursor")
    refused(control.put("/v1/offers/a%20b", json=TEN), 422, "invalid_request", "id")
    with engine.connect() as c:
        actions = list(c.execute(select(control_actions.c.action, control_actions.c.body)))
    assert [action for action, _ in actions] == ["put_account", *["put_offer"] * 4]
    assert actions[-1].body == {"id": "a", "price": 2_000}


def test_an_order_stays_as_it_was_made_whatever_becomes_of_the_offer(
    control: httpx.Client, engine: Engine
) -> None:
    put(control, **TEN)
    with engine.begin() as c:
        offer = offers.get_offer(c, "ten")
        assert offer is not None
        order = make_order(c, "acme", OrderPurpose.CHECKOUT, offer, 1)
    put(control, price=9_999, credits=1, currency="eur", is_active=False)
    with engine.connect() as c:
        assert get_order(c, order.id) == order
    assert (order.credits, order.price, order.currency) == (10_000_000, 1_000, "usd")
    for statement in (
        orders.update().values(price=1),
        orders.update().values(account="acme"),
        orders.delete(),
    ):
        with pytest.raises(Exception, match="append-only"), engine.begin() as c:
            c.execute(statement)


@pytest.mark.parametrize(
    ("id", "credits", "param"),
    [
        ("ten", 9_000_000, "credits"),
        ("rate", None, "credits"),
        ("rate", 9_999_999 - 10_000, "credits"),
        ("rate", 2**53 - 1, "credits"),
        ("old", None, "offer"),
    ],
)
def test_what_an_offer_does_not_sell_is_not_ordered(
    control: httpx.Client, engine: Engine, id: str, credits: int | None, param: str
) -> None:
    put(control, **TEN)
    put(control, "rate", **RATE)
    put(control, "old", **TEN | {"is_active": False})
    with engine.begin() as c:
        offer = offers.get_offer(c, id)
        assert offer is not None
        with pytest.raises(Refusal) as refusal:
            make_order(c, "acme", OrderPurpose.CHECKOUT, offer, 1, credits=credits)
        assert refusal.value.param == param
        assert c.execute(select(orders)).first() is None
