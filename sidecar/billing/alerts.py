"""Alerts: what the product is told of an account, written with its cause in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects.postgresql import insert

from persistence.top_up_tables import alerts


class AlertKind(StrEnum):
    """What happened; the `type` of the outgoing webhook."""

    LOW_BALANCE = "balance.low"
    EXHAUSTED = "balance.exhausted"
    TOP_UP_SUCCEEDED = "top_up.succeeded"
    TOP_UP_FAILED = "top_up.failed"
    AUTO_TOP_UP_PAUSED = "auto_top_up.paused"
    AUTO_TOP_UP_RESUMED = "auto_top_up.resumed"
    GRACE_STARTED = "plan.grace_started"
    GRACE_ENDED = "plan.grace_ended"
    PLAN_SUSPENDED = "plan.suspended"
    PLAN_RESUMED = "plan.resumed"
    ACCOUNT_SUSPENDED = "account.suspended"
    ACCOUNT_RESUMED = "account.resumed"
    DISPUTE_OPENED = "dispute.opened"
    DISPUTE_CLOSED = "dispute.closed"
    FRAUD_WARNING = "dispute.fraud_warning"


def raise_alert(
    c: Connection,
    kind: AlertKind,
    account: str | None,
    data: Mapping[str, Any],
    *,
    key: str,
    now_ms: int,
) -> bool:
    """Write an alert, to be sent by a worker; False when `key` was used before: it is told once.

    `key` names the happening, not the attempt to tell of it: `dp_1:opened`.
    """
    row = {
        "id": f"alert_{uuid.uuid4().hex}",
        "kind": kind.value,
        "account": account,
        "key": f"{kind.value}:{account or ''}:{key}",
        "data": dict(data),
        "due_ms": now_ms,
        "created_ms": now_ms,
    }
    written = insert(alerts).values(row).on_conflict_do_nothing().returning(alerts.c.id)
    return c.execute(written).first() is not None
