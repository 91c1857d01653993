"""Outgoing webhooks are signed as Standard Webhooks asks: its published vector, and rotation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.billing.alert_rows import Alert
from sidecar.billing.alert_sender import RETRY_SECONDS, Answer, body_of, wait_seconds
from sidecar.billing.alerts import AlertKind
from sidecar.billing.standard_webhooks import headers_of

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = "msg_p5jXN8AQM9LWM0D4loKWxJek"
BODY = b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_published_vector_is_signed_as_published() -> None:
    assert headers_of(MESSAGE, BODY, [SECRET], 1_614_265_330) == {
        "webhook-id": MESSAGE,
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNATURE,
    }


def test_every_secret_of_a_rotation_signs() -> None:
    other = f"whsec_{'a' * 32}"
    signed = headers_of(MESSAGE, BODY, [other, SECRET], 1_614_265_330)["webhook-signature"]
    first, second = signed.split(" ")
    assert second == SIGNATURE
    assert first.startswith("v1,")
    assert first != second


def alert(attempts: int = 0) -> Alert:
    data = {"available": 5, "account": "not this one"}
    return Alert("alert_1", "balance.low", "acme", data, attempts, 0, 1_800_000_000_123)


def test_the_body_says_what_happened_when_and_to_whom() -> None:
    assert body_of(alert()) == (
        b'{"type":"balance.low","timestamp":"2027-01-15T08:00:00.123Z",'
        b'"data":{"available":5,"account":"acme","alert_id":"alert_1"}}'
    )


@pytest.mark.parametrize("status", [None, 200, 301, 400, 404, 429, 500])
def test_each_attempt_that_fails_waits_longer_and_the_last_is_the_tenth(status: int | None) -> None:
    waits = [wait_seconds(alert(attempts), Answer(status, "no")) for attempts in range(11)]
    assert waits == [*RETRY_SECONDS, None, None]


def test_every_kind_of_alert_is_documented() -> None:
    page = Path(__file__).parents[2] / "docs" / "alerts.md"
    named = re.findall(r"^\| `([a-z_.]+)` \|", page.read_text(), re.MULTILINE)
    assert named == [kind.value for kind in AlertKind]


def test_a_receiver_that_is_gone_is_not_tried_again() -> None:
    assert wait_seconds(alert(), Answer(410, "gone")) is None
