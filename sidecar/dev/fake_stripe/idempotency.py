"""Idempotency keys: the first answer again, for 24 hours of the fake's clock."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

from sidecar.dev.fake_stripe.clock import DAY, Clock
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.state import Object

KEPT_SECONDS: Final = DAY


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered; `digest` tells its parameters from others."""

    digest: str
    status: int
    body: Object
    at: int = 0


class Keys:
    """The answers by key, and the keys of requests that still run."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._answers: dict[str, Answer] = {}
        self._running: set[str] = set()

    def known(self, key: str | None, digest: str) -> Answer | None:
        """Return the first answer of a key. Raises `StripeFailure` if it may not be used."""
        if key in self._running:
            raise StripeFailure(
                f"There is currently another in-progress request using this Idempotent Key: {key}.",
                status=409,
                kind="idempotency_error",
                code="idempotency_key_in_use",
            )
        known = self._answers.get(key or "")
        if known is None or known.at <= self._clock.now() - KEPT_SECONDS:
            return None
        if known.digest != digest:
            raise StripeFailure(
                "Keys for idempotent requests can only be used with the same parameters they were "
                f"first used with. Try using a key other than '{key}'.",
                kind="idempotency_error",
            )
        return known

    def keep(self, key: str | None, answer: Answer) -> None:
        """Keep the answer of a key; a request without one leaves nothing."""
        if key:
            self._answers[key] = Answer(
                answer.digest, answer.status, answer.body, self._clock.now()
            )

    def begin(self, key: str | None) -> None:
        """Say that a request with a key runs."""
        if key:
            self._running.add(key)

    def end(self, key: str | None) -> None:
        """Say that it runs no more."""
        self._running.discard(key or "")


def digest(path: str, body: str) -> str:
    """Return what tells the parameters of a request from others."""
    return hashlib.sha256(f"{path}\n{body}".encode()).hexdigest()
