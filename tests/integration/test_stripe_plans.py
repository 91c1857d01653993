"""Plans: made, changed, found and listed by the price in Stripe that they belong to."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine

from sidecar.billing import plans
from sidecar.domain import MAX_AMOUNT
from sidecar.errors import Refusal
from tests.integration.plan_objects import invoice, subscription
from tests.integration.plan_world import Shelf
from tests.integration.stripe_events import event
from tests.integration.stripe_inbox import HOUR_MS, Inbox

PRICE = "price_pro"
NEW = {
    "stripe_price": PRICE,
    "allowance": 500,
    "grace_days": 3,
    "rollover_cap": 0,
    "upgrade_allowance": "prorated",
    "allowance_interval": "period",
    "trial_allowance": 0,
    "created_ms": 1_000,
    "updated_ms": 1_000,
}


def put(engine: Engine, price: str = PRICE, now_ms: int = 1_000, **changes: Any) -> dict[str, Any]:
    with engine.begin() as c:
        return plans.put_plan(c, price, changes, now_ms)


def test_a_new_plan_needs_an_allowance_and_has_defaults(engine: Engine) -> None:
    with pytest.raises(Refusal) as refused:
        put(engine, grace_days=1)
    assert (refused.value.http, refused.value.param) == (422, "allowance")
    assert put(engine, allowance=500) == NEW


def test_what_is_absent_is_kept_and_none_is_the_default(engine: Engine) -> None:
    put(engine, allowance=500, grace_days=9, rollover_cap=7, allowance_interval="month")
    changed = put(engine, now_ms=2_000, grace_days=None, trial_allowance=20)
    assert changed == NEW | {
        "rollover_cap": 7,
        "allowance_interval": "month",
        "trial_allowance": 20,
        "updated_ms": 2_000,
    }
    with engine.connect() as c:
        assert plans.get_plan(c, PRICE) == changed
        assert plans.get_plan(c, "price_other") is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("allowance", None),
        ("allowance", 0),
        ("allowance", MAX_AMOUNT + 1),
        ("allowance", True),
        ("allowance", "500"),
        ("allowance", 1.5),
        ("grace_days", -1),
        ("grace_days", 366),
        ("rollover_cap", -1),
        ("trial_allowance", MAX_AMOUNT + 1),
        ("upgrade_allowance", "half"),
        ("upgrade_allowance", ["full"]),
        ("allowance_interval", "week"),
        ("stripe_price", "price_other"),
        ("no", 1),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_field(
    engine: Engine, field: str, value: Any
) -> None:
    put(engine, allowance=500)
    with engine.begin() as c, pytest.raises(Refusal) as refused:
        plans.put_plan(c, PRICE, {field: value}, 2_000)
    assert (refused.value.http, refused.value.param) == (422, field)
    with engine.connect() as c:
        assert plans.get_plan(c, PRICE) == NEW


def test_a_price_that_is_no_id_is_refused(engine: Engine) -> None:
    with pytest.raises(Refusal) as refused:
        put(engine, price="price 1", allowance=1)
    assert refused.value.param == "stripe_price"


def test_events_that_failed_for_want_of_a_plan_are_due_when_it_is_made(engine: Engine) -> None:
    shelf: Any = Shelf()
    shelf.put(subscription())
    inbox = Inbox(engine, shelf)
    inbox.make_account()
    inbox.store(event("invoice.paid", invoice()), event("invoice.paid", invoice("in_2", [])))
    while inbox.statuses() != ["dead", "applied"]:
        inbox.run()
        inbox.clock.now += HOUR_MS
    put(engine, "price_other", now_ms=inbox.clock(), allowance=5)
    assert inbox.statuses() == ["dead", "applied"]

    put(engine, "price_pro", now_ms=inbox.clock(), allowance=500)
    inbox.run()
    assert inbox.statuses() == ["applied", "applied"]
    assert inbox.ledger() == 500


def test_plans_are_listed_newest_first_page_by_page(engine: Engine) -> None:
    for number in range(5):
        put(engine, f"price_{number}", allowance=number + 1)
    seen, cursor = [], None
    with engine.connect() as c:
        while True:
            page = plans.list_plans(c, 2, cursor)
            seen += [row["stripe_price"] for row in page.rows]
            cursor = page.next_cursor
            if cursor is None:
                break
    assert seen == [f"price_{number}" for number in (4, 3, 2, 1, 0)]
    assert "no" not in page.rows[0]
