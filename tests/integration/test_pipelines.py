"""Script calls of one account, sent together, are seen together."""

from __future__ import annotations

import dataclasses

import pytest
import redis

from persistence.errors import RedisChanged
from persistence.pipelines import Call, call_many, load
from sidecar import keys
from sidecar.domain import burn_order
from sidecar.nodes import RedisNodes
from sidecar.scripts import load_scripts
from tests.lua.support import begin_stream

ACCOUNTS = [f"account-{number}" for number in range(40)]
SHARDS = 64
EPOCH = 1


def _loading(client: redis.Redis, account: str) -> list[Call]:
    run_id = client.info("server")["run_id"]
    begin_stream(client, keys.stream(keys.shard_of(account, SHARDS), EPOCH))
    place = (account, keys.shard_of(account, SHARDS), EPOCH, run_id)
    order = burn_order(50, None, "paid", 1)
    return [
        Call("open", *place, (1, 1, "active", 0)),
        Call("grant", *place, (1, 2, 1, 100, order, "top-up")),
        Call("status", *place, (1, 3, "active", 0)),
    ]


def test_what_an_account_is_loaded_with_is_one_transaction(redis_client: redis.Redis) -> None:
    run_id = redis_client.info("server")["run_id"]
    load(redis_client, [run_id])
    redis_client.config_resetstat()
    calls = [call for account in ACCOUNTS for call in _loading(redis_client, account)]
    replies = call_many(RedisNodes.over(redis_client), calls)
    assert [reply[0] for reply in replies] == [b"applied"] * len(replies)
    # Otherwise a call could see the account between its opening and its first grant: empty.
    stats = redis_client.info("commandstats")
    assert stats["cmdstat_exec"]["calls"] == len(ACCOUNTS)
    assert stats["cmdstat_evalsha"]["calls"] == len(replies)


def test_a_refused_call_does_not_hide_the_replies_of_the_others(
    redis_client: redis.Redis,
) -> None:
    opened, granted, status = _loading(redis_client, "acme")
    gap = dataclasses.replace(status, args=(1, 9, "active", 0))
    replies = call_many(RedisNodes.over(redis_client), [opened, gap, granted])
    assert [reply[0] for reply in replies] == [b"applied", b"gap", b"applied"]


def test_scripts_of_another_process_are_neither_run_nor_loaded(redis_client: redis.Redis) -> None:
    before = redis_client.info("server")["run_id"]
    foreign = [dataclasses.replace(call, run_id="f" * 40) for call in _loading(redis_client, "a")]
    with pytest.raises(RedisChanged, match=before):
        call_many(RedisNodes.over(redis_client), foreign)
    assert redis_client.keys("*:a:*") == []
    sha = load_scripts("f" * 40).open.sha
    assert redis_client.script_exists(sha) == [False]
