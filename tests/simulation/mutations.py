"""Mutations: the protocol without one of its rules. Each must be seen to break a promise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.simulation.rules import Rules


@dataclass(frozen=True, slots=True)
class Mutation:
    """Rules of which one is taken away.

    `faults`: those that show it best, by their names. `kinds`: which promises may be broken then.
    It shows within `HISTORIES` from seed `first`: what takes several coincidences is looked for
    where it is known to be.
    """

    rules: Rules
    faults: tuple[str, ...]
    kinds: tuple[str, ...]
    first: int = 0


HISTORIES: Final = 1_500

_LOSSES: Final = ("restart_redis", "promote_replica", "kill_sidecar", "stop_for_a_while")
_DELETIONS: Final = ("delete_keys", "lose_reply", "kill_worker")
_PROMOTIONS: Final = ("fail_over_ledger", "lose_reply", "rebuild", "pass_time")

MUTATIONS: Final = {
    "refund before the drain": Mutation(Rules(waits_for_journals=False), _LOSSES, ("overspent",)),
    "roll-up from the input": Mutation(
        Rules(counts_only_what_went_in=False), _LOSSES, ("wrong sum",)
    ),
    "no fence": Mutation(
        Rules(is_fenced=False), ("restart_redis", "promote_replica"), ("lost", "overspent")
    ),
    "additive re-seed": Mutation(Rules(never_seeds_again=False), ("delete_keys",), ("overspent",)),
    "publish a short stream": Mutation(
        Rules(publishes_whole_streams_only=False), _DELETIONS, ("lost",)
    ),
    "acknowledge before the journal": Mutation(
        Rules(journals_before_answering=False), _LOSSES, ("lost",)
    ),
    "no lease": Mutation(Rules(has_leases=False), _LOSSES, ("lost", "overspent")),
    "let go too early": Mutation(
        Rules(lets_go_only_of_flushed=False),
        ("kill_sidecar", "pass_time", "restart_redis"),
        ("lost", "overspent"),
    ),
    "no timeline check": Mutation(
        Rules(
            doubts_a_promoted_ledger=False,
            doubts_at_the_flush=False,
            flushes_this_epoch_into_this_ledger=False,
            enters_again_whom_it_forgot=False,
        ),
        _PROMOTIONS,
        ("drift", "dead letters", "lost", "overspent"),
    ),
    "no registration": Mutation(
        Rules(registers_first=False),
        ("kill_sidecar", "restart_redis", "stop_sidecar"),
        ("lost", "overspent"),
        first=6_300,
    ),
    "mark before the events": Mutation(
        Rules(marks_after_the_events=False), ("restart_redis", "kill_sidecar"), ("overspent",)
    ),
    "refills without numbers": Mutation(
        Rules(numbers_refills=False), ("lose_reply",), ("drift", "overspent")
    ),
    "ids taken twice": Mutation(Rules(drops_known_ids=False), _LOSSES, ("wrong sum",)),
    "forget when handed in": Mutation(Rules(keeps_until_confirmed=False), _LOSSES, ("lost",)),
    "acknowledge a repeat without its event": Mutation(
        Rules(repeats_need_their_event=False), _DELETIONS, ("lost",)
    ),
    "open a generation twice": Mutation(
        Rules(opens_a_generation_once=False),
        (*_DELETIONS, "rebuild"),
        ("drift", "overspent"),
        first=17_100,
    ),
    "wait for a flush that cannot be": Mutation(
        Rules(confirms_suspects_too=False),
        ("rebuild", "kill_worker", "delete_keys"),
        ("stuck",),
    ),
    "confirm only what is news": Mutation(Rules(confirms_what_comes_late=False), (), ("stuck",)),
    "trim by the event's age": Mutation(
        Rules(keeps_what_was_flushed_lately=False), ("fail_over_ledger", "pass_time"), ("lost",)
    ),
    "put aside what it forgot": Mutation(
        Rules(posts_what_it_forgot=False), _PROMOTIONS, ("dead letters",)
    ),
    "flush into a doubtful ledger": Mutation(
        Rules(doubts_at_the_flush=False), _PROMOTIONS, ("dead letters",)
    ),
    "count another flush": Mutation(
        Rules(flushes_this_epoch_into_this_ledger=False),
        ("fail_over_ledger", "rebuild", "stop_for_a_while", "lose_reply"),
        ("lost",),
        first=7_300,
    ),
    "forget whom Redis knows": Mutation(
        Rules(enters_again_whom_it_forgot=False),
        ("fail_over_ledger", "stop_for_a_while"),
        ("lost", "overspent"),
        first=1_500,
    ),
}
