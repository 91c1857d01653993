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
    replies = _run(client, calls)
    if not any(isinstance(reply, NoScriptError) for reply in replies):
        return replies
    for script in {call[0].sha: call[0] for call in calls}.values():
        client.script_load(script.text)
    # Some of the calls may have run before. Each script that comes here is numbered or changes
    # nothing the second time.
    return _run(client, calls)


def _run(client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for script, account, shard, epoch, args in calls:
        names = keys.account_keys(account, shard, epoch)
        pipeline.evalsha(script.sha, len(names), *names, epoch, *args)
    return pipeline.execute(raise_on_error=False)
