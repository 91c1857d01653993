"""Whether the control listener lives, whether it can work now, and what it counts."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from sqlalchemy import Connection, text
from starlette.responses import Response

from sidecar.control.ledger import Ledger
from sidecar.control.resources import Call
from sidecar.errors import Refusal
from sidecar.web import json_answer


class HealthHandlers:
    """What is done at `/healthz`, `/readyz` and `/metrics`."""

    def __init__(self, ledger: Ledger, registry: CollectorRegistry) -> None:
        self._ledger = ledger
        self._registry = registry

    def healthz(self, _: Call[bytes]) -> Response:
        """Answer 200: the process lives."""
        return json_answer({"status": "ok"})

    def readyz(self, _: Call[bytes]) -> Response:
        """Answer 200 when the ledger answers, else 503. Redis is not needed for any change."""
        try:
            self._ledger.run(_ping)
        except Refusal as refusal:
            answer = {"status": "not ready", "reason": refusal.message}
            return json_answer(answer, 503, {"Retry-After": "1"})
        return json_answer({"status": "ready"})

    def metrics(self, _: Call[bytes]) -> Response:
        """Answer the counters in Prometheus's text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


def _ping(c: Connection) -> None:
    c.execute(text("SELECT 1"))
