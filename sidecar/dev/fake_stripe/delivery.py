"""Webhooks: every event is sent to one URL, signed with each secret, until it is answered 2xx.

What goes wrong on the way can be set while it runs: events that come twice, late, in another
order or never. Chance is drawn when an event is published, from a seed, so it is the same again.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from sidecar.dev.fake_stripe.state import Object

log: Final = logging.getLogger(__name__)

RETRY_DELAYS_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Stripe's own go on for three days; a development machine is not that patient."""

_TIMEOUT_SECONDS: Final = 10.0


@dataclass(slots=True)
class Options:
    """How events are delivered; probabilities from 0 to 1.

    A dropped event counts as delivered: it was answered 200 and lost. While it is not
    `is_on`, events wait for a flush.
    """

    url: str | None
    secrets: list[str]
    is_on: bool = True
    duplicate_probability: float = 0.0
    drop_probability: float = 0.0
    delay_seconds: list[float] = field(default_factory=lambda: [0.0, 0.0])
    """The least and the most; each delivery waits for a time between them."""
    reorder_seconds: float = 0.0
    """Events are held back for this long and sent in another order; 0 sends each at once."""
    seed: int = 0


class Delivery:
    """Sends events to one webhook endpoint, each in a task of its own, so in any order.

    Raises `httpx.InvalidURL` when it is made for what is no URL; without one nothing is sent.
    """

    def __init__(
        self,
        url: str | None,
        secrets: Sequence[str],
        retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS,
    ) -> None:
        self.options = Options(url, list(secrets))
        self._url = httpx.URL(url) if url else None
        self._delays = tuple(retry_delays_seconds)
        self._chance = random.Random(0)
        self._held: list[tuple[Object, bytes]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: httpx.AsyncClient | None = None

    @property
    def pending(self) -> int:
        """How many deliveries are held back or on their way."""
        return len(self._held) + len(self._tasks)

    def set(self, fields: dict[str, Any]) -> None:
        """Change options; a seed begins its sequence of chances anew."""
        for name, value in fields.items():
            # A name that does not exist is refused: the options have slots.
            setattr(self.options, name, value)
        self._url = httpx.URL(self.options.url) if self.options.url else None
        if "seed" in fields:
            self._chance = random.Random(self.options.seed)

    def publish(self, event: Object) -> None:
        """Begin to deliver an event; it is pending until it is answered."""
        if self._url is None or self._chance.random() < self.options.drop_probability:
            return
        event["pending_webhooks"] = 1
        # What is sent is the event as it was, whatever happens to the object until then.
        payload = json.dumps(event, indent=2).encode()
        times = 2 if self._chance.random() < self.options.duplicate_probability else 1
        if not self.options.is_on or self.options.reorder_seconds:
            self._hold([(event, payload)] * times)
            return
        for _ in range(times):
            self._begin(event, payload)

    def flush(self) -> int:
        """Send what is held back, in another order if that is set; return how many."""
        held, self._held = self._held, []
        if self.options.reorder_seconds:
            self._chance.shuffle(held)
        for event, payload in held:
            self._begin(event, payload)
        return len(held)

    def send_again(self, event: Object) -> None:
        """Deliver an event once more, as it is shown now."""
        self._begin(event, json.dumps(event, indent=2).encode())

    async def close(self) -> None:
        """Give up what is not delivered yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    def _hold(self, deliveries: list[tuple[Object, bytes]]) -> None:
        is_first = not self._held
        self._held += deliveries
        if is_first and self.options.is_on:
            self._keep(self._flush_later(self.options.reorder_seconds))

    async def _flush_later(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.flush()

    def _begin(self, event: Object, payload: bytes) -> None:
        delay = self._chance.uniform(*self.options.delay_seconds)
        self._keep(self._deliver(event, payload, delay))

    def _keep(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, event: Object, payload: bytes, first_delay: float) -> None:
        await asyncio.sleep(first_delay)
        for delay in (*self._delays, None):
            if await self._send(event, payload):
                event["pending_webhooks"] = 0
                return
            if delay is not None:
                await asyncio.sleep(delay)
        log.warning("gave a webhook delivery up", extra={"event": event["id"]})

    async def _send(self, event: Object, payload: bytes) -> bool:
        if self._url is None:
            return False
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (fake)",
            # By real time, whatever the fake's clock says: receivers compare it with theirs.
            "Stripe-Signature": signature(payload, self.options.secrets, int(time.time())),
        }
        try:
            answer = await self._client.post(self._url, content=payload, headers=headers)
        except httpx.HTTPError as error:
            log.info("a webhook got no answer", extra={"event": event["id"], "error": repr(error)})
            return False
        fields = {"event": event["id"], "type": event["type"], "status": answer.status_code}
        log.info("delivered a webhook", extra=fields)
        return answer.is_success


def signature(payload: bytes, secrets: Sequence[str], at_seconds: int) -> str:
    """Return the `Stripe-Signature` of a delivery: one `v1` for each secret in use."""
    signed = f"{at_seconds}.".encode() + payload
    macs = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={at_seconds}", *(f"v1={mac}" for mac in macs)])
