"""The recovery protocol, simulated: random histories keep the promises, and need each rule."""

from __future__ import annotations

import os
import random
from collections import Counter
from typing import Final

import pytest

from tests.simulation.mutations import HISTORIES, MUTATIONS
from tests.simulation.play import play
from tests.simulation.rules import Rules

FEW: Final = 2_000

STEPS_AND_FAULTS: Final = """
acknowledged: debit
acknowledged: hold
acknowledged: release
acknowledged: settle
caller: sends again
cause: account_missing
cause: fence
cause: interrupted
cause: ledger_behind
cause: ledger_promoted
cause: rebuild
cause: redis_promoted
cause: redis_restarted
cause: stream_short
fault: Redis restarted, backup
fault: Redis restarted, empty
fault: Redis restarted, tail lost
fault: Redis restarted, whole
fault: asleep
fault: declared dead too early
fault: disk destroyed
fault: journal torn
fault: keys deleted, account
fault: keys deleted, all
fault: keys deleted, cursor
fault: keys deleted, fence
fault: keys deleted, stream
fault: ledger promoted
fault: ledger went back
fault: old master demoted
fault: promoted again
fault: rebuild
fault: replica promoted
fault: reply lost
fault: sidecar killed
fault: split brain
fault: transaction of a hung worker ended
fault: worker killed
script: late settle
sidecar: answered from the journal
sidecar: answered nothing, the shard may be lost
sidecar: event read from the stream
sidecar: handed in
sidecar: journalled
sidecar: looked
sidecar: restarted
sidecar: says goodbye
time passes
worker: catches up
worker: confirmation taken back
worker: cursor published
worker: doubts the ledger
worker: duplicate given back
worker: evened out
worker: fence confirmed
worker: fence written
worker: flag written
worker: flush committed
worker: gave up
worker: journal is in
worker: refills marked
worker: refills sent
worker: reopened
worker: sidecar confirmed
worker: sidecar dead
worker: sidecar entered
worker: sidecar entered again
worker: sidecar gone
worker: sidecar let go
worker: stream trimmed
worker: suspect
""".strip().splitlines()


def test_every_promise_is_kept_in_random_histories_that_have_every_step_and_every_fault() -> None:
    chosen = os.environ.get("CREDITS_TEST_SIMULATIONS")
    count = int(chosen) if chosen else FEW
    first = random.SystemRandom().randrange(10**9) if chosen else 0
    counts: Counter[str] = Counter()
    for seed in range(first, first + count):
        outcome = play(seed, Rules())
        counts += outcome.counts
        if outcome.kind:
            pytest.fail(str(play(seed, Rules(), is_traced=True)), pytrace=False)
    # A model in which nothing happens keeps every promise.
    if count >= FEW:
        assert [what for what in STEPS_AND_FAULTS if not counts[what]] == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_without_one_rule_a_promise_is_broken(name: str) -> None:
    mutation = MUTATIONS[name]
    seeds = range(mutation.first, mutation.first + HISTORIES)
    kinds = (play(seed, mutation.rules, mutation.faults).kind for seed in seeds)
    assert any(kind in mutation.kinds for kind in kinds), f"as good without the rule: {name}"


@pytest.mark.parametrize("name", MUTATIONS)
def test_with_all_rules_the_same_faults_break_nothing(name: str) -> None:
    mutation = MUTATIONS[name]
    for seed in range(mutation.first, mutation.first + 100):
        outcome = play(seed, Rules(), mutation.faults)
        assert not outcome.kind, play(seed, Rules(), mutation.faults, is_traced=True)


def test_a_history_is_the_same_each_time_it_is_played() -> None:
    first, again = (play(4, Rules(), is_traced=True) for _ in range(2))
    assert first.trace == again.trace
    assert first.trace != play(5, Rules(), is_traced=True).trace
