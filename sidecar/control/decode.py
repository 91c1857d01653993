"""Bodies and query strings, read strictly: what the contract does not name is refused."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any, Final, TypeVar

import msgspec

from sidecar.domain import is_account, is_id
from sidecar.errors import ErrorCode, Refusal

T = TypeVar("T", bound=msgspec.Struct)

_FIELD: Final = re.compile(r"(?:missing required|contains unknown) field `([^`]*)`")
_PATH: Final = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")
_PARAM_CHARACTERS: Final = 256


def parse_json(body: bytes) -> Any:
    """Return the value of a JSON text. Raises `Refusal` (400) when it is none."""
    try:
        return msgspec.json.decode(body)
    except RecursionError as error:
        raise Refusal(ErrorCode.INVALID_JSON, "The body is nested too deeply.") from error
    except msgspec.ValidationError as error:
        # Valid JSON with a number that no double can hold: its field is out of range.
        raise invalid(f"{error}.", _param(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refusal(ErrorCode.INVALID_JSON, f"The body is not valid JSON: {error}.") from error


def read_body_as(kind: type[T], value: Any) -> T:
    """Read a JSON value as a request. Raises `Refusal` (422) naming the field at fault.

    `null` means absent, except where the type takes None: there it clears the field.
    """
    if isinstance(value, dict) and not getattr(kind, "null_clears", False):
        value = {name: field for name, field in value.items() if field is not None}
    try:
        return msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        text = str(error)
        raise invalid(f"{text.removesuffix('.')}.", _param(text)) from error


def set_fields(body: msgspec.Struct) -> dict[str, Any]:
    """Return the fields of a body that were there, those that are null as None."""
    fields = msgspec.structs.asdict(body)
    return {name: value for name, value in fields.items() if value is not msgspec.UNSET}


def read_query(pairs: Sequence[tuple[str, str]], allowed: Collection[str]) -> dict[str, str]:
    """Return the query's parameters. Raises `Refusal` (422) for one unknown or given twice."""
    query: dict[str, str] = {}
    for name, value in pairs:
        if name not in allowed:
            raise invalid("This path does not take that query parameter.", name)
        if name in query:
            raise invalid("The query parameter is given twice.", name)
        query[name] = value
    return query


def check_path(parameters: dict[str, str]) -> None:
    """Refuse (422) a path whose account or id, of Stripe's too, has not the form of one."""
    account = parameters.get("account")
    if account is not None and not is_account(account):
        raise invalid("account must be 1 to 128 characters of A-Z a-z 0-9 . _ : @ -.", "account")
    for name in ("id", "stripe_price"):
        given = parameters.get(name)
        if given is not None and not is_id(given):
            sentence = f"{name} must be 1 to 128 printable ASCII characters without space."
            raise invalid(sentence, name)


def invalid(message: str, param: str | None) -> Refusal:
    """Return the refusal (422) of one field."""
    return Refusal(
        ErrorCode.INVALID_REQUEST, message, param=param[:_PARAM_CHARACTERS] if param else None
    )


def _param(text: str) -> str | None:
    path, field = _PATH.search(text), _FIELD.search(text)
    parts = [path.group(1) if path else "", field.group(1) if field else ""]
    return ".".join(part for part in parts if part) or None
