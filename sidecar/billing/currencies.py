"""Currencies as Stripe counts them: which unit an amount is in, and what may be charged.

Source: https://docs.stripe.com/currencies, "zero-decimal", "three-decimal" and "special cases".
"""

from __future__ import annotations

from typing import Final

CURRENCY_PATTERN: Final = r"^[a-z]{3}\Z"
"""A currency's code, in lower case as Stripe writes it."""

MOST: Final = 99_999_999
"""The largest amount that Stripe charges, in the smallest unit of any currency."""

_ZERO_DECIMAL: Final = frozenset(
    (
        *("bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga"),
        *("pyg", "rwf", "vnd", "vuv", "xaf", "xof", "xpf"),
    )
)
_THREE_DECIMAL: Final = frozenset(("bhd", "jod", "kwd", "omr", "tnd"))
# They have no smaller coins any more, but are still written with two decimals: always 00.
_WHOLE_ONLY: Final = frozenset(("isk", "ugx"))

_FEE_PER_MILLE: Final = 29
_FIXED_FEE_PER_MILLE: Final = 30  # of the default minimum: $0.30 of $10


def decimals(currency: str) -> int:
    """Return how many decimals amounts in a currency have: 10 USD are 1000, 10 JPY are 10."""
    if currency in _ZERO_DECIMAL:
        return 0
    return 3 if currency in _THREE_DECIMAL else 2


def step(currency: str) -> int:
    """Return what an amount must be a multiple of to be charged."""
    if currency in _WHOLE_ONLY:
        return 100
    return 10 if currency in _THREE_DECIMAL else 1


def round_up(amount: int, currency: str) -> int:
    """Return the least amount that can be charged and is not below `amount`."""
    multiple = step(currency)
    return -(-amount // multiple) * multiple


def default_minimum(currency: str) -> int:
    """Return about ten dollars, below which Stripe keeps too much: 10 units, or 1,000 small ones.

    Not by a rate of exchange: where that is far off, an offer says its own minimum.
    """
    units = 1_000 if currency in _ZERO_DECIMAL | _WHOLE_ONLY else 10
    return int(units * 10 ** decimals(currency))


def usual_share(price: int, currency: str) -> float:
    """Return how much of a payment Stripe keeps by its list price of 2.9 % + $0.30, in percent."""
    fixed = default_minimum(currency) * _FIXED_FEE_PER_MILLE
    return percent(price * _FEE_PER_MILLE + fixed, 1_000 * price) or 0.0


def percent(part: int, whole: int) -> float | None:
    """Return a share in percent with one decimal, for people; None of nothing."""
    return None if whole <= 0 else (2_000 * part + whole) // (2 * whole) / 10


def shown(amount: int, currency: str) -> str:
    """Return an amount for people: `1,234.50 USD`, `1,000 JPY`."""
    places = decimals(currency)
    whole, rest = divmod(abs(amount), 10**places)
    sign = "-" if amount < 0 else ""
    fraction = f".{rest:0{places}d}" if places else ""
    return f"{sign}{whole:,}{fraction} {currency.upper()}"
