"""Plays histories: which step comes next is chance, by a seed, and so is which faults there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from tests.simulation import faults
from tests.simulation.history import History
from tests.simulation.rules import Rules
from tests.simulation.values import Violation

Action = Callable[[History], None]

_WORK: Final[list[tuple[int, Action]]] = [
    (18, lambda h: h.new_call("debit")),
    (7, lambda h: h.new_call("hold")),
    (7, lambda h: h.end_hold()),
    (7, lambda h: h.repeat()),
    (26, lambda h: h.look()),
    (9, lambda h: h.job("flush", lambda w: w.flush(h.rng.randrange(len(h.ledger.shards))))),
    (3, lambda h: h.job("publish", lambda w: w.publish())),
    (10, lambda h: h.job("open", lambda w: w.open_shards())),
    (10, lambda h: h.job("register", lambda w: w.register())),
    (5, lambda h: h.job("answer", lambda w: w.answer())),
    (4, lambda h: h.job("reopen", lambda w: w.reopen())),
    (5, lambda h: h.job("send", lambda w: w.send(h.rng.randrange(len(h.ledger.accounts))))),
    (4, lambda h: h.grant(h.ledger, h.rng.randrange(len(h.ledger.accounts)), 50)),
    (1, lambda h: h.pay_again()),
    (1, lambda h: h.tidy()),
    (12, lambda h: h.go_on_somewhere()),
    (4, faults.keep_data),
    (3, faults.keep_ledger),
    (6, faults.restart_sidecar),
    (2, faults.heal_split),
    (1, lambda h: h.declare_dead()),
]

_FAULTS: Final[list[Action]] = [
    faults.lose_reply,
    faults.pass_time,
    faults.kill_sidecar,
    faults.stop_sidecar,
    faults.destroy_disk,
    faults.declare_dead_too_early,
    faults.stop_for_a_while,
    faults.kill_worker,
    faults.end_hung_transaction,
    faults.restart_redis,
    faults.promote_replica,
    faults.promote_again,
    faults.promote_again,
    faults.promote_again,
    faults.delete_keys,
    faults.fail_over_ledger,
    faults.rebuild,
]

_ACTIONS: Final = [action for _, action in _WORK] + _FAULTS
_PACES: Final = (0.2, 1, 1, 3)
_RATES: Final = (0, 0, 0.3, 1.2)
_STEPS: Final = (80, 220)
_TAIL: Final = 45  # last steps that a failure shows


@dataclass(slots=True)
class Outcome:
    """What came of one history: its violation, if there was one, and what it went through."""

    seed: int
    kind: str = ""
    detail: str = ""
    trace: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        steps = "\n".join(self.trace[-_TAIL:])
        return f"seed {self.seed}: {self.kind}: {self.detail}\n{steps}"


def play(
    seed: int, rules: Rules, often: Collection[str] = (), *, is_traced: bool = False
) -> Outcome:
    """Play the history of a seed, and say what came of it.

    Only the faults that are named in `often` come, or when there are none, some that chance picks.
    """
    history = History(seed, rules, is_traced=is_traced)
    outcome = Outcome(seed, counts=history.counts)
    try:
        history.set_up()
        _break(history, often)
        history.settle_down()
    except Violation as violation:
        outcome.kind, _, outcome.detail = str(violation).partition(": ")
    outcome.trace = history.trace or []
    return outcome


def _break(history: History, often: Collection[str]) -> None:
    rng = history.rng
    # Each has its own pace: in one the flusher is slow, in another those who look at Redis.
    weights: list[float] = [weight * rng.choice(_PACES) for weight, _ in _WORK]
    # Each history has its own few faults, often: those that it has not make room for them.
    for fault in _FAULTS:
        is_there = fault.__name__ in often
        weights.append(rng.choice((1, 2, 3)) * is_there if often else rng.choice(_RATES))
    total = list(accumulate(weights))
    for action in rng.choices(_ACTIONS, cum_weights=total, k=rng.randint(*_STEPS)):
        history.now += 1
        action(history)
