"""The query parameters of lists: how many, from where, and which."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from persistence.reads import Filters, parse_scope
from sidecar.control.decode import invalid
from sidecar.domain import MAX_AMOUNT, is_account

PAGING: Final = ("limit", "cursor")
INSTANTS: Final = ("since_ms", "until_ms")
USAGE: Final = ("model", "scope")

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000

_INTEGER: Final = re.compile(r"^(?:0|[1-9][0-9]{0,15})\Z")
_MODEL: Final = re.compile(r"^[\x21-\x7e]{1,256}\Z")


def limit(query: Mapping[str, str]) -> int:
    """Return how many rows are asked for, 1 to 1,000. Raises `Refusal` (422)."""
    return _integer(query, "limit", 1, LIMIT_MAX) or LIMIT_DEFAULT


def instant(query: Mapping[str, str], name: str) -> int | None:
    """Return an instant in Unix milliseconds, or None when it is not given."""
    return _integer(query, name, 0, MAX_AMOUNT)


def percent(query: Mapping[str, str], name: str) -> int | None:
    """Return a share in percent, 0 to 100, or None when it is not given."""
    return _integer(query, name, 0, 100)


def account(query: Mapping[str, str]) -> str | None:
    """Return the account that is asked for, or None."""
    given = query.get("account")
    if given is not None and not is_account(given):
        raise invalid("account must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -.", "account")
    return given


def status(query: Mapping[str, str], known: Collection[str]) -> str | None:
    """Return the status that is asked for, or None. Raises `Refusal` (422) for an unknown one."""
    given = query.get("status")
    if given is not None and given not in known:
        raise invalid(f"status must be one of {', '.join(known)}.", "status")
    return given


def model(query: Mapping[str, str]) -> str | None:
    """Return the model that is asked for, or None."""
    given = query.get("model")
    if given is not None and not _MODEL.match(given):
        raise invalid("model must be printable ASCII without space.", "model")
    return given


def filters(query: Mapping[str, str]) -> Filters:
    """Return which rows are asked for. Raises `Refusal` (422)."""
    scope = query.get("scope")
    if scope is not None:
        parse_scope(scope)
    return Filters(
        since_ms=instant(query, "since_ms"),
        until_ms=instant(query, "until_ms"),
        model=model(query),
        scope=scope,
    )


def _integer(query: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    given = query.get(name)
    if given is None:
        return None
    if not _INTEGER.match(given) or not least <= int(given) <= most:
        raise invalid(f"{name} must be an integer, {least} to {most}.", name)
    return int(given)
