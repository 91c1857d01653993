"""Webhooks: every event is sent to one URL, signed with each secret, until it is answered 2xx."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Sequence
from typing import Final

import httpx

from sidecar.dev.fake_stripe.state import Object

log: Final = logging.getLogger(__name__)

RETRY_DELAYS_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
"""Stripe's own go on for three days; a development machine is not that patient."""

_TIMEOUT_SECONDS: Final = 10.0


class Delivery:
    """Sends events to one webhook endpoint, each in a task of its own, so in any order.

    Raises `httpx.InvalidURL` when it is made for what is no URL.
    """

    def __init__(
        self,
        url: str,
        secrets: Sequence[str],
        retry_delays_seconds: Sequence[float] = RETRY_DELAYS_SECONDS,
    ) -> None:
        self._url = httpx.URL(url)
        self._secrets = tuple(secrets)
        self._delays = tuple(retry_delays_seconds)
        self._tasks: set[asyncio.Task[None]] = set()
        self._client: httpx.AsyncClient | None = None

    def publish(self, event: Object) -> None:
        """Begin to deliver an event; it is pending until it is answered."""
        event["pending_webhooks"] = 1
        # What is sent is the event as it was, whatever happens to the object until then.
        payload = json.dumps(event, indent=2).encode()
        task = asyncio.get_running_loop().create_task(self._deliver(event, payload))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is not delivered yet."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _deliver(self, event: Object, payload: bytes) -> None:
        for delay in (*self._delays, None):
            if await self._send(event, payload):
                event["pending_webhooks"] = 0
                return
            if delay is not None:
                await asyncio.sleep(delay)
        log.warning("gave a webhook delivery up", extra={"event": event["id"]})

    async def _send(self, event: Object, payload: bytes) -> bool:
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False)
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (fake)",
            "Stripe-Signature": signature(payload, self._secrets, int(time.time())),
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
