"""Fields of Stripe's objects, read strictly: what is not as documented is never guessed."""

from __future__ import annotations

import re
from typing import Any, Final

from sidecar.billing.errors import EventNotUnderstood
from sidecar.domain import MAX_AMOUNT, is_account, is_id

_CURRENCY: Final = re.compile(r"^[A-Za-z]{3}\Z")
_LATEST_SECONDS: Final = 99_999_999_999


def shown(value: Any) -> str:
    """Return a value for an error message, in ASCII: columns refuse NUL and half surrogates."""
    return "missing" if value is None else ascii(value)[:80]


def id_of(value: Any, what: str) -> str:
    """Return an id, also of an object that stands expanded where its id would."""
    found = optional_id(value)
    if found is None:
        raise EventNotUnderstood(f"{what} is no id: {shown(value)}")
    return found


def optional_id(value: Any) -> str | None:
    """Return an id as `id_of`, or None when there is none."""
    if isinstance(value, dict):
        value = value.get("id")
    return value if isinstance(value, str) and is_id(value) else None


def integer(value: Any, what: str, *, least: int = 0) -> int:
    """Return an integer from `least` to 2^53-1."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_AMOUNT:
        raise EventNotUnderstood(f"{what} is no integer of at least {least}: {shown(value)}")
    return value


def instant_ms(value: Any, what: str) -> int:
    """Return an instant in Unix milliseconds; Stripe gives seconds."""
    seconds = integer(value, what)
    if seconds > _LATEST_SECONDS:
        raise EventNotUnderstood(f"{what} is no instant: {shown(value)}")
    return seconds * 1000


def currency_of(value: Any) -> str:
    """Return a currency's code in lower case, as Stripe writes it."""
    if not isinstance(value, str) or not _CURRENCY.match(value):
        raise EventNotUnderstood(f"its currency is {shown(value)}")
    return value.lower()


def one_of(value: Any, known: frozenset[str], what: str) -> str:
    """Return a word of a closed set: one that is new to us is never guessed."""
    if not isinstance(value, str) or value not in known:
        raise EventNotUnderstood(f"{what} is {shown(value)}, which is not known here")
    return value


def account_in(metadata: Any) -> str | None:
    """Return the account that our metadata names, or None. One that is no account is an error."""
    account = metadata.get("account") if isinstance(metadata, dict) else None
    if account is None:
        return None
    if not isinstance(account, str) or not is_account(account):
        raise EventNotUnderstood(f"metadata.account is no account name: {shown(account)}")
    return account
