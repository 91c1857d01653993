"""Many script calls in one round trip, for the workers' jobs; those of one account atomically.

The scripts are bound to one Redis process, the one that the ledger names: another process does not
know them, and gets them only after it has said on the same connection that it is the right one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import redis
from redis.exceptions import NoScriptError, ResponseError

from persistence.errors import RedisChanged
from sidecar import keys
from sidecar.nodes import MOVING, NoNode, RedisNodes, raise_if_all_failed
from sidecar.scripts import Script, load_scripts

Argument = str | int | bytes


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an account's script. `run_id`: the process that may decide for its shard."""

    verb: str
    account: str
    shard: int
    epoch: int
    run_id: str
    args: Sequence[Argument] = ()

    @property
    def script(self) -> Script:
        """The script, as that process knows it."""
        script: Script = getattr(load_scripts(self.run_id), self.verb)
        return script


def call_many(nodes: RedisNodes, calls: Sequence[Call]) -> list[Any]:
    """Run account scripts in their order and return their replies.

    Calls that follow each other for one account are one transaction.

    A reply is an array with the status first, or the error that Redis gave for that call alone.
    Raises `RedisChanged` when another process answers, and the errors of redis-py when a node
    cannot be reached; which calls ran is unknown then.
    """
    replies = call_reachable(nodes, calls)
    for reply in replies:
        if is_away(reply):
            raise reply
    return replies


def call_reachable(nodes: RedisNodes, calls: Sequence[Call]) -> list[Any]:
    """Do as `call_many`, but let a node that fails be a reply for each of its calls.

    Raises what `call_many` does when it is so with every node.
    """
    replies: list[Any] = [NoNode("no node has the shard")] * len(calls)
    groups = nodes.groups(range(len(calls)), lambda at: calls[at].shard)
    answers = nodes.on_each(groups, lambda client, mine: _call(client, [calls[at] for at in mine]))
    for (_, places), answer in zip(groups, answers, strict=True):
        mine = [answer] * len(places) if isinstance(answer, Exception) else answer
        for at, reply in zip(places, mine, strict=True):
            replies[at] = reply
    raise_if_all_failed(answers)
    return replies


def is_away(reply: Any) -> bool:
    """Tell whether a call had no reply: its node cannot be reached, is another, or not the one."""
    return isinstance(reply, Exception) and (
        not isinstance(reply, ResponseError) or isinstance(reply, MOVING)
    )


def _call(client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
    replies = _run(client, calls)
    if not any(isinstance(reply, NoScriptError) for reply in replies):
        return replies
    load(client, {call.run_id for call in calls})
    # Some of the calls may have run before. Each script that comes here is numbered or changes
    # nothing the second time.
    return _run(client, calls)


def load(client: redis.Redis, run_ids: Iterable[str]) -> None:
    """Load the scripts of a process into it. Raises `RedisChanged` when another one answers."""
    connection: Any = client.connection_pool.get_connection()
    try:
        # Not through the client: it might connect anew in between, to another process.
        connection.send_command("INFO", "server")
        found = _run_id(connection.read_response())
        for run_id in run_ids:
            if run_id != found:
                raise RedisChanged(f"Redis process {found} answers, the ledger lent to {run_id}")
        for script in load_scripts(found).all():
            connection.send_command("SCRIPT LOAD", script.text)
            connection.read_response()
    except BaseException:
        connection.disconnect()
        raise
    finally:
        client.connection_pool.release(connection)


def _run_id(info: Any) -> str:
    text = info.decode() if isinstance(info, bytes) else str(info)
    lines = dict(line.partition(":")[::2] for line in text.splitlines())
    return lines.get("run_id", "")


def _run(client: redis.Redis, calls: Sequence[Call]) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    groups = [list(group) for _, group in groupby(calls, key=lambda call: call.account)]
    for group in groups:
        # Nobody may see an account between its opening and its first grant: it would look empty.
        _queue(pipeline, group, is_atomic=len(group) > 1)
    answers = iter(pipeline.execute(raise_on_error=False))
    return [reply for group in groups for reply in _replies(answers, len(group))]


def _queue(pipeline: Any, group: Sequence[Call], *, is_atomic: bool) -> None:
    if is_atomic:
        pipeline.execute_command("MULTI")
    for call in group:
        names = keys.account_keys(call.account, call.shard, call.epoch)
        pipeline.evalsha(call.script.sha, len(names), *names, call.epoch, *call.args)
    if is_atomic:
        pipeline.execute_command("EXEC")


def _replies(answers: Iterator[Any], calls: int) -> list[Any]:
    if calls == 1:
        return [next(answers)]
    *_, replies = (next(answers) for _ in range(calls + 2))
    return list(replies) if isinstance(replies, list) else [replies] * calls
