"""Many script calls in one round trip, for the workers' jobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import NoScriptError

from sidecar import keys
from sidecar.scripts import Script

Call = tuple[Script, str, int, int, Sequence[str | int | bytes]]
"""Script, account, its shard, the shard's epoch, and the arguments after the epoch."""


def call_many(client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
    """Run account scripts in their order and return their replies.

    A reply is an array with the status first, or the error that Redis gave for that call alone.
    Raises the errors of redis-py when Redis cannot be reached; which calls ran is unknown then.
    """
    for script in {call[0].sha: call[0] for call in calls}.values():
        if not client.script_exists(script.sha)[0]:
            client.script_load(script.text)
    replies = _run(client, calls)
    # Redis forgot its scripts in between (SCRIPT FLUSH, a restart): later calls may have run
    # although earlier ones did not; every script that comes here is numbered or idempotent.
    if any(isinstance(reply, NoScriptError) for reply in replies):
        return call_many(client, calls)
    return replies


def _run(client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for script, account, shard, epoch, args in calls:
        names = keys.account_keys(account, shard, epoch)
        pipeline.evalsha(script.sha, len(names), *names, epoch, *args)
    return pipeline.execute(raise_on_error=False)
