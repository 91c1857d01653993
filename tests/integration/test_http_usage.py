"""Usage priced by the price book: rounded up once, by the version that the hold was made under."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.meter_server import Ledger, Meter, Sidecar, running

Rates = dict[str, dict[str, Any]]

V1: dict[str, Rates] = {
    "model": {"per_million": {"input_tokens": "333333", "output_tokens": 1_000_000}},
    "retired": {"per_million": {"output_tokens": 2_000_000}},
    "picture": {"per_unit": {"images": "40000.000001", "requests": 7}},
}
V2: dict[str, Rates] = {
    "model": {"per_million": {"input_tokens": "666666", "output_tokens": 3_000_000}},
    "new": {"per_million": {"output_tokens": 5}},
}


def book(path: Path, **versions: dict[str, Rates]) -> str:
    entries = [{"version": name, "models": models} for name, models in versions.items()]
    path.write_text(json.dumps({"versions": entries}))
    return str(path)


@pytest.fixture(scope="module")
def books(meter_redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    """Two sidecars: one before the prices changed, and one after."""
    folder = tmp_path_factory.mktemp("prices")
    files = [book(folder / "v1.json", v1=V1), book(folder / "v2.json", v1=V1, v2=V2)]
    with ExitStack() as stack:
        yield [stack.enter_context(running(meter_redis_url, price_book=file)) for file in files]


@pytest.fixture
def meters(books: list[Any], ledger: Ledger) -> Iterator[tuple[Meter, Meter]]:
    with ExitStack() as stack:
        made = []
        for sidecar in books:
            sidecar.wait_ready()
            made.append(Meter(stack.enter_context(sidecar.client()), ledger, sidecar))
        ledger.account("acme", 1_000_000)
        yield made[0], made[1]


def usage(model: str = "model", **counts: int) -> dict[str, Any]:
    return {"model": model, **counts}


@pytest.mark.parametrize(
    ("counts", "amount"),
    [
        (usage(input_tokens=1), 1),
        (usage(input_tokens=3), 1),
        (usage(input_tokens=4), 2),
        (usage(input_tokens=1_000_000), 333_333),
        (usage(input_tokens=1, output_tokens=1), 2),
        (usage(input_tokens=3, output_tokens=3), 4),
        (usage(max_output_tokens=10), 10),
        (usage(input_tokens=1_000_000, max_output_tokens=0), 333_333),
        (usage("picture", images=1), 40_001),
        (usage("picture", images=2, requests=3), 80_022),
    ],
)
def test_usage_is_rounded_up_once(
    meters: tuple[Meter, Meter], counts: dict[str, Any], amount: int
) -> None:
    meter, _ = meters
    assert meter.accept("hold", account="acme", id="h1", usage=counts)["amount"] == amount
    assert meter.accept("check", account="acme", usage=counts)["amount"] == amount
    if "max_output_tokens" not in counts:
        assert meter.accept("debit", account="acme", id="d1", usage=counts)["charged"] == amount


def test_settle_is_priced_by_the_version_of_its_hold(meters: tuple[Meter, Meter]) -> None:
    before, after = meters
    before.accept("hold", account="acme", id="h1", usage=usage(max_output_tokens=100))
    answer = after.accept("settle", account="acme", id="h1", usage=usage(output_tokens=40))
    assert (answer["charged"], answer["released"]) == (40, 60)
    (event,) = before.ledger.events("acme")
    assert event["context"]["price_version"] == "v1"
    assert event["detail"]["price_version"] == "v1"
    assert event["detail"]["usage"] == {"output_tokens": 40}
    assert event["detail"]["model"] == "model"


def test_new_holds_are_priced_by_the_new_version(meters: tuple[Meter, Meter]) -> None:
    _, after = meters
    answer = after.accept("hold", account="acme", id="h1", usage=usage(max_output_tokens=100))
    assert answer["amount"] == 300
    assert (
        after.accept("settle", account="acme", id="h1", usage=usage(output_tokens=40))["charged"]
        == 120
    )


def test_streamed_settles_keep_the_version_of_their_hold(meters: tuple[Meter, Meter]) -> None:
    before, after = meters
    before.accept("hold", account="acme", id="h1", usage=usage(max_output_tokens=100))
    for meter, tokens in ((before, 10), (after, 20), (before, 30), (after, 40)):
        answer = meter.accept(
            "settle", account="acme", id="h1", usage=usage(output_tokens=tokens), final=tokens == 40
        )
        assert answer["charged"] == tokens
    again = after.accept("settle", account="acme", id="h1", usage=usage(output_tokens=40))
    assert again["replayed"] is True


def test_late_settle_keeps_the_version_of_its_hold(meters: tuple[Meter, Meter]) -> None:
    before, after = meters
    before.accept("hold", account="acme", id="h1", usage=usage(max_output_tokens=100))
    before.ledger.expire_now("acme", "h:h1")
    answer = after.accept("settle", account="acme", id="h1", usage=usage(output_tokens=40))
    assert (answer["charged"], answer["late"]) == (40, True)


def test_repeated_hold_gets_its_first_figures_after_a_price_change(
    meters: tuple[Meter, Meter],
) -> None:
    before, after = meters
    before.ledger.account("poor", 50)
    priced = {"usage": usage(max_output_tokens=100), "partial": True}
    first = before.accept("hold", account="poor", id="h1", **priced)
    assert (first["amount"], first["affordable_output_tokens"]) == (50, 50)
    again = after.accept("hold", account="poor", id="h1", **priced)
    assert again == first | {"replayed": True}


def test_settle_of_a_hold_by_amount_uses_the_current_prices(meters: tuple[Meter, Meter]) -> None:
    _, after = meters
    after.accept("hold", account="acme", id="h1", amount=100)
    answer = after.accept("settle", account="acme", id="h1", usage=usage(output_tokens=10))
    assert answer["charged"] == 30


def test_settle_by_amount_of_a_priced_hold_is_that_amount(meters: tuple[Meter, Meter]) -> None:
    _, after = meters
    after.accept("hold", account="acme", id="h1", usage=usage(max_output_tokens=100))
    assert after.accept("settle", account="acme", id="h1", amount=7)["charged"] == 7


def test_settle_with_another_model_is_priced_by_the_version_of_its_hold(
    meters: tuple[Meter, Meter],
) -> None:
    before, after = meters
    before.accept("hold", account="acme", id="h1", usage=usage(max_output_tokens=100))
    answer = after.accept("settle", account="acme", id="h1", usage=usage("picture", requests=1))
    assert answer["charged"] == 7


def test_model_that_was_retired_is_still_settled_but_not_held(meters: tuple[Meter, Meter]) -> None:
    before, after = meters
    before.accept("hold", account="acme", id="h1", usage=usage("retired", max_output_tokens=100))
    tokens = usage("retired", output_tokens=40)
    assert after.accept("settle", account="acme", id="h1", usage=tokens)["charged"] == 80
    status, error = after.refuse("hold", account="acme", id="h2", usage=tokens)
    assert (status, error["code"]) == (422, "unknown_model")
    status, error = before.refuse("hold", account="acme", id="h2", usage=usage("new", images=1))
    assert (status, error["code"]) == (422, "unknown_model")


def test_sidecar_that_has_lost_the_version_settles_by_its_own(
    meter_redis_url: str, meters: tuple[Meter, Meter], tmp_path: Path
) -> None:
    before, _ = meters
    before.accept("hold", account="acme", id="h1", usage=usage(max_output_tokens=100))
    with running(meter_redis_url, price_book=book(tmp_path / "v2.json", v2=V2)) as sidecar:
        sidecar.wait_ready()
        with sidecar.client() as client:
            fields = {"account": "acme", "id": "h1", "usage": usage(output_tokens=10)}
            response = client.post("/v1/settle", json=fields)
    assert response.json()["charged"] == 30
    assert before.ledger.events("acme")[0]["detail"]["price_version"] == "v2"


def test_usage_of_nothing_may_be_free(meters: tuple[Meter, Meter]) -> None:
    meter, _ = meters
    answer = meter.accept("hold", account="acme", id="h1", usage=usage(output_tokens=0))
    assert answer["amount"] == 0
    answer = meter.accept("settle", account="acme", id="h1", usage=usage(output_tokens=0))
    assert (answer["charged"], answer["released"]) == (0, 0)


def test_meter_without_a_price_is_refused(meters: tuple[Meter, Meter]) -> None:
    meter, _ = meters
    status, error = meter.refuse("debit", account="acme", id="d1", usage=usage(images=1))
    assert (status, error["code"], error["param"]) == (422, "invalid_request", "usage.images")


def test_wrong_price_book_refuses_to_start_and_names_its_setting(
    meter_redis_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"version": "v1", "models": {"m": {"per_million": {"input_tokens": 0.5}}}}')
    sidecar = Sidecar(meter_redis_url, price_book=str(file))
    sidecar.launch()
    assert sidecar.process.wait(20) != 0
    assert "CREDITS_PRICE_BOOK" in sidecar.log
    assert str(file) in sidecar.log
    assert "input_tokens" in sidecar.log
    assert "Traceback" not in sidecar.log
    sidecar.stop()
