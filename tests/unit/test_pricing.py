"""Prices against a slow reference in fractions, and price books that are wrong."""

from __future__ import annotations

import json
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.domain import MAX_AMOUNT
from sidecar.errors import ErrorCode, Refusal, SettingsError
from sidecar.pricing.book import METERS, Price, PriceBook, load_book

# The reference: what a meter without a price of its own costs as.
KIND_OF = {
    "cached_input_tokens": "input_tokens",
    "cache_write_tokens": "input_tokens",
    "input_audio_tokens": "input_tokens",
    "reasoning_tokens": "output_tokens",
    "output_audio_tokens": "output_tokens",
}
Rates = dict[str, dict[str, str]]

decimals = st.builds(
    lambda whole, places, digits: f"{whole}.{digits % 10**places:0{places}d}",
    st.integers(0, 10**9),
    st.integers(1, 6),
    st.integers(0, 10**6),
)
whole_numbers = st.integers(0, 10**12).map(str)
per_million = st.dictionaries(st.sampled_from(METERS[:7]), decimals | whole_numbers, max_size=7)
per_unit = st.dictionaries(st.sampled_from(METERS[7:]), decimals | whole_numbers, max_size=3)
rates = st.builds(lambda m, u: {"per_million": m, "per_unit": u}, per_million, per_unit)
counts = st.integers(0, 10) | st.integers(0, 10**7) | st.integers(0, MAX_AMOUNT)
usages = st.dictionaries(st.sampled_from(METERS), counts, min_size=1)


def book_of(models: dict[str, Any], folder: Path) -> PriceBook:
    file = folder / "prices.json"
    file.write_text(json.dumps({"version": "v", "models": models}))
    return load_book(file)


def reference(prices: Rates, usage: dict[str, int]) -> Fraction | None:
    """Return the exact price in microcredits, or None when a meter has no price."""
    each = {meter: Fraction(rate) / 10**6 for meter, rate in prices["per_million"].items()}
    each |= {meter: Fraction(rate) for meter, rate in prices["per_unit"].items()}
    total = Fraction(0)
    for meter, count in usage.items():
        if count:
            rate = each.get(meter, each.get(KIND_OF.get(meter, "")))
            if rate is None:
                return None
            total += rate * count
    return total


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prices")


def amount_or_code(price: Price, usage: dict[str, int]) -> int | tuple[ErrorCode, str | None]:
    try:
        return price.amount(usage)
    except Refusal as refusal:
        return refusal.code, refusal.param


@settings(max_examples=250, deadline=None)
@given(prices=rates, many=st.lists(usages, min_size=1, max_size=40))
def test_amount_is_the_exact_price_rounded_up_once(
    folder: Path, prices: Rates, many: list[dict[str, int]]
) -> None:
    price = book_of({"m": prices}, folder).price("m")
    for usage in many:
        exact = reference(prices, usage)
        found = amount_or_code(price, usage)
        if exact is None:
            assert isinstance(found, tuple)
            assert found[0] is ErrorCode.INVALID_REQUEST
            assert str(found[1]).startswith("usage.")
        elif ceil(exact) > MAX_AMOUNT:
            assert found == (ErrorCode.INVALID_REQUEST, "usage")
        else:
            assert found == ceil(exact)


@settings(max_examples=250, deadline=None)
@given(
    prices=rates,
    many=st.lists(st.tuples(usages, st.integers(-(10**9), 10**10)), min_size=1, max_size=20),
)
def test_affordable_tokens_are_the_most_that_the_budget_pays_for(
    folder: Path, prices: Rates, many: list[tuple[dict[str, int], int]]
) -> None:
    price = book_of({"m": prices}, folder).price("m")
    for usage, budget in many:
        if reference(prices, usage) is None:
            continue
        wanted = usage.get("output_tokens", 0)
        rate = Fraction(prices["per_million"].get("output_tokens", "0")) / 10**6
        found = price.affordable_output_tokens(usage, budget)
        if not wanted or not rate:
            assert found is None
            continue
        assert found is not None
        others = reference(prices, usage | {"output_tokens": 0})
        assert others is not None
        assert found == max(0, min(wanted, floor((budget - others) / rate)))
        if found:
            assert ceil(others + found * rate) <= budget
        if found < wanted:
            assert ceil(others + (found + 1) * rate) > budget


def test_a_sum_is_rounded_once_and_not_part_by_part(folder: Path) -> None:
    prices = {"per_million": {"input_tokens": "400000", "output_tokens": "600000"}}
    price = book_of({"m": prices}, folder).price("m")
    assert price.amount({"input_tokens": 1}) == 1
    assert price.amount({"output_tokens": 1}) == 1
    assert price.amount({"input_tokens": 1, "output_tokens": 1}) == 1


def test_the_finest_price_is_exact(folder: Path) -> None:
    finest = {"per_million": {"input_tokens": "0.000001"}, "per_unit": {"images": "0.000000000001"}}
    price = book_of({"m": finest}, folder).price("m")
    for meter in ("input_tokens", "images"):
        assert price.amount({meter: 1}) == 1
        assert price.amount({meter: 10**12}) == 1
        assert price.amount({meter: 10**12 + 1}) == 2


@pytest.mark.parametrize(("count", "is_fine"), [(MAX_AMOUNT, True), (MAX_AMOUNT + 1, False)])
def test_amount_stays_in_its_range(folder: Path, count: int, is_fine: bool) -> None:
    price = book_of({"m": {"per_unit": {"images": 1}}}, folder).price("m")
    found = amount_or_code(price, {"images": count})
    assert found == (count if is_fine else (ErrorCode.INVALID_REQUEST, "usage"))


def test_nothing_used_costs_nothing(folder: Path) -> None:
    price = book_of({"m": {"per_unit": {"images": 1}}}, folder).price("m")
    assert price.amount({"images": 0, "seconds": 0}) == 0


def test_free_meter_is_free_but_an_unpriced_one_is_refused(folder: Path) -> None:
    price = book_of({"m": {"per_unit": {"images": 0}}}, folder).price("m")
    assert price.amount({"images": 10**6}) == 0
    assert amount_or_code(price, {"seconds": 1}) == (ErrorCode.INVALID_REQUEST, "usage.seconds")


# The book -----------------------------------------------------------------------------------------


def versions(folder: Path) -> PriceBook:
    file = folder / "versions.json"
    old = {"kept": {"per_unit": {"images": 1}}, "dropped": {"per_unit": {"images": 2}}}
    middle = {"kept": {"per_unit": {"images": 3}}, "dropped": {"per_unit": {"images": 4}}}
    new = {"kept": {"per_unit": {"images": 5}}, "added": {"per_unit": {"images": 6}}}
    entries = [
        {"version": name, "models": models}
        for name, models in (("v1", old), ("v2", middle), ("v3", new))
    ]
    file.write_text(json.dumps({"versions": entries}))
    return load_book(file)


@pytest.mark.parametrize(
    ("model", "version", "is_used", "amount", "priced_by"),
    [
        ("kept", "", False, 5, "v3"),
        ("kept", "v1", False, 1, "v1"),
        ("kept", "v2", True, 3, "v2"),
        ("kept", "forgotten", True, 5, "v3"),
        ("added", "v1", True, 6, "v3"),
        ("dropped", "v1", True, 2, "v1"),
        ("dropped", "", True, 4, "v2"),
        ("dropped", "forgotten", True, 4, "v2"),
    ],
)
def test_price_is_of_the_version_that_is_asked_for(
    folder: Path, model: str, version: str, is_used: bool, amount: int, priced_by: str
) -> None:
    price = versions(folder).price(model, version, is_used=is_used)
    assert (price.amount({"images": 1}), price.version) == (amount, priced_by)


@pytest.mark.parametrize(("model", "is_used"), [("dropped", False), ("none", True), ("", False)])
def test_unknown_model_is_refused(folder: Path, model: str, is_used: bool) -> None:
    with pytest.raises(Refusal) as refused:
        versions(folder).price(model, is_used=is_used)
    assert (refused.value.code, refused.value.param) == (ErrorCode.UNKNOWN_MODEL, "usage.model")


def test_built_in_book_prices_well_known_models() -> None:
    book = load_book()
    price = book.price("openai/gpt-4o-mini")
    assert price.amount({"input_tokens": 1_200, "output_tokens": 350}) == 390
    assert price.version == book.version
    assert "openai/gpt-4o-mini" in book.models()
    assert book.models() == sorted(book.models())


def one(rate: Any, scale: str = "per_million", meter: str = "input_tokens") -> str:
    return json.dumps({"version": "v1", "models": {"the/model": {scale: {meter: rate}}}})


WRONG_RATES: list[Any] = [
    0.5, 1.0, True, None, [], {}, "", "x", "1,5", "0x10", "NaN", "Infinity", "-Infinity", "sNaN",
    -1, "-0.5", "0.0000001", "1/3", "1e-7", "100000.0000000000000000000000000001", "1e400", 10**40,
    "1_000", " 1 ", "\u0661", 2**53, "9007199254740991.1", "1.", ".5", "+1", 10**4_000,
]  # fmt: skip


@pytest.mark.parametrize("rate", WRONG_RATES)
def test_wrong_rate_names_its_model_and_meter(tmp_path: Path, rate: Any) -> None:
    message = refused_book(tmp_path, one(rate))
    assert "the/model" in message
    assert "input_tokens" in message


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "cannot be read"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "object"),
        ("null", "object"),
        ('"x"', "object"),
        ("{}", "version"),
        ('{"version": "v1"}', "v1"),
        ('{"version": "", "models": {}}', "version"),
        ('{"version": 5, "models": {}}', "version"),
        ('{"version": "v1", "models": []}', "v1"),
        ('{"version": "v1", "models": {"the/model": 5}}', "the/model"),
        ('{"version": "v1", "models": {"the/model": {"per_million": 5}}}', "the/model"),
        ('{"versions": []}', "versions"),
        ('{"versions": {}}', "versions"),
        ('{"versions": 5}', "versions"),
        ('{"versions": [5]}', "versions"),
        (json.dumps({"versions": [{"version": "v1", "models": {}}] * 2}), "v1"),
        (one(1, "per_thousand"), "per_thousand"),
        (one(1, meter="tokens"), "tokens"),
        (one(1, meter="max_output_tokens"), "max_output_tokens"),
        (
            '{"version": "v1", "models": {"the/model": '
            '{"per_million": {"images": 1}, "per_unit": {"images": 1}}}}',
            "images",
        ),
    ],
)
def test_wrong_price_book_names_the_place(tmp_path: Path, text: str, named: str) -> None:
    assert named in refused_book(tmp_path, text)


def refused_book(folder: Path, text: str) -> str:
    file = folder / "prices.json"
    file.write_text(text)
    with pytest.raises(SettingsError) as refused:
        load_book(file)
    message = str(refused.value)
    assert message.startswith("CREDITS_PRICE_BOOK: ")
    assert str(file) in message
    return message


def test_price_book_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"CREDITS_PRICE_BOOK: .*nowhere\.json"):
        load_book(tmp_path / "nowhere.json")


def test_price_book_that_is_not_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="CREDITS_PRICE_BOOK"):
        load_book(file)
