"""The outbox of alerts as operators see it."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Connection
from starlette.responses import Response

from persistence.database import now_ms
from sidecar.billing import alert_rows
from sidecar.control import queries
from sidecar.control.actions import record
from sidecar.control.answers import page_answer
from sidecar.control.ledger import Ledger
from sidecar.control.resources import Call
from sidecar.errors import ErrorCode, Refusal
from sidecar.web import json_answer

ALERT_COLUMNS: Final = (
    "id", "kind", "account", "data", "status", "attempts", "due_ms", "delivered_ms", "answer",
    "error", "created_ms",
)  # fmt: skip


class AlertHandlers:
    """What is done at `/v1/alerts`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def list_page(self, call: Call[bytes]) -> Response:
        """Return a page of the alerts: of all accounts or one, of any status or one."""
        limit, cursor = queries.limit(call.query), call.query.get("cursor")
        account = queries.account(call.query)
        status = queries.status(call.query, alert_rows.STATUSES)
        page = self._ledger.run(lambda c: alert_rows.list_alerts(c, limit, cursor, account, status))
        return page_answer(page, ALERT_COLUMNS, call.headers.get("accept"))

    def replay(self, call: Call[bytes]) -> Response:
        """Have a worker send an alert again, under the same id."""

        def work(c: Connection) -> dict[str, Any]:
            row = alert_rows.replay(c, call.path["id"], now_ms())
            if row is None:
                raise Refusal(ErrorCode.NOT_FOUND, "There is no such alert.", param="id")
            record(c, call, "replay_alert")
            return row

        return json_answer(self._ledger.run(work))
