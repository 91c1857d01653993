"""Which deliveries are ours: the signature, its age, and the shape of what was signed."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest

from sidecar.billing.errors import DeliveryRefused
from sidecar.billing.webhook import WebhookReader, mode_of

NOW = 1_800_000_000
NEW, OLD = "whsec_new", "whsec_old"


def sign(payload: bytes, secret: str = NEW, at: int = NOW, scheme: str = "v1") -> str:
    mac = hmac.new(secret.encode(), f"{at}.".encode() + payload, hashlib.sha256)
    return f"t={at},{scheme}={mac.hexdigest()}"


def event(**fields: Any) -> bytes:
    body: dict[str, Any] = {
        "id": "evt_1",
        "object": "event",
        "type": "payment_intent.succeeded",
        "created": NOW,
        "livemode": False,
        "api_version": "2026-10-28.endive",
        "data": {"object": {"id": "pi_1", "object": "payment_intent"}},
    }
    body.update(fields)
    return json.dumps(body).encode()


def reader(secret_key: str | None = None) -> WebhookReader:
    return WebhookReader((NEW, OLD), secret_key, lambda: float(NOW))


def outcome(payload: bytes, header: str | None, secret_key: str | None = None) -> str:
    with pytest.raises(DeliveryRefused) as refused:
        reader(secret_key).read(payload, header)
    return refused.value.outcome


@pytest.mark.parametrize("secret", [NEW, OLD])
def test_any_configured_secret_may_sign(secret: str) -> None:
    payload = event()
    read = reader().read(payload, sign(payload, secret))
    assert (read.id, read.type, read.object_id) == ("evt_1", "payment_intent.succeeded", "pi_1")
    assert (read.created_ms, read.livemode) == (NOW * 1000, False)
    assert read.payload.encode() == payload


def test_one_good_signature_among_others_is_enough() -> None:
    payload = event()
    header = f"{sign(payload)},v1={'0' * 64},v0=abc"
    assert reader().read(payload, header).id == "evt_1"
    header = f"t={NOW},v1={'0' * 64},{sign(payload, OLD).partition(',')[2]}"
    assert reader().read(payload, header).id == "evt_1"


@pytest.mark.parametrize("age", [-300, -299, 0, 299, 300])
def test_a_signature_is_fresh_for_300_seconds_in_both_directions(age: int) -> None:
    payload = event()
    assert reader().read(payload, sign(payload, at=NOW - age)).id == "evt_1"


@pytest.mark.parametrize("age", [301, 10_000, -301, -10_000, NOW])
def test_a_stale_or_future_signature_is_refused(age: int) -> None:
    payload = event()
    assert outcome(payload, sign(payload, at=NOW - age)) == "stale"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "nonsense",
        f"t={NOW}",
        "t=,v1=",
        f"t=now,v1={'0' * 64}",
        f"v1={'0' * 64}",
        f"t={NOW},v1={'0' * 64}",
        f"t={NOW},v1=\xff",
        pytest.param(f"t={NOW}," * 1000, id="long"),
        pytest.param(f"t={'9' * 400},v1={'0' * 64}", id="late"),
        sign(event(), "whsec_other"),
        sign(event(), ""),
        sign(event(), scheme="v0"),
        sign(event() + b" "),
        sign(event()).replace(f"t={NOW}", f"t={NOW - 1}"),
    ],
)
def test_a_signature_that_is_not_ours_is_refused(header: str | None) -> None:
    assert outcome(event(), header) == "bad_signature"


def test_the_bytes_are_checked_and_not_what_they_mean() -> None:
    payload = event()
    spaced = json.dumps(json.loads(payload), indent=1).encode()
    assert outcome(spaced, sign(payload)) == "bad_signature"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b'"event"',
        b"null",
        b"\xef\xbb\xbf{}",
        pytest.param(b"[" * 100_000, id="deep"),
        b'{"object": "event", "id": NaN}',
        event(object="charge"),
        event(object=None),
        event(id=None),
        event(id=""),
        event(id="a b"),
        event(id="evt_\u0000"),
        event(id="x" * 256),
        event(type=7),
        event(livemode="false"),
        event(livemode=None),
        event(created="1"),
        event(created=True),
        event(created=1.5),
        event(created=-1),
        event(created=10**12),
        event(data=None),
        event(data={}),
        event(data={"object": []}),
    ],
)
def test_signed_nonsense_is_unparsable(payload: bytes) -> None:
    assert outcome(payload, sign(payload)) == "unparsable"


def test_a_thin_event_does_not_belong_here() -> None:
    payload = json.dumps({"id": "evt_1", "object": "v2.core.event"}).encode()
    assert outcome(payload, sign(payload)) == "thin"


@pytest.mark.parametrize(
    ("secret_key", "livemode"),
    [("sk_test_1", True), ("sk_live_1", False), ("rk_test_1", True), ("rk_live_1", False)],
)
def test_an_event_of_the_other_mode_is_refused(secret_key: str, livemode: bool) -> None:
    payload = event(livemode=livemode)
    assert outcome(payload, sign(payload), secret_key) == "wrong_mode"
    payload = event(livemode=not livemode)
    assert reader(secret_key).read(payload, sign(payload)).livemode is not livemode


@pytest.mark.parametrize("secret_key", [None, "", "sk_other", "test_sk_test_"])
def test_without_a_key_that_says_its_mode_both_modes_are_taken(secret_key: str | None) -> None:
    assert mode_of(secret_key) is None
    for livemode in (True, False):
        payload = event(livemode=livemode)
        assert reader(secret_key).read(payload, sign(payload)).livemode is livemode


def test_an_object_without_a_name_is_kept_without_one() -> None:
    payload = event(type="balance.available", data={"object": {"object": "balance"}})
    assert reader().read(payload, sign(payload)).object_id is None
