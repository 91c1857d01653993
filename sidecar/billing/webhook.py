"""A webhook delivery, read and checked: bytes become an event that is worth storing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sidecar.billing.errors import DeliveryRefused
from sidecar.billing.signature import verify

_NAME: Final = re.compile(r"^[\x21-\x7e]{1,255}\Z")
_LATEST_SECONDS: Final = 99_999_999_999  # the year 5138; in milliseconds it still fits everywhere


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """One event as Stripe sent it; `payload` is the very text that was signed."""

    id: str
    type: str
    object_id: str | None
    livemode: bool
    api_version: str | None
    created_ms: int
    payload: str


class WebhookReader:
    """Turns deliveries into events, with the secrets and the mode of one Stripe account."""

    def __init__(
        self, secrets: Sequence[str], secret_key: str | None, now_seconds: Callable[[], float]
    ) -> None:
        self._secrets = tuple(secrets)
        self._livemode = mode_of(secret_key)
        self._now_seconds = now_seconds

    @property
    def is_configured(self) -> bool:
        """Whether there is a secret to check deliveries with."""
        return bool(self._secrets)

    def read(self, payload: bytes, signature: str | None) -> StripeEvent:
        """Return the event of a delivery. Raises `DeliveryRefused` when it is not to be stored."""
        verify(payload, signature, self._secrets, self._now_seconds())
        event = parse_event(payload)
        if self._livemode is not None and event.livemode != self._livemode:
            mode = "live" if event.livemode else "test"
            raise DeliveryRefused(
                "wrong_mode", f"This is a {mode} event; the secret key here is of the other mode."
            )
        return event


def mode_of(secret_key: str | None) -> bool | None:
    """Return whether a secret key is a live one; None when there is none, or it does not say."""
    match = re.match(r"(?:sk|rk)_(test|live)_", secret_key or "")
    return None if match is None else match.group(1) == "live"


def parse_event(payload: bytes) -> StripeEvent:
    """Read the JSON of an event. Raises `DeliveryRefused` (`unparsable`, `thin`)."""
    try:
        event = json.loads(payload.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise DeliveryRefused("unparsable", "The body is not JSON.") from error
    if not isinstance(event, dict):
        raise _malformed("it is no object")
    if event.get("object") == "v2.core.event":
        raise DeliveryRefused("thin", "This is a thin event; send snapshot events to this path.")
    if event.get("object") != "event":
        raise _malformed("it is no event")
    return StripeEvent(
        id=_name(event, "id"),
        type=_name(event, "type"),
        object_id=_object_id(event),
        livemode=_livemode(event),
        api_version=_optional_name(event.get("api_version")),
        created_ms=_created_ms(event),
        payload=payload.decode("utf-8"),
    )


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _malformed(reason: str) -> DeliveryRefused:
    return DeliveryRefused("unparsable", f"The body is not a Stripe event: {reason}.")


def _name(event: dict[str, Any], field: str) -> str:
    name = _optional_name(event.get(field))
    if name is None:
        raise _malformed(f"its {field} is missing or not a name")
    return name


def _optional_name(value: Any) -> str | None:
    return value if isinstance(value, str) and _NAME.match(value) else None


def _object_id(event: dict[str, Any]) -> str | None:
    data = event.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("object"), dict):
        raise _malformed("it carries no object")
    return _optional_name(data["object"].get("id"))


def _livemode(event: dict[str, Any]) -> bool:
    livemode = event.get("livemode")
    if not isinstance(livemode, bool):
        raise _malformed("its livemode is missing or not a boolean")
    return livemode


def _created_ms(event: dict[str, Any]) -> int:
    created = event.get("created")
    if not isinstance(created, int) or isinstance(created, bool):
        raise _malformed("its created is missing or not an integer")
    if not 0 <= created <= _LATEST_SECONDS:
        raise _malformed("its created is no instant")
    return created * 1000
