"""Currencies as Stripe counts them, and what a price in proportion comes to."""

from __future__ import annotations

import pytest

from sidecar.billing import currencies
from sidecar.billing.offers import Offer


def rate(price: int, credits: int = 1_000_000, currency: str = "usd") -> Offer:
    return Offer("r", credits, price, currency, True, 1, True, 0, 0)


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (1000, "usd", "10.00 USD"),
        (123_456_789, "usd", "1,234,567.89 USD"),
        (5, "eur", "0.05 EUR"),
        (1000, "jpy", "1,000 JPY"),
        (5120, "kwd", "5.120 KWD"),
        (500, "isk", "5.00 ISK"),
        (-1050, "usd", "-10.50 USD"),
        (0, "krw", "0 KRW"),
    ],
)
def test_an_amount_is_shown_in_the_unit_that_people_count_in(
    amount: int, currency: str, text: str
) -> None:
    assert currencies.shown(amount, currency) == text


@pytest.mark.parametrize(
    ("amount", "currency", "charged"),
    [
        (999, "usd", 999),
        (999, "jpy", 999),
        (5121, "kwd", 5130),
        (5120, "bhd", 5120),
        (101, "isk", 200),
        (100, "ugx", 100),
    ],
)
def test_what_cannot_be_charged_is_rounded_up(amount: int, currency: str, charged: int) -> None:
    assert currencies.round_up(amount, currency) == charged


@pytest.mark.parametrize(
    ("currency", "minimum"),
    [("usd", 1_000), ("jpy", 1_000), ("kwd", 10_000), ("isk", 100_000), ("huf", 1_000)],
)
def test_the_least_price_is_about_ten_dollars(currency: str, minimum: int) -> None:
    assert currencies.default_minimum(currency) == minimum


@pytest.mark.parametrize(
    ("price", "share"), [(100, 32.9), (500, 8.9), (1000, 5.9), (2500, 4.1), (10_000, 3.2)]
)
def test_the_smaller_a_payment_the_more_of_it_stripe_keeps(price: int, share: float) -> None:
    assert currencies.usual_share(price, "usd") == share


def test_a_share_has_one_decimal_and_none_of_nothing() -> None:
    assert currencies.percent(1, 3) == 33.3
    assert currencies.percent(2, 3) == 66.7
    assert currencies.percent(0, 3) == 0.0
    assert currencies.percent(1, 0) is None


@pytest.mark.parametrize(
    ("offer", "credits", "price"),
    [
        (rate(1), 1, 1),
        (rate(1), 1_000_000, 1),
        (rate(1), 1_000_001, 2),
        (rate(3, credits=7), 7_000_001, 3_000_001),
        (rate(10, currency="kwd"), 1_000_001, 20),
        (rate(1, currency="kwd"), 1, 10),
        (rate(99, credits=2**53 - 1), 2**53 - 1, 99),
        (rate(99_999_999, credits=1), 2**53 - 1, (2**53 - 1) * 99_999_999),
    ],
)
def test_a_price_in_proportion_is_exact_and_rounded_up_once(
    offer: Offer, credits: int, price: int
) -> None:
    assert offer.price_of(credits) == price
