"""The price book: what each meter of each model costs, and the amount of a usage.

Rates are kept as integer attocredits for one unit (1 microcredit = 10^12 attocredits), so a price
of a millionth of a microcredit for a million tokens is still exact. An amount is rounded up to
microcredits once, at the end: no usage is ever given away, and none is charged more than one
microcredit too much.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from sidecar.domain import MAX_AMOUNT, Microcredits
from sidecar.errors import ErrorCode, Refusal, SettingsError

ATTO_PER_MICRO: Final = 10**12
METERS: Final = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "images",
    "seconds",
    "requests",
)
_DECIMALS: Final = {"per_million": 6, "per_unit": 12}
_NUMBER: Final = re.compile(r"[0-9]{1,16}(?:\.([0-9]{1,12}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Price:
    """What one model costs: attocredits for one unit of each meter."""

    version: str
    rates: Mapping[str, int]

    def attocredits(self, usage: Mapping[str, int]) -> int:
        """Return the exact price of `usage` (meter → count), before rounding.

        A meter that has no rate is priced as the one it is a kind of, or refused (422) when there
        is none: what cannot be priced must not be free.
        """
        return sum(self._rate(meter) * count for meter, count in usage.items() if count)

    def amount(self, usage: Mapping[str, int]) -> Microcredits:
        """Return the price of `usage`, rounded up once.

        Raises `Refusal` (422) when it passes 2^53-1 microcredits.
        """
        amount = -(-self.attocredits(usage) // ATTO_PER_MICRO)
        if amount > MAX_AMOUNT:
            raise Refusal(
                ErrorCode.INVALID_REQUEST, "The usage costs more than 2^53-1.", param="usage"
            )
        return Microcredits(amount)

    def affordable_output_tokens(self, usage: Mapping[str, int], budget: int) -> int | None:
        """Return how many output tokens `budget` pays for beside the rest of `usage`.

        At most the usage's own output tokens; None when output tokens do not matter to the price.
        """
        wanted = usage.get("output_tokens", 0)
        rate = self._rate("output_tokens") if wanted else 0
        if not rate:
            return None
        others = self.attocredits({**usage, "output_tokens": 0})
        return max(0, min(wanted, (budget * ATTO_PER_MICRO - others) // rate))

    def _rate(self, meter: str) -> int:
        rate = self.rates.get(meter)
        if rate is None:
            rate = self.rates.get(_KIND_OF.get(meter, ""))
        if rate is None:
            raise Refusal(
                ErrorCode.INVALID_REQUEST,
                f"The model has no price for {meter}.",
                param=f"usage.{meter}",
            )
        return rate


_KIND_OF: Final = {
    "cached_input_tokens": "input_tokens",
    "cache_write_tokens": "input_tokens",
    "input_audio_tokens": "input_tokens",
    "reasoning_tokens": "output_tokens",
    "output_audio_tokens": "output_tokens",
}
"""Token pools are exclusive: cached input is not input too. An unpriced pool costs as its kind."""


class PriceBook:
    """The prices of all models, in one version or several: a hold keeps the one that priced it."""

    def __init__(self, current: str, versions: Mapping[str, Mapping[str, Price]]) -> None:
        self.version: Final = current
        self._versions = versions
        self._current = versions[current]
        self._latest = {
            model: price for prices in versions.values() for model, price in prices.items()
        }

    def price(self, model: str, version: str = "", *, is_used: bool = False) -> Price:
        """Return the price of a model, as of `version` if the book still has it.

        A model that the current version has dropped keeps its latest price for what `is_used`
        already: that must be charged. Raises `Refusal` (422 `unknown_model`) when the book does
        not know the model.
        """
        prices = self._versions.get(version, self._current) if version else self._current
        price = prices.get(model) or (self._latest if is_used else self._current).get(model)
        if price is None:
            raise Refusal(
                ErrorCode.UNKNOWN_MODEL,
                f"The price book has no model {model!r}.",
                param="usage.model",
            )
        return price

    def models(self) -> list[str]:
        """Return the names of all models of the current version, sorted."""
        return sorted(self._current)


def load_book(path: Path | str | None = None) -> PriceBook:
    """Read a price book file, the built-in one when `path` is None.

    The file is JSON: one version `{"version", "models": {name: {"per_million": {meter: n},
    "per_unit": {meter: n}}}}`, or `{"versions": [...]}` with the current one last. Raises
    `SettingsError` naming the place when it cannot be used.
    """
    name = str(path) if path else "the built-in price book"
    try:
        text = Path(path).read_text("utf-8") if path else _builtin()
        data = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"CREDITS_PRICE_BOOK: {name} cannot be read: {error}") from error
    try:
        return _book(_object(data, "the whole"))
    except ValueError as error:
        raise SettingsError(f"CREDITS_PRICE_BOOK: {name} is wrong: {error}") from error


def _builtin() -> str:
    return files("sidecar.pricing").joinpath("builtin.json").read_text(encoding="utf-8")


def _book(data: dict[str, Any]) -> PriceBook:
    entries = data.get("versions", [data])
    if not isinstance(entries, list) or not entries:
        raise ValueError("versions must be a list with at least one version")
    versions: dict[str, dict[str, Price]] = {}
    for entry in entries:
        version = _object(entry, "each of versions").get("version")
        if not isinstance(version, str) or not version or version in versions:
            raise ValueError(f"version {version!r} must be a text that is there once")
        models = _object(entry.get("models"), f"models of {version}")
        versions[version] = {
            model: Price(version, _rates(f"{version}, {model}", _object(scales, model)))
            for model, scales in models.items()
        }
    return PriceBook(next(reversed(versions)), versions)


def _rates(place: str, scales: dict[str, Any]) -> dict[str, int]:
    rates: dict[str, int] = {}
    for scale, prices in scales.items():
        if scale not in _DECIMALS:
            raise ValueError(f"{place}: {scale!r} is not per_million or per_unit")
        for meter, value in _object(prices, f"{scale} of {place}").items():
            if meter not in METERS or meter in rates:
                raise ValueError(f"{place}: meter {meter!r} is unknown or there twice")
            rates[meter] = _attocredits(f"{place}: {meter}", value, _DECIMALS[scale])
    return rates


def _attocredits(place: str, value: Any, decimals: int) -> int:
    # A float would already have lost the fraction that was written: only integers and strings.
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{place} must be an integer or a decimal string")
    number = _NUMBER.fullmatch(str(value)[:40])
    if number is None or len(number.group(1) or "") > decimals or Decimal(value) > MAX_AMOUNT:
        raise ValueError(f"{place} must be 0 .. 2^53-1 with at most {decimals} decimals: {value!r}")
    return int(Decimal(value).scaleb(decimals))


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{place} must be an object")
    return value
