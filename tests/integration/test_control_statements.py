"""Statements over HTTP: what was used, moved, granted and is held, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import redis
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, select

from persistence.flush import Flusher
from persistence.recovery import rebuild
from persistence.tables import accounts, refills
from sidecar import keys
from sidecar.metrics import WorkerMetrics
from sidecar.nodes import RedisNodes
from sidecar.scripts import ScriptRunner, load_scripts
from tests.integration.control_client import control_listener, refused
from tests.integration.ledger_world import World as LedgerWorld
from tests.lua.support import begin_stream

EPOCH = 1
CONTEXT = {
    "model": "openai/gpt-4o-mini",
    "price_version": "v1",
    "scopes": {"user": "u1"},
    "metadata": {"note": "=1+1"},
}


@dataclass
class World:
    """A control listener, its ledger, and Redis with the scripts of the hot path."""

    http: httpx.Client
    engine: Engine
    redis: redis.Redis

    def account(self, name: str = "acme", *grants: int) -> None:
        self.http.put(f"/v1/accounts/{name}", json={})
        for number, amount in enumerate(grants, 1):
            body = {"id": f"g{number}", "amount": amount, "category": "paid"}
            self.http.post(f"/v1/accounts/{name}/grants", json=body)
        self.refill(name)

    def refill(self, name: str) -> None:
        """Do what a worker does with the refills of an account."""
        with self.engine.begin() as c:
            query = select(refills).where(refills.c.account == name).order_by(refills.c.refill_no)
            for row in c.execute(query):
                args = {
                    "open": ("status", "overdraft"),
                    "status": ("status", "overdraft"),
                    "grant": ("grant_no", "amount", "order", "id"),
                    "take": ("amount", "grant_no"),
                }[row.kind]
                payload = [row.payload[field] for field in args]
                reply = self.run(row.kind, name, row.gen, row.refill_no, *payload)
                assert reply[0] in (b"applied", b"replayed")

    def run(self, verb: str, name: str, *args: Any) -> Any:
        with self.engine.connect() as c:
            shard = c.scalar(select(accounts.c.shard).where(accounts.c.account == name))
        names = keys.account_keys(name, shard or 0, EPOCH)
        begin_stream(self.redis, names[8])
        script = getattr(load_scripts(), verb)
        return ScriptRunner(self.redis).call(script, names, (EPOCH, *args))

    def hold(self, id: str, amount: int, name: str = "acme") -> None:
        context = json.dumps(CONTEXT)
        reply = self.run("hold", name, id, "print", amount, 600_000, 0, "v1", context)
        assert reply[0] == b"held"

    def settle(self, id: str, amount: int, name: str = "acme") -> None:
        detail = json.dumps({"usage": {"input_tokens": 5}})
        reply = self.run("settle", name, id, f"print{amount}", amount, 1, "v1", detail, "", 0)
        assert reply[0] == b"settled"

    def flush(self) -> None:
        nodes = RedisNodes.over(self.redis)
        Flusher(self.engine, nodes, WorkerMetrics(CollectorRegistry())).run_once()

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        response = self.http.get(f"/v1/accounts/acme/{path}", params=query)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    def table(self, path: str) -> list[dict[str, str]]:
        response = self.http.get(f"/v1/accounts/acme/{path}", headers={"Accept": "text/csv"})
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        return list(csv.DictReader(io.StringIO(response.text)))


@pytest.fixture
def world(
    engine: Engine, postgres_url: str, redis_client: redis.Redis, redis_url: str
) -> Iterator[World]:
    LedgerWorld(engine, redis_client).opener.open_shards()
    with control_listener(postgres_url, redis_url) as client:
        yield World(client, engine, redis_client)


def test_balances_are_the_ledgers_and_what_redis_says(world: World) -> None:
    world.account("acme", 1_000)
    world.hold("h1", 300)
    balances = world.http.get("/v1/accounts/acme").json()["balances"]
    assert balances == {"ledger": 1_000, "available": 700, "held": 300}

    world.settle("h1", 450)
    world.flush()
    balances = world.http.get("/v1/accounts/acme").json()["balances"]
    assert balances == {"ledger": 550, "available": 550, "held": 0}


def test_the_list_of_accounts_has_the_balances_of_each(world: World) -> None:
    world.account("acme", 1_000)
    world.account("other", 5)
    world.http.put("/v1/accounts/new", json={})
    rows = world.http.get("/v1/accounts").json()["data"]
    found = {row["account"]: row["balances"]["available"] for row in rows}
    assert found == {"acme": 1_000, "other": 5, "new": None}


def test_without_redis_the_ledger_answers_alone(postgres_url: str) -> None:
    with control_listener(postgres_url, "redis://127.0.0.1:9/0") as control:
        body = control.put("/v1/accounts/acme", json={}).json()
        assert body["balances"] == {"ledger": 0, "available": None, "held": None}
        assert control.get("/v1/accounts").json()["data"][0]["balances"] == body["balances"]
        assert control.get("/readyz").status_code == 200
        response = control.get("/v1/accounts/acme/holds")
        refused(response, 503, "store_unavailable")
        assert int(response.headers["Retry-After"]) >= 1


def test_an_account_that_is_closing_has_no_balances_and_no_holds_to_show(world: World) -> None:
    world.account("acme", 1_000)
    world.hold("h1", 300)
    # The same Redis, whole, with all that it had: it is not believed any more.
    ledger = LedgerWorld(world.engine, world.redis)
    rebuild(world.engine)
    ledger.opener.run_once()
    balances = {"ledger": 1_000, "available": None, "held": None}
    assert world.http.get("/v1/accounts/acme").json()["balances"] == balances
    assert world.http.get("/v1/accounts").json()["data"][0]["balances"] == balances
    refused(world.http.get("/v1/accounts/acme/holds"), 503, "store_unavailable")
    refused(world.http.get("/v1/accounts/acme/explain/h1"), 404, "not_found")
    ledger.reopener.run_once()
    ledger.sender.run_once()
    balances["available"], balances["held"] = 1_000, 0
    assert world.http.get("/v1/accounts/acme").json()["balances"] == balances
    assert world.get("holds")["data"] == []


def test_what_comes_while_an_account_is_closing_is_lent_when_it_is_reopened(world: World) -> None:
    world.account("acme", 1_000)
    ledger = LedgerWorld(world.engine, world.redis)
    rebuild(world.engine)
    ledger.opener.run_once()
    world.http.put("/v1/accounts/acme", json={"overdraft_limit": 70, "outage_allowance": 9})
    grant = {"id": "more", "amount": 500, "category": "promo"}
    assert world.http.post("/v1/accounts/acme/grants", json=grant).status_code == 200
    taken = {"id": "less", "amount": -100, "reason": "mistake"}
    assert world.http.post("/v1/accounts/acme/adjustments", json=taken).status_code == 200
    assert (
        world.http.post("/v1/accounts/acme/suspend", json={"reason": "unpaid"}).status_code == 200
    )
    ledger.reopener.run_once()
    ledger.sender.run_once()
    account = ledger.account()
    assert account.balance()[1:5] == ["suspended", 1_400, 0, 70]
    assert account.number("allowance") == 9
    ledger.assert_sound()


def test_redis_that_lost_its_scripts_is_given_them_again(world: World) -> None:
    world.account("acme", 1_000)
    world.redis.script_flush()
    assert world.http.get("/v1/accounts").json()["data"][0]["balances"]["available"] == 1_000


def test_usage_is_listed_newest_first_in_the_contracts_shape(world: World) -> None:
    world.account("acme", 1_000)
    for number in range(3):
        world.hold(f"h{number}", 100)
        world.settle(f"h{number}", 10 + number)
    world.flush()

    page = world.get("usage", limit=2)
    assert [row["id"] for row in page["data"]] == ["h2", "h1"]
    rest = world.get("usage", limit=2, cursor=page["next_cursor"])
    assert [row["id"] for row in rest["data"]] == ["h0"]
    assert rest["next_cursor"] is None
    row = page["data"][0]
    assert row["operation"] == "settle"
    assert (row["amount"], row["model"], row["price_version"]) == (12, CONTEXT["model"], "v1")
    assert row["usage"] == {"input_tokens": 5}
    assert (row["scopes"], row["metadata"]) == ({"user": "u1"}, {"note": "=1+1"})
    assert row["grants"] == [{"id": "g1", "amount": 12}]
    assert (row["late"], row["degraded"], row["generation"]) == (False, False, 1)


def test_usage_is_filtered_by_time_model_and_scope(world: World) -> None:
    world.account("acme", 1_000)
    world.hold("h1", 100)
    world.settle("h1", 10)
    world.flush()
    at_ms = world.get("usage")["data"][0]["at_ms"]

    for query, count in (
        ({"since_ms": at_ms}, 1),
        ({"since_ms": at_ms + 1}, 0),
        ({"until_ms": at_ms}, 0),
        ({"until_ms": at_ms + 1}, 1),
        ({"model": CONTEXT["model"]}, 1),
        ({"model": "other"}, 0),
        ({"scope": "user:u1"}, 1),
        ({"scope": "user:u2"}, 0),
        ({"scope": "key:u1"}, 0),
    ):
        assert len(world.get("usage", **query)["data"]) == count, query
    assert world.get("transfers", until_ms=at_ms - 3_600_000)["data"] == []


def test_transfers_name_both_sides(world: World) -> None:
    world.account("acme", 1_000)
    rows = world.get("transfers")["data"]
    assert [(row["debit_account"], row["credit_account"]) for row in rows] == [
        ("available:acme", "lent:acme:1"),
        ("source:paid", "available:acme"),
    ]
    assert {row["amount"] for row in rows} == {1_000}
    assert set(rows[0]) == {
        "id", "at_ms", "debit_account", "credit_account", "amount", "kind", "reference",
    }  # fmt: skip


def test_grants_say_what_was_granted_and_what_remains(world: World) -> None:
    world.account("acme", 100, 50)
    world.hold("h1", 120)
    world.settle("h1", 120)
    world.flush()
    rows = world.get("grants")["data"]
    assert [(row["id"], row["granted"], row["remaining"]) for row in rows] == [
        ("g2", 50, 30),
        ("g1", 100, 0),
    ]


def test_open_holds_are_listed_in_pages_and_filtered(world: World) -> None:
    world.account("acme", 1_000)
    for number in range(5):
        world.hold(f"h{number}", 10 + number)
    world.settle("h4", 1)

    first = world.get("holds", limit=3)
    second = world.get("holds", limit=3, cursor=first["next_cursor"])
    ids = [row["id"] for row in (*first["data"], *second["data"])]
    assert (len(first["data"]), second["next_cursor"]) == (3, None)
    assert sorted(ids) == ["h0", "h1", "h2", "h3"]
    row = next(row for row in first["data"] + second["data"] if row["id"] == "h2")
    assert (row["status"], row["amount"], row["held"], row["charged"]) == ("held", 12, 12, 0)
    assert row["grants"] == [{"id": "g1", "amount": 12}]
    assert row["expires_at_ms"] == row["created_ms"] + 600_000
    assert len(world.get("holds", scope="user:u1", model=CONTEXT["model"])["data"]) == 4
    assert world.get("holds", scope="user:u2")["data"] == []
    assert world.get("holds", until_ms=1)["data"] == []


def test_an_account_that_redis_does_not_have_has_no_open_holds(world: World) -> None:
    world.http.put("/v1/accounts/acme", json={})
    assert world.get("holds") == {"data": [], "next_cursor": None}


def test_csv_has_the_columns_of_the_json_and_no_formulas(world: World) -> None:
    formula = {"id": "=cmd", "amount": 5, "category": "paid", "reference": "@SUM(1)"}
    world.account("acme", 1_000)
    world.http.post("/v1/accounts/acme/grants", json=formula)
    world.http.post(
        "/v1/accounts/acme/adjustments", json={"id": "-1+1", "amount": -5, "reason": '+1,"x"'}
    )
    world.refill("acme")
    world.hold("h1", 100)
    world.settle("h1", 10)
    world.flush()

    grant = world.table("grants")[0]
    assert (grant["id"], grant["reference"], grant["granted"]) == ("'=cmd", "'@SUM(1)", "5")
    assert grant["expires_at_ms"] == ""
    usage = world.table("usage")[0]
    assert (usage["amount"], usage["late"]) == ("10", "false")
    assert json.loads(usage["metadata"]) == {"note": "=1+1"}
    assert list(usage) == list(world.get("usage")["data"][0])
    assert {row["reference"] for row in world.table("transfers")} >= {"'-1+1", "'@SUM(1)"}
    assert world.table("holds") == []
    page = world.http.get(
        "/v1/accounts/acme/transfers?limit=1", headers={"Accept": "text/csv, */*;q=0.1"}
    )
    assert page.headers["X-Next-Cursor"]


def test_json_is_given_unless_csv_is_preferred(world: World) -> None:
    world.account("acme")
    for accept in ("*/*", "application/json", "text/csv;q=0", "text/csv;q=0.1, application/json"):
        answer = world.http.get("/v1/accounts/acme/usage", headers={"Accept": accept})
        assert answer.headers["content-type"] == "application/json"


def test_explain_tells_all_of_one_id(world: World) -> None:
    world.account("acme", 1_000)
    world.hold("chat/42?x", 100)
    path = "explain/chat/42%3Fx"
    open_hold = world.get(path)
    assert (open_hold["id"], open_hold["hold"]["status"]) == ("chat/42?x", "held")
    assert (open_hold["events"], open_hold["transfers"]) == ([], [])

    world.settle("chat/42?x", 30)
    world.flush()
    known = world.get(path)
    assert (known["hold"]["status"], known["hold"]["charged"]) == ("settled", 30)
    assert [event["amount"] for event in known["events"]] == [30]
    assert [row["kind"] for row in known["transfers"]] == ["usage"]
    assert [row["id"] for row in known["grants"]] == ["g1"]
    assert known["price"] == {"model": CONTEXT["model"], "price_version": "v1"}
    assert [row["kind"] for row in world.get("explain/g1")["transfers"]] == ["grant", "lend"]
    response = world.http.get("/v1/accounts/acme/explain/never")
    refused(response, 404, "not_found", "id")


def test_explain_goes_on_without_redis_when_the_ledger_knows_the_id(
    world: World, postgres_url: str
) -> None:
    world.account("acme", 1_000)
    with control_listener(postgres_url, "redis://127.0.0.1:9/0") as control:
        assert "hold" not in control.get("/v1/accounts/acme/explain/g1").json()
        response = control.get("/v1/accounts/acme/explain/unknown")
        refused(response, 503, "store_unavailable")
