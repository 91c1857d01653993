"""Which Redis may hold credits: one that forgets nothing on purpose. And how long to trust it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sidecar.errors import SettingsError

LEASE_SECONDS: Final = 5.0
"""For how long after it looked a sidecar acknowledges by what it saw of Redis.

Workers wait much longer than this before they let a silent sidecar go: `sidecar_lost_seconds`.
"""


def require_durable(info: Mapping[str, Any]) -> None:
    """Refuse a Redis that would forget credits: raises `SettingsError` naming its setting.

    `info` is what `INFO` says, at least of `persistence` and `memory`.
    """
    problems = []
    if not int(info.get("aof_enabled", 0)):
        problems.append("appendonly is no: a restart loses what was spent (set appendonly yes)")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        problems.append(
            f"maxmemory-policy is {policy}: Redis would evict balances (set noeviction)"
        )
    if problems:
        raise SettingsError(
            "This Redis is not safe for credits: "
            + "; ".join(problems)
            + ". Set CREDITS_ALLOW_UNSAFE_REDIS=true to run on it all the same."
        )
