"""The key space: one slot for an account, and no key for two things."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar import keys

accounts = st.from_regex(r"\A[A-Za-z0-9._:@\-]{1,128}\Z")
shards = st.integers(0, keys.SHARDS - 1)
epochs = st.integers(1, 10**6)


@given(accounts, shards, epochs)
def test_keys_of_an_account_are_in_one_slot(account: str, shard: int, epoch: int) -> None:
    names = keys.account_keys(account, shard, epoch)
    assert len(set(names)) == len(names) == 9
    assert {re.findall(r"\{[^}]*\}", name)[0] for name in names} == {keys.tag(shard)}
    assert names[5] == keys.sweep(shard)
    assert names[8] == keys.stream(shard, epoch)


@given(accounts, accounts, shards, epochs)
def test_accounts_share_only_the_keys_of_their_shard(
    first: str, second: str, shard: int, epoch: int
) -> None:
    if first == second:
        return
    shared = set(keys.account_keys(first, shard, epoch)) & set(
        keys.account_keys(second, shard, epoch)
    )
    assert shared == {keys.sweep(shard), keys.stream(shard, epoch)}


@given(accounts, st.integers(1, 16_384))
def test_shard_of_an_account_is_fixed_and_in_range(account: str, count: int) -> None:
    shard = keys.shard_of(account, count)
    assert shard == zlib.crc32(account.encode()) % count
    assert 0 <= shard < count


@pytest.mark.parametrize(("account", "shard"), [("demo", 32), ("acme", 62)])
def test_shards_never_move(account: str, shard: int) -> None:
    assert keys.shard_of(account, keys.SHARDS) == shard


def test_keys_of_a_shard_are_as_documented() -> None:
    assert keys.tag(7) == "{s007}"
    assert keys.fence(7) == "{s007}:fence"
    assert keys.sweep(7) == "{s007}:x"
    assert keys.stream(7, 3) == "{s007}:u:3"
    assert keys.cursor(7) == "{s007}:cursor"
    assert keys.account_keys("acme", 7, 3)[0] == "{s007}:a:acme"
