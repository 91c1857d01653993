"""Many script calls in one round trip, for the workers' jobs; those of one account atomically."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import redis
from redis.exceptions import NoScriptError

from sidecar import keys
from sidecar.scripts import Script

Call = tuple[Script, str, int, int, Sequence[str | int | bytes]]
"""Script, account, its shard, the shard's epoch, and the arguments after the epoch."""


def call_many(client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
    """Run account scripts in their order and return their replies.

    Calls that follow each other for one account are one transaction.

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
    groups = [list(group) for _, group in groupby(calls, key=lambda call: call[1])]
    for group in groups:
        # Nobody may see an account between its opening and its first grant: it would look empty.
        _queue(pipeline, group, is_atomic=len(group) > 1)
    answers = iter(pipeline.execute(raise_on_error=False))
    return [reply for group in groups for reply in _replies(answers, len(group))]


def _queue(pipeline: Any, group: Sequence[Call], *, is_atomic: bool) -> None:
    if is_atomic:
        pipeline.execute_command("MULTI")
    for script, account, shard, epoch, args in group:
        names = keys.account_keys(account, shard, epoch)
        pipeline.evalsha(script.sha, len(names), *names, epoch, *args)
    if is_atomic:
        pipeline.execute_command("EXEC")


def _replies(answers: Iterator[Any], calls: int) -> list[Any]:
    if calls == 1:
        return [next(answers)]
    *_, replies = (next(answers) for _ in range(calls + 2))
    return list(replies) if isinstance(replies, list) else [replies] * calls
