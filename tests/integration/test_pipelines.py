"""Script calls of one account, sent together, are seen together."""

from __future__ import annotations

import redis

from persistence.pipelines import Call, call_many
from sidecar import keys
from sidecar.domain import burn_order
from sidecar.scripts import load_scripts

ACCOUNTS = [f"account-{number}" for number in range(40)]
SHARDS = 64
EPOCH = 1


def _loading(account: str) -> list[Call]:
    scripts, shard = load_scripts(), keys.shard_of(account, SHARDS)
    order = burn_order(50, None, "paid", 1)
    return [
        (scripts.open, account, shard, EPOCH, (1, 1, "active", 0)),
        (scripts.grant, account, shard, EPOCH, (1, 2, 1, 100, order, "top-up")),
        (scripts.status, account, shard, EPOCH, (1, 3, "active", 0)),
    ]


def test_what_an_account_is_loaded_with_is_one_transaction(redis_client: redis.Redis) -> None:
    for script in load_scripts().all():
        redis_client.script_load(script.text)
    redis_client.config_resetstat()
    replies = call_many(redis_client, [call for account in ACCOUNTS for call in _loading(account)])
    assert [reply[0] for reply in replies] == [b"applied"] * len(replies)
    # Otherwise a call could see the account between its opening and its first grant: empty.
    stats = redis_client.info("commandstats")
    assert stats["cmdstat_exec"]["calls"] == len(ACCOUNTS)
    assert stats["cmdstat_evalsha"]["calls"] == len(replies)


def test_a_refused_call_does_not_hide_the_replies_of_the_others(
    redis_client: redis.Redis,
) -> None:
    opened, granted, status = _loading("acme")
    gap = (*status[:4], (1, 9, "active", 0))
    replies = call_many(redis_client, [opened, gap, granted])
    assert [reply[0] for reply in replies] == [b"applied", b"gap", b"applied"]
