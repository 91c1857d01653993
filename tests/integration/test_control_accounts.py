"""Accounts, grants and adjustments over HTTP, by the contract."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis
from sqlalchemy import Engine, select

from persistence.stripe_tables import control_actions
from sidecar.control.app import build
from sidecar.errors import SettingsError
from sidecar.kinds import Secret
from sidecar.settings import Settings
from tests.integration.control_client import control_listener, refused


@pytest.fixture
def control(postgres_url: str, redis_client: redis.Redis, redis_url: str) -> Iterator[httpx.Client]:
    with control_listener(postgres_url, redis_url) as client:
        yield client


def put(control: httpx.Client, account: str = "acme", **fields: Any) -> httpx.Response:
    return control.put(f"/v1/accounts/{account}", json=fields)


def grant(control: httpx.Client, account: str = "acme", **fields: Any) -> httpx.Response:
    body = {"id": "g1", "amount": 5_000_000, "category": "paid"} | fields
    return control.post(f"/v1/accounts/{account}/grants", json=body)


def actions(engine: Engine) -> list[str]:
    with engine.connect() as c:
        query = select(control_actions.c.action).order_by(control_actions.c.id)
        return list(c.scalars(query))


def test_a_new_account_is_answered_as_it_now_is(control: httpx.Client) -> None:
    response = put(control, name="Acme", overdraft_limit=7)

    assert response.status_code == 200
    body = response.json()
    created, updated = body.pop("created_ms"), body.pop("updated_ms")
    assert 0 < created <= updated
    assert body == {
        "account": "acme",
        "name": "Acme",
        "status": "active",
        "status_reason": None,
        "overdraft_limit": 7,
        "low_balance_threshold": None,
        "stripe_customer": None,
        "outage_allowance": 0,
        "balances": {"ledger": 0, "available": None, "held": None},
    }


def test_put_keeps_absent_fields_and_clears_null_ones(control: httpx.Client) -> None:
    fields: dict[str, Any] = {
        "name": "Acme",
        "overdraft_limit": 7,
        "low_balance_threshold": 8,
        "stripe_customer": "cus_1",
        "outage_allowance": 9,
    }
    put(control, **fields)

    assert put(control).json().items() >= fields.items()
    cleared = put(control, name=None, overdraft_limit=None, low_balance_threshold=None).json()
    assert (cleared["name"], cleared["overdraft_limit"]) == (None, 0)
    assert cleared["low_balance_threshold"] is None
    assert (cleared["stripe_customer"], cleared["outage_allowance"]) == ("cus_1", 9)
    cleared = put(control, stripe_customer=None, outage_allowance=None).json()
    assert (cleared["stripe_customer"], cleared["outage_allowance"]) == (None, 0)


def test_an_unknown_account_is_a_404_on_every_path(control: httpx.Client) -> None:
    for path in ("", "/usage", "/transfers", "/grants", "/holds", "/explain/x"):
        refused(control.get(f"/v1/accounts/nobody{path}"), 404, "account_not_found")
    refused(grant(control, "nobody"), 404, "account_not_found")
    adjustment = {"id": "a", "amount": 1, "reason": "r"}
    response = control.post("/v1/accounts/nobody/adjustments", json=adjustment)
    refused(response, 404, "account_not_found")
    for verb in ("suspend", "resume", "close"):
        response = control.post(f"/v1/accounts/nobody/{verb}", json={"reason": "r"})
        refused(response, 404, "account_not_found")


def test_accounts_are_listed_newest_first_in_pages(control: httpx.Client) -> None:
    for name in ("a", "b", "c"):
        put(control, name)

    first = control.get("/v1/accounts", params={"limit": 2}).json()
    assert [row["account"] for row in first["data"]] == ["c", "b"]
    second = control.get("/v1/accounts", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [row["account"] for row in second["data"]] == ["a"]
    assert second["next_cursor"] is None
    assert set(second["data"][0]) == set(control.get("/v1/accounts/a").json())


def test_a_grant_raises_the_ledger_once_however_often_it_is_sent(
    control: httpx.Client, engine: Engine
) -> None:
    put(control)

    answers = [grant(control, priority=10, expires_at_ms=4_000_000_000_000) for _ in range(3)]

    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].json() == answers[2].json()
    shown = answers[0].json()
    assert (shown["granted"], shown["remaining"]) == (5_000_000, 5_000_000)
    assert (shown["priority"], shown["expires_at_ms"]) == (10, 4_000_000_000_000)
    assert control.get("/v1/accounts/acme").json()["balances"]["ledger"] == 5_000_000
    assert actions(engine) == ["put_account", "add_grant"]


def test_the_same_grant_at_once_from_many_sides_is_one_grant(control: httpx.Client) -> None:
    put(control)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: grant(control), range(16)))
    assert {answer.status_code for answer in answers} == {200}
    assert control.get("/v1/accounts/acme").json()["balances"]["ledger"] == 5_000_000


def test_other_contents_under_a_grants_id_are_a_conflict(control: httpx.Client) -> None:
    put(control)
    grant(control)
    for change in ({"amount": 1}, {"category": "promo"}, {"priority": 1}, {"reference": "x"}):
        refused(grant(control, **change), 409, "id_conflict", "id")


def test_an_account_never_gets_more_than_2_53_minus_1(control: httpx.Client) -> None:
    put(control)
    assert grant(control, amount=2**53 - 1).status_code == 200
    refused(grant(control, id="g2", amount=1), 422, "invalid_request", "amount")
    assert control.get("/v1/accounts/acme").json()["balances"]["ledger"] == 2**53 - 1


def test_adjustments_add_and_take_and_may_go_below_zero(
    control: httpx.Client, engine: Engine
) -> None:
    put(control)
    path = "/v1/accounts/acme/adjustments"

    added = control.post(path, json={"id": "a1", "amount": 5, "reason": "sorry"})
    taken = [
        control.post(path, json={"id": "a2", "amount": -8, "reason": "mistake"}) for _ in range(2)
    ]

    assert added.json()["amount"] == 5
    assert taken[0].json() == taken[1].json()
    assert taken[0].json().items() >= {"id": "a2", "amount": -8, "reason": "mistake"}.items()
    assert control.get("/v1/accounts/acme").json()["balances"]["ledger"] == -3
    conflict = control.post(path, json={"id": "a2", "amount": -9, "reason": "mistake"})
    refused(conflict, 409, "id_conflict", "id")
    assert actions(engine) == ["put_account", "add_adjustment", "add_adjustment"]


def test_suspend_resume_and_close_say_why(control: httpx.Client, engine: Engine) -> None:
    put(control)
    for verb, status in (
        ("suspend", "suspended"),
        ("resume", "active"),
        ("close", "closed"),
        ("resume", "active"),
    ):
        response = control.post(f"/v1/accounts/acme/{verb}", json={"reason": f"why {verb}"})
        assert response.status_code == 200
        assert response.json()["status"] == status
        assert response.json()["status_reason"] == f"why {verb}"
    control.post("/v1/accounts/acme/resume", json={"reason": "why resume"})
    assert actions(engine) == [
        "put_account",
        "suspend_account",
        "resume_account",
        "close_account",
        "resume_account",
    ]


def test_what_changes_nothing_is_not_written_down(control: httpx.Client, engine: Engine) -> None:
    put(control, name="Acme")
    put(control, name="Acme")
    put(control)
    control.get("/v1/accounts/acme")
    refused(put(control, name=""), 422, "invalid_request", "name")
    assert actions(engine) == ["put_account"]


def test_the_log_of_actions_cannot_be_changed(control: httpx.Client, engine: Engine) -> None:
    put(control)
    for statement in (
        control_actions.update().values(action="x"),
        control_actions.delete(),
    ):
        with pytest.raises(Exception, match="append-only"), engine.begin() as c:
            c.execute(statement)


@pytest.mark.parametrize("missing", ["admin_token", "postgres_url"])
def test_the_listener_does_not_start_without_what_it_needs(
    postgres_url: str, redis_url: str, missing: str
) -> None:
    given: dict[str, Any] = {
        "postgres_url": postgres_url,
        "redis_url": redis_url,
        "admin_token": Secret("x"),
    }
    settings = Settings(**{name: value for name, value in given.items() if name != missing})
    with pytest.raises(SettingsError, match=f"CREDITS_{missing.upper()}"):
        build(settings)


def test_an_account_name_with_every_allowed_character_works(control: httpx.Client) -> None:
    name = "A-z_0.9:x@y"
    assert put(control, name).json()["account"] == name
    assert control.get(f"/v1/accounts/{name}").status_code == 200
