"""What the scripts do when the clock of Redis steps back over midnight.

1. A refunded charge stays refunded.
2. A late settle is answered again, not charged again.

The scripts are the real ones, but for where they read the time: from a field of the account.
"""

from __future__ import annotations

import time
from typing import Any

import pytest
import redis

from sidecar import keys
from sidecar.domain import burn_order
from sidecar.scripts import Script, load_scripts
from tests.lua.support import begin_stream

DAY_MS = 86_400_000
# To come, since Redis drops at once what has an expiry in the past; after an even and an odd day.
NEXT_MS = (time.time_ns() // 1_000_000 // DAY_MS + 2) * DAY_MS
MIDNIGHTS_MS = (NEXT_MS, NEXT_MS + DAY_MS)
NAMES = keys.account_keys("acme", 0, 1)
CLOCK = "redis.call('HMGET', KEYS[1], 'clock_s', 'clock_us')"


class Clocked:
    """An account with 1,000 credits whose clock the test sets."""

    def __init__(self, client: redis.Redis, midnight_ms: int) -> None:
        self._redis = client
        self._midnight_ms = midnight_ms
        self.set_clock(-10)
        begin_stream(client, NAMES[8])
        self.call("open", 1, 1, "active", 0)
        self.set_clock(-10)  # it is kept in the account, which is new now
        self.call("grant", 1, 2, 1, 1_000, burn_order(50, None, "paid", 1), "top-up")

    def set_clock(self, seconds: int) -> None:
        """Set the time that the scripts read, in seconds after midnight."""
        clock_s = self._midnight_ms // 1000 + seconds
        self._redis.hset(NAMES[0], mapping={"clock_s": clock_s, "clock_us": 0})

    def call(self, name: str, *args: Any) -> list[Any]:
        """Run a script; return its reply with text instead of bytes."""
        script: Script = getattr(load_scripts(), name)
        assert "call('TIME')" in script.text
        text = script.text.replace("call('TIME')", CLOCK)
        reply: Any = self._redis.eval(text, len(NAMES), *map(str, (*NAMES, 1, *args)))
        reply = reply[:-1] if isinstance(reply[-1], list) else reply
        return [part.decode() if isinstance(part, bytes) else part for part in reply]


@pytest.fixture(params=MIDNIGHTS_MS, ids=("one day", "the next"))
def account(redis_client: redis.Redis, request: pytest.FixtureRequest) -> Clocked:
    """An account just before midnight."""
    return Clocked(redis_client, request.param)


def test_a_charge_is_not_refunded_again_when_the_clock_steps_back(account: Clocked) -> None:
    account.call("debit", "d", "f", 600, "", 0)
    account.set_clock(1)
    assert account.call("refund", "r1", "f", "d", 0, "") == ["refunded", 0, 600, 1_000]
    account.set_clock(-1)
    assert account.call("refund", "r2", "f", "d", 0, "") == ["refund_exceeds", 0]
    assert account.call("refund", "r1", "f", "d", 0, "") == ["refunded", 1, 600, 1_000]


def test_a_late_settle_is_not_charged_again_when_the_clock_steps_back(account: Clocked) -> None:
    account.call("hold", "h", "f", 300, 1_000, 0, "", "")
    account.set_clock(-2)
    account.call("expire")
    account.set_clock(1)
    settled = account.call("settle", "h", "s", 300, 1, "", "", "", 0)
    assert settled == ["settled", 0, 300, 0, 700, 1]
    account.set_clock(-1)
    assert account.call("settle", "h", "s", 300, 1, "", "", "", 0) == ["settled", 1, 300, 0, 700, 1]
