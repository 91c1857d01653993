"""Whether the control listener lives, whether it can work now, and what it counts."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import Response

from persistence import schema
from sidecar.control.ledger import Ledger
from sidecar.control.resources import Call
from sidecar.errors import Refusal
from sidecar.web import json_answer


class HealthHandlers:
    """What is done at `/healthz`, `/readyz` and `/metrics`."""

    def __init__(self, ledger: Ledger, registry: CollectorRegistry) -> None:
        self._ledger = ledger
        self._registry = registry
        self._schema = schema.head()

    def healthz(self, _: Call[bytes]) -> Response:
        """Answer 200: the process lives."""
        return json_answer({"status": "ok"})

    def readyz(self, _: Call[bytes]) -> Response:
        """Answer 200 when the ledger answers and has this program's schema, else 503.

        Redis is not needed for any change, so it does not count.
        """
        try:
            found = self._ledger.run(schema.current)
        except Refusal as refusal:
            return _not_ready(refusal.message)
        if found != self._schema:
            return _not_ready(f"The schema is at {found or 'none'}, not at {self._schema}.")
        return json_answer({"status": "ready"})

    def metrics(self, _: Call[bytes]) -> Response:
        """Answer the counters in Prometheus's text format."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


def _not_ready(reason: str) -> Response:
    return json_answer({"status": "not ready", "reason": reason}, 503, {"Retry-After": "1"})
