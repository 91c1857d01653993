"""The webhook over HTTP: what is stored, what is refused, and the way from payment to balance."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import redis
import stripe
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, func, select, update

from persistence.stripe_tables import control_actions, stripe_events
from sidecar.billing.inbox import InboxJob
from sidecar.dev.fake_stripe.app import build
from sidecar.dev.fake_stripe.delivery import Delivery
from sidecar.errors import SettingsError
from sidecar.kinds import Secret
from sidecar.metrics import WorkerMetrics
from sidecar.settings import Settings
from tests.integration.control_client import WEBHOOK_SECRET, control_listener, error_of, refused
from tests.integration.listener import served
from tests.integration.meter_server import eventually
from tests.integration.stripe_events import (
    body_of,
    event,
    payment_succeeded,
    session_completed,
    signed,
)

MIB = 1_048_576
PATH = "/stripe/webhook"


@pytest.fixture
def control(postgres_url: str, redis_client: redis.Redis, redis_url: str) -> Iterator[httpx.Client]:
    secrets = (Secret("whsec_next"), Secret(WEBHOOK_SECRET))
    with control_listener(postgres_url, redis_url, stripe_webhook_secret=secrets) as client:
        yield client


@pytest.fixture
def job(engine: Engine) -> InboxJob:
    return InboxJob(engine, WorkerMetrics(CollectorRegistry()))


def deliver(control: httpx.Client, one: dict[str, Any], **signature: Any) -> httpx.Response:
    payload = body_of(one)
    headers = signed(payload, **signature) | {"Authorization": ""}
    return control.post(PATH, content=payload, headers=headers)


def stored(engine: Engine) -> int:
    with engine.connect() as c:
        return c.scalar(select(func.count()).select_from(stripe_events)) or 0


def ledger_of(control: httpx.Client, account: str = "acme") -> int:
    balance: int = control.get(f"/v1/accounts/{account}").json()["balances"]["ledger"]
    return balance


def test_a_delivery_is_stored_before_it_is_answered(control: httpx.Client, engine: Engine) -> None:
    one = payment_succeeded()
    assert deliver(control, one).status_code == 200
    (row,) = control.get("/v1/stripe/events").json()["data"]
    assert row["received_ms"] > 0
    assert row["created_ms"] == one["created"] * 1000
    assert {name: row[name] for name in row if not name.endswith("_ms")} == {
        "id": one["id"],
        "type": "payment_intent.succeeded",
        "object_id": "pi_1",
        "livemode": False,
        "status": "pending",
        "attempts": 0,
        "error": None,
        "source": "webhook",
    }
    with engine.connect() as c:
        assert c.scalar(select(stripe_events.c.payload)) == body_of(one).decode()


@pytest.mark.parametrize("secret", ["whsec_next", WEBHOOK_SECRET])
def test_both_secrets_of_a_rotation_are_taken(control: httpx.Client, secret: str) -> None:
    assert deliver(control, payment_succeeded(), secret=secret).status_code == 200


def test_the_same_delivery_many_times_at_once_is_stored_once(
    control: httpx.Client, engine: Engine
) -> None:
    one = payment_succeeded()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: deliver(control, one), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert stored(engine) == 1


def test_what_is_not_from_stripe_is_a_400_and_not_stored(
    control: httpx.Client, engine: Engine
) -> None:
    one = payment_succeeded()
    payload = body_of(one)
    thin = body_of(one | {"object": "v2.core.event"})
    for content, headers in (
        (payload, {}),
        (payload, {"Stripe-Signature": "nonsense"}),
        (payload, signed(payload, "whsec_other")),
        (payload, signed(payload, age_seconds=400)),
        (payload, signed(payload, age_seconds=-400)),
        (payload + b" ", signed(payload)),
        (b"\xff", {"Stripe-Signature": "t=1,v1=1"}),
        (b"", signed(b"")),
        (b"{", signed(b"{")),
        (thin, signed(thin)),
    ):
        response = control.post(PATH, content=content, headers=headers)
        assert response.status_code == 400, headers
        assert error_of(response)["code"] in ("invalid_request", "invalid_json")
    assert stored(engine) == 0
    metrics = control.get("/metrics").text
    for outcome in ("bad_signature", "stale", "unparsable", "thin"):
        assert f'credits_stripe_webhooks_total{{outcome="{outcome}"}}' in metrics


def deliveries() -> list[tuple[str, bytes, dict[str, str], str]]:
    """Return what may be delivered: a name, the body, its headers, and what becomes of it."""
    one = body_of(payment_succeeded())
    thin = body_of({"object": "v2.core.event", "id": "evt_1", "type": "v1.x"})
    monthly = body_of(payment_succeeded() | {"api_version": "2027-01-27.endive"})
    older = body_of(payment_succeeded() | {"api_version": "2019-12-03"})
    return [
        ("fresh", one, signed(one), "stored"),
        ("a later month of the version", monthly, signed(monthly), "stored"),
        ("an older version", older, signed(older), "other_version"),
        ("nearly stale", one, signed(one, age_seconds=280), "duplicate"),
        ("nearly from the future", one, signed(one, age_seconds=-280), "duplicate"),
        ("the next secret", one, signed(one, "whsec_next"), "duplicate"),
        ("stale", one, signed(one, age_seconds=600), "stale"),
        ("from the future", one, signed(one, age_seconds=-600), "stale"),
        ("from far in the future", one, signed(one, age_seconds=-(10**8)), "stale"),
        ("another secret", one, signed(one, "whsec_other"), "bad_signature"),
        ("no secret", one, signed(one, ""), "bad_signature"),
        ("no signature", one, {}, "bad_signature"),
        ("tampered", one.replace(b"acme", b"evil"), signed(one), "bad_signature"),
        ("one byte less", one[:-1], signed(one), "bad_signature"),
        ("not UTF-8", b'{"id": "\xff"}', signed(b'{"id": "\xff"}'), "unparsable"),
        ("no JSON", b"id=evt_1", signed(b"id=evt_1"), "unparsable"),
        ("no event", b"{}", signed(b"{}"), "unparsable"),
        ("no object", b"[]", signed(b"[]"), "unparsable"),
        ("thin", thin, signed(thin), "thin"),
    ]


def test_every_delivery_is_counted_by_what_became_of_it(
    control: httpx.Client, engine: Engine
) -> None:
    for name, payload, headers, outcome in deliveries():
        before = _counted(control, outcome)
        response = control.post(PATH, content=payload, headers=headers)
        is_taken = outcome in ("stored", "duplicate", "other_version")
        assert response.status_code == (200 if is_taken else 400), name
        assert _counted(control, outcome) == before + 1, name
    assert stored(engine) == 3


def test_strangers_do_not_fill_the_log(
    control: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        assert control.post(PATH, content=b"{}").status_code == 400
    assert _counted(control, "bad_signature") == 5
    assert caplog.messages.count("refused webhook deliveries") == 1


def _counted(control: httpx.Client, outcome: str) -> float:
    start = f'credits_stripe_webhooks_total{{outcome="{outcome}"}} '
    lines = control.get("/metrics").text.splitlines()
    return sum(float(line.removeprefix(start)) for line in lines if line.startswith(start))


def test_a_header_may_carry_a_signature_of_each_secret_of_a_rotation(
    control: httpx.Client,
) -> None:
    payload = body_of(payment_succeeded())
    old = signed(payload, "whsec_from_before")["Stripe-Signature"]
    new = signed(payload)["Stripe-Signature"].partition(",")[2]
    headers = {"Stripe-Signature": f"{old},{new}"}
    assert control.post(PATH, content=payload, headers=headers).status_code == 200


def test_a_blank_secret_refuses_to_start() -> None:
    for blank in ("", " ", "whsec_a,", ",whsec_a"):
        with pytest.raises(SettingsError, match="CREDITS_STRIPE_WEBHOOK_SECRET"):
            Settings.from_environment({"CREDITS_STRIPE_WEBHOOK_SECRET": blank})


def test_a_delivery_of_one_mebibyte_is_taken_and_one_byte_more_is_not(
    control: httpx.Client, engine: Engine
) -> None:
    one = event("charge.updated", {"id": "ch_1", "description": ""})
    padding = MIB - len(body_of(one))
    one["data"]["object"]["description"] = "x" * padding
    assert len(body_of(one)) == MIB
    assert deliver(control, one).status_code == 200
    one["data"]["object"]["description"] += "x"
    refused(deliver(control, one), 413, "body_too_large")
    assert stored(engine) == 1


def test_text_that_postgres_would_refuse_in_json_is_stored_all_the_same(
    control: httpx.Client, engine: Engine, job: InboxJob
) -> None:
    one = payment_succeeded(note="nul \u0000 half \ud800")
    assert deliver(control, one).status_code == 200
    broken = payment_succeeded("pi_2", account="\ud800\u0000")
    assert deliver(control, broken).status_code == 200
    control.put("/v1/accounts/acme", json={})
    assert job.run_once() == 2
    assert ledger_of(control) == 10_000_000
    found = {row["object_id"]: row["status"] for row in events(control)}
    assert found == {"pi_1": "applied", "pi_2": "failed"}


def events(control: httpx.Client) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = control.get("/v1/stripe/events").json()["data"]
    return rows


def test_the_webhook_is_not_there_while_stripe_is_not_configured(
    postgres_url: str, redis_url: str
) -> None:
    with control_listener(postgres_url, redis_url, stripe_webhook_secret=()) as control:
        refused(deliver(control, payment_succeeded()), 404, "not_found")
        assert events(control) == []


def test_an_event_of_the_other_mode_is_refused(
    postgres_url: str, redis_url: str, engine: Engine
) -> None:
    key = Secret("sk_live_1")
    with control_listener(postgres_url, redis_url, stripe_secret_key=key) as control:
        assert deliver(control, payment_succeeded()).status_code == 400
        assert deliver(control, payment_succeeded() | {"livemode": True}).status_code == 200
    assert stored(engine) == 1


def test_a_database_that_is_away_is_a_503_so_that_stripe_sends_again(redis_url: str) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:9/none?connect_timeout=1"
    with control_listener(nowhere, redis_url) as control:
        response = deliver(control, payment_succeeded())
        refused(response, 503, "store_unavailable")
        assert int(response.headers["Retry-After"]) >= 1
        assert control.post(PATH, content=b"{}").status_code == 400


def test_stored_events_are_listed_newest_first_and_replayed(
    control: httpx.Client, job: InboxJob, engine: Engine
) -> None:
    control.put("/v1/accounts/acme", json={})
    sent = [payment_succeeded(), session_completed(), event("charge.succeeded", {"id": "ch_1"})]
    for one in sent:
        deliver(control, one)
    job.run_once()

    first = control.get("/v1/stripe/events?limit=2").json()
    second = control.get(f"/v1/stripe/events?limit=2&cursor={first['next_cursor']}").json()
    rows = first["data"] + second["data"]
    assert [row["id"] for row in rows] == [one["id"] for one in reversed(sent)]
    assert [row["status"] for row in rows] == ["ignored", "applied", "applied"]

    applied = control.get("/v1/stripe/events?status=applied&limit=1").json()
    rest = control.get(f"/v1/stripe/events?status=applied&cursor={applied['next_cursor']}").json()
    assert [row["id"] for row in applied["data"] + rest["data"]] == [row["id"] for row in rows[1:]]
    assert control.get("/v1/stripe/events?status=dead").json()["data"] == []
    refused(control.get("/v1/stripe/events?status=x"), 422, "invalid_request", "status")

    replayed = control.post(f"/v1/stripe/events/{sent[0]['id']}/replay")
    assert (replayed.status_code, replayed.json()["status"]) == (200, "pending")
    assert set(replayed.json()) == set(rows[0])
    assert job.run_once() == 1
    assert ledger_of(control) == 10_000_000
    refused(control.post("/v1/stripe/events/evt_none/replay"), 404, "not_found")
    blanked = update(stripe_events).where(stripe_events.c.id == sent[1]["id"])
    with engine.begin() as c:
        c.execute(blanked.values(payload=None, blanked_ms=1))
    gone = control.post(f"/v1/stripe/events/{sent[1]['id']}/replay")
    refused(gone, 422, "invalid_request", "id")
    with engine.connect() as c:
        actions = list(c.execute(select(control_actions.c.action, control_actions.c.body)))
    assert actions[-1] == ("replay_stripe_event", {"id": sent[0]["id"]})


def test_a_payment_at_the_fake_stripe_reaches_the_ledger(
    control: httpx.Client, job: InboxJob
) -> None:
    control.put("/v1/accounts/acme", json={})
    delivery = Delivery(str(control.base_url.join(PATH)), (WEBHOOK_SECRET, "whsec_x"))
    with served(build(delivery)) as url:
        client = stripe.StripeClient(
            "sk_test_1", base_addresses={"api": url}, http_client=stripe.RequestsClient(timeout=10)
        )
        payment = client.v1.payment_intents.create(
            {
                "amount": 1000,
                "currency": "usd",
                "confirm": True,
                "payment_method": "pm_card_visa",
                "metadata": {"purpose": "topup", "account": "acme", "credits": "12000000"},
            }
        )
        eventually(lambda: len(events(control)) >= 3, "the delivery of the webhooks")
        job.run_once()
    assert ledger_of(control) == 12_000_000
    (grant,) = control.get("/v1/accounts/acme/grants").json()["data"]
    assert (grant["id"], grant["reference"]) == (payment.id, payment.id)
