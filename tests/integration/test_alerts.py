"""Alerts reach the product at least once, signed, and a receiver that fails hinders nobody."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, select, update
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from persistence import accounts
from persistence.stripe_tables import control_actions
from persistence.top_up_tables import alerts
from sidecar.billing import alert_rows
from sidecar.billing.alert_sender import NEWS_MS, RETRY_SECONDS, AlertSender
from sidecar.billing.alerts import AlertKind, raise_alert
from sidecar.billing.jobs import jobs_of
from sidecar.kinds import Secret
from sidecar.metrics import MoneyMetrics, WorkerMetrics
from sidecar.nodes import RedisNodes
from sidecar.settings import Settings
from tests.integration.control_client import refused
from tests.integration.listener import served
from tests.integration.stripe_inbox import Clock

KEYS = (b"a" * 24, b"b" * 32)
SECRETS = tuple(f"whsec_{base64.b64encode(key).decode()}" for key in KEYS)

Answering = Callable[[dict[str, Any]], Response]


@dataclass
class Receiver:
    """The product's endpoint: what came, and what it answers."""

    url: str = ""
    answers: Answering = lambda _: Response()
    slow: set[str] = field(default_factory=set)
    came: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    async def __call__(self, request: Request) -> Response:
        """Keep a delivery and answer it; a slow one takes longer than anybody waits."""
        body = await request.body()
        self.came.append((dict(request.headers), body))
        told = json.loads(body)
        if told["type"] in self.slow:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 5)
        return self.answers(told)

    def ids(self) -> list[str]:
        """Return the ids of what came, in its order."""
        return [headers["webhook-id"] for headers, _ in self.came]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()

    async def hook(request: Request) -> Response:
        return await made(request)

    with served(Starlette(routes=[Route("/{path:path}", hook, methods=["POST", "GET"])])) as url:
        made.url = f"{url}/hook"
        yield made


class World:
    """An outbox with the account `acme`, its sender, and a clock that stands still."""

    def __init__(self, engine: Engine, url: str) -> None:
        self.engine = engine
        self.url = url
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.metrics = MoneyMetrics(self.registry)
        self.sender = self.new_sender()
        with engine.begin() as c:
            accounts.put_account(c, "acme", {})

    def new_sender(self, **fields: Any) -> AlertSender:
        """Return the sender of another worker."""
        given: dict[str, Any] = {"now_ms": self.clock, "timeout_s": 2.0} | fields
        return AlertSender(self.engine, self.url, SECRETS, self.metrics, **given)

    def tell(self, key: str = "1", kind: AlertKind = AlertKind.LOW_BALANCE) -> None:
        """Raise an alert."""
        with self.engine.begin() as c:
            raise_alert(c, kind, "acme", {"available": 5}, key=key, now_ms=self.clock())

    def rows(self) -> list[dict[str, Any]]:
        """Return the outbox, oldest first."""
        with self.engine.connect() as c:
            query = select(alerts).order_by(alerts.c.no)
            return [dict(row) for row in c.execute(query).mappings()]

    def row(self) -> dict[str, Any]:
        """Return the only alert."""
        (found,) = self.rows()
        return found

    def count(self, outcome: str) -> float | None:
        """Return how many attempts ended so."""
        return self.registry.get_sample_value("credits_alerts_total", {"outcome": outcome})


@pytest.fixture
def world(engine: Engine, receiver: Receiver) -> World:
    return World(engine, receiver.url)


def test_an_alert_arrives_once_and_signed_by_every_secret(world: World, receiver: Receiver) -> None:
    world.tell()
    assert [world.sender.run_once(), world.sender.run_once()] == [1, 0]
    ((headers, body),) = receiver.came
    row = world.row()
    assert (row["status"], row["attempts"], row["answer"]) == ("delivered", 1, 200)
    assert row["delivered_ms"] == world.clock()
    assert json.loads(body) == {
        "type": "balance.low",
        "timestamp": "2027-01-15T08:00:00.000Z",
        "data": {"account": "acme", "alert_id": row["id"], "available": 5},
    }
    signed = f"{row['id']}.{world.clock() // 1000}.".encode() + body
    expected = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in KEYS]
    assert headers["webhook-signature"] == " ".join(f"v1,{mac}" for mac in expected)
    assert headers["webhook-timestamp"] == str(world.clock() // 1000)
    assert headers["content-type"] == "application/json"
    assert world.count("delivered") == 1


def test_what_fails_is_tried_again_later_and_then_given_up(
    world: World, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = lambda _: Response(status_code=500)
    world.tell()
    with caplog.at_level(logging.INFO, logger="sidecar.billing.alert_sender"):
        for wait_s in RETRY_SECONDS:
            assert world.sender.run_once() == 1
            assert (world.row()["status"], world.row()["answer"]) == ("pending", 500)
            world.clock.now += wait_s * 1000 - 1
            assert world.sender.run_once() == 0
            world.clock.now += 1
        assert world.sender.run_once() == 1
    assert (world.row()["status"], world.row()["attempts"]) == ("dead", 10)
    world.clock.now += 365 * NEWS_MS
    assert world.sender.run_once() == 0
    assert len(set(receiver.ids())) == 1
    assert len({body for _, body in receiver.came}) == 1
    assert (world.count("failed"), world.count("dead")) == (9, 1)
    told = [record.levelname for record in caplog.records]
    assert (told.count("INFO"), told.count("ERROR")) == (1, 1)


def test_a_receiver_that_recovers_gets_what_it_missed(world: World, receiver: Receiver) -> None:
    receiver.answers = lambda _: Response(status_code=503)
    world.tell()
    world.sender.run_once()
    receiver.answers = lambda _: Response(status_code=204)
    world.clock.now += RETRY_SECONDS[0] * 1000
    assert world.sender.run_once() == 1
    row = world.row()
    assert (row["status"], row["attempts"], row["error"]) == ("delivered", 2, None)


def test_gone_is_final(world: World, receiver: Receiver) -> None:
    receiver.answers = lambda _: Response(status_code=410)
    world.tell()
    world.sender.run_once()
    assert (world.row()["status"], world.row()["attempts"]) == ("dead", 1)


def test_a_redirect_is_not_followed(world: World, receiver: Receiver) -> None:
    receiver.answers = lambda _: Response(status_code=302, headers={"Location": "/elsewhere"})
    world.tell()
    world.sender.run_once()
    assert len(receiver.came) == 1
    assert (world.row()["status"], world.row()["answer"]) == ("pending", 302)


def test_a_receiver_that_cannot_be_reached_is_tried_again(engine: Engine) -> None:
    world = World(engine, "http://127.0.0.1:9/hook")
    world.tell()
    assert world.sender.run_once() == 1
    row = world.row()
    assert (row["status"], row["answer"]) == ("pending", None)
    assert "ConnectError" in row["error"]


@pytest.mark.parametrize("url", ["http://xn--zzzz/", "http://a..\u00e4/"], ids=["label", "host"])
def test_an_address_that_is_none_is_an_answer_that_did_not_come(engine: Engine, url: str) -> None:
    world = World(engine, url)
    world.tell()
    assert world.sender.run_once() == 1
    assert (world.row()["status"], world.row()["attempts"]) == ("pending", 1)


def test_a_slow_answer_keeps_the_others_waiting_no_longer_than_the_time_out(
    world: World, receiver: Receiver
) -> None:
    receiver.slow.add("balance.exhausted")
    world.tell("slow", AlertKind.EXHAUSTED)
    for number in range(10):
        world.tell(f"fast {number}")
    assert world.new_sender(timeout_s=1.0).run_once() == 11
    assert [row["status"] for row in world.rows()] == ["pending"] + ["delivered"] * 10
    assert world.rows()[0]["error"] == "no answer within 1 s"


def test_many_workers_share_the_alerts_and_none_is_sent_twice(
    world: World, receiver: Receiver
) -> None:
    for number in range(100):
        world.tell(str(number))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: drain(world.new_sender()), range(4)))
    assert len(receiver.ids()) == len(set(receiver.ids())) == 100
    assert {row["status"] for row in world.rows()} == {"delivered"}


def drain(sender: AlertSender) -> None:
    while sender.run_once():
        pass


def test_what_a_worker_had_claimed_when_it_died_is_sent_by_another(
    world: World, receiver: Receiver
) -> None:
    world.tell()
    with world.engine.begin() as c:
        (lost,) = alert_rows.claim_due(c, world.clock(), 60_000, 20)
    assert world.sender.run_once() == 0
    world.clock.now += 60_000
    assert world.sender.run_once() == 1
    with world.engine.begin() as c:
        alert_rows.finish(c, lost, status="dead")
    assert (world.row()["status"], receiver.ids()) == ("delivered", [lost.id])


def test_no_transaction_is_open_while_an_alert_is_sent(world: World, receiver: Receiver) -> None:
    def lock_and_answer(_: dict[str, Any]) -> Response:
        with world.engine.begin() as c:
            c.execute(select(alerts.c.id).with_for_update(nowait=True)).all()
        return Response()

    receiver.answers = lock_and_answer
    world.tell()
    world.sender.run_once()
    assert world.row()["status"] == "delivered"


def test_alerts_from_before_there_was_an_address_are_sent_only_while_they_are_news(
    world: World, receiver: Receiver
) -> None:
    world.tell("old")
    world.clock.now += 1
    world.tell("new")
    world.clock.now += NEWS_MS
    assert world.new_sender().run_once() == 1
    assert [row["status"] for row in world.rows()] == ["dead", "delivered"]
    assert "too old" in world.rows()[0]["error"]


def test_alerts_are_listed_and_sent_again_on_demand(
    world: World, receiver: Receiver, control: httpx.Client
) -> None:
    world.tell()
    world.sender.run_once()
    with world.engine.begin() as c:
        raise_alert(c, AlertKind.FRAUD_WARNING, None, {}, key="x", now_ms=world.clock())
    (mine,) = control.get("/v1/alerts?account=acme").json()["data"]
    assert (mine["kind"], mine["status"]) == ("balance.low", "delivered")
    assert mine["data"] == {"available": 5}
    first = control.get("/v1/alerts?limit=1").json()
    second = control.get(f"/v1/alerts?limit=1&cursor={first['next_cursor']}").json()
    assert [row["account"] for row in first["data"] + second["data"]] == [None, "acme"]
    assert second["next_cursor"] is None
    csv = control.get("/v1/alerts", headers={"Accept": "text/csv"})
    assert csv.text.splitlines()[0].startswith("id,kind,account,data,status")

    replayed = control.post(f"/v1/alerts/{mine['id']}/replay")
    assert (replayed.status_code, replayed.json()["status"]) == (200, "pending")
    assert set(replayed.json()) == set(mine)
    world.clock.now = replayed.json()["due_ms"]
    world.new_sender().run_once()
    assert receiver.ids().count(mine["id"]) == 2
    refused(control.post("/v1/alerts/alert_none/replay"), 404, "not_found")
    refused(control.get("/v1/alerts?account=a%20b"), 422, "invalid_request", "account")
    refused(control.get("/v1/alerts?cursor=x"), 422, "invalid_request", "cursor")
    refused(control.get("/v1/alerts?status=failed"), 422, "invalid_request", "status")
    assert control.get("/v1/alerts?status=dead").json()["data"] == []
    told = control.get("/v1/alerts?status=delivered&account=acme").json()["data"]
    assert [row["id"] for row in told] == [mine["id"]]
    with world.engine.connect() as c:
        actions = list(c.scalars(select(control_actions.c.action)))
    assert actions[-1] == "replay_alert"


def test_an_old_alert_that_is_sent_again_is_not_taken_for_one_without_an_address(
    world: World, receiver: Receiver
) -> None:
    world.tell()
    world.clock.now += 10 * NEWS_MS
    with world.engine.begin() as c:
        c.execute(update(alerts).values(status="dead", attempts=10))
        assert alert_rows.replay(c, world.row()["id"], world.clock()) is not None
    world.new_sender().run_once()
    assert world.row()["status"] == "delivered"


def test_a_worker_sends_alerts_only_when_it_knows_where_to(engine: Engine, redis_url: str) -> None:
    nodes = RedisNodes.of_url(redis_url, timeout_s=1.0)
    registry = CollectorRegistry()
    metrics = (WorkerMetrics(registry), MoneyMetrics(registry))
    for url, is_there in (("", False), ("http://127.0.0.1:9/hook", True)):
        secrets = tuple(Secret(one) for one in SECRETS)
        settings = Settings(alert_url=url, alert_secret=secrets)
        jobs = jobs_of(engine, nodes, settings, *metrics)
        assert ("alerts" in [name for name, _, _ in jobs]) is is_there
    nodes.close()
