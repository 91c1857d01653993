"""The log of what operators changed: one append-only row, in the transaction of the change."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, insert

from persistence.database import now_ms
from persistence.stripe_tables import control_actions
from sidecar.control.resources import Call


def record(c: Connection, call: Call[Any], action: str) -> None:
    """Write down that the caller did `action`, with what it sent and where it came from."""
    is_struct = isinstance(call.body, msgspec.Struct)
    c.execute(
        insert(control_actions).values(
            at_ms=now_ms(),
            action=action,
            account=call.path.get("account"),
            body=msgspec.to_builtins(call.body) if is_struct else dict(call.path),
            remote=call.remote,
        )
    )
