"""What a flood of the webhook is made of, and what its report calls wrong."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace

import pytest

from loadtests.deliveries import Deliveries, Delivery, Kind, message
from loadtests.flood_report import Proved, Report, Window
from loadtests.flooder import Flooded
from sidecar.billing.errors import DeliveryRefused
from sidecar.billing.handlers import HANDLERS
from sidecar.billing.webhook import WebhookReader

SECRET = "whsec_of_the_test"


def delivered(count: int = 400) -> list[Delivery]:
    deliveries, made = Deliveries(["acme", "zeta"]), []
    for _ in range(count):
        made.append(deliveries.next())
        if made[-1].kind in (Kind.TOP_UP, Kind.IGNORED):
            deliveries.keep(made[-1])
    return made


def read(delivery: Delivery) -> str:
    head, _, body = message(delivery, "localhost", SECRET).partition(b"\r\n\r\n")
    (signature,) = (
        line.partition(": ")[2]
        for line in head.decode().splitlines()
        if line.startswith("Stripe-Signature")
    )
    return WebhookReader([SECRET], None, time.time).read(body, signature).type


def test_the_webhook_takes_all_but_the_forged_ones() -> None:
    for delivery in delivered():
        if delivery.kind is Kind.FORGED:
            with pytest.raises(DeliveryRefused, match="secret"):
                read(delivery)
        else:
            assert read(delivery)


def test_only_types_that_nothing_handles_count_as_ignored() -> None:
    for delivery in delivered():
        if delivery.kind in (Kind.TOP_UP, Kind.IGNORED):
            assert (read(delivery) in HANDLERS) == (delivery.kind is Kind.TOP_UP)


def test_duplicates_repeat_what_was_stored_and_nothing_else_repeats() -> None:
    ids: dict[bool, list[str]] = {True: [], False: []}
    for delivery in delivered():
        ids[delivery.kind is Kind.DUPLICATE].append(json.loads(delivery.body)["id"])
    assert set(ids[True]) < set(ids[False])
    assert len(set(ids[False])) == len(ids[False])


def window(debit_ms: float, *, is_flooded: bool = False, **errors: int) -> Window:
    flooded = Flooded() if is_flooded else None
    return Window({"debit": [debit_ms]}, Counter(errors), 0.0, 0.0, 0.0, flooded)


PROVED = Proved(0, 0, 0, 0, {}, 0, [])


def test_a_ratio_is_of_the_two_windows_of_a_pair_in_whatever_order() -> None:
    one, other = window(2.0, is_flooded=True), window(9.0, is_flooded=True)
    report = Report([window(1.0), one, other, window(3.0)], PROVED)
    assert report.ratios("debit", "p50") == [2.0, 3.0]
    assert report.is_good


def test_a_report_is_good_only_when_nothing_at_all_is_wrong() -> None:
    refused = window(1.0, is_flooded=True)
    assert refused.flooded
    refused.flooded.problems.append("a delivery was answered 500")
    for windows, proved in (
        ([window(1.0, TimeoutError=1)], PROVED),
        ([refused], PROVED),
        ([], replace(PROVED, mismatches=["acme: acknowledged 1, usage 2"])),
        ([], replace(PROVED, discrepancies=1)),
        ([], replace(PROVED, discrepancies=None)),
    ):
        assert not Report(windows, proved).is_good
