"""The log of what operators changed: one append-only row, in the transaction of the change."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, insert

from persistence.database import now_ms
from persistence.stripe_tables import control_actions
from sidecar.control.resources import Call


def record(c: Connection, call: Call[Any], action: str) -> None:
    """Write down that the caller did `action`: to what, with what it sent, and from where.

    Without URLs: those of a shop may carry tokens, and this log is for ever.
    """
    sent = msgspec.to_builtins(call.body) if isinstance(call.body, msgspec.Struct) else {}
    named = {name: value for name, value in call.path.items() if name != "account"}
    c.execute(
        insert(control_actions).values(
            at_ms=now_ms(),
            action=action,
            account=call.path.get("account"),
            body=named | {name: value for name, value in sent.items() if not _is_url(name)},
            remote=call.remote,
        )
    )


def _is_url(name: str) -> bool:
    return name.endswith("_url")
