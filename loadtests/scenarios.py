"""The load scenarios as data: who calls what, how often, on how many accounts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load. Amounts are microcredits.

    `mix` weighs the flows of `loadtests.behaviour`. `pause_seconds` is what a client waits after
    each flow, `think_seconds` how long a held inference call runs at most. `repeats` is the share
    of calls sent twice on purpose. `top_up` is added every half second while the load runs.
    `may_overspend`: its clients settle above their holds, which may take `available` below zero.
    """

    name: str
    sentence: str
    mix: Mapping[str, int]
    accounts: int = 32
    grants: int = 1
    granted: int = 10_000_000_000
    top_up: int = 0
    amounts: tuple[int, int] = (1_000, 50_000)
    think_seconds: float = 0.0
    pause_seconds: float = 0.0
    repeats: float = 0.02
    is_spike: bool = False
    may_overspend: bool = False


SCENARIOS: Final[Mapping[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            name="steady",
            sentence="Inference calls at an even pace: hold, run, settle.",
            mix={"call": 9, "debit": 1},
            think_seconds=0.05,
            pause_seconds=0.05,
        ),
        Scenario(
            name="hot",
            sentence="All clients on one account with 16 grants, as fast as they can.",
            mix={"debit": 3, "call": 1},
            accounts=1,
            grants=16,
            granted=20_000_000_000,
        ),
        Scenario(
            name="broke",
            sentence="All clients on one account that runs dry and is topped up as it runs.",
            mix={"debit": 1, "call": 1},
            accounts=1,
            granted=1_000_000,
            top_up=500_000,
            amounts=(5_000, 50_000),
        ),
        Scenario(
            name="many",
            sentence="A thousand accounts, each called now and then.",
            mix={"call": 1, "debit": 1},
            accounts=1_000,
        ),
        Scenario(
            name="spike",
            sentence="A quarter of the clients, then suddenly all, then a quarter again.",
            mix={"call": 1, "debit": 1},
            pause_seconds=0.02,
            is_spike=True,
        ),
        Scenario(
            name="mixed",
            sentence=(
                "Everything clients do: streams, aborts, late settles, refunds, hang-ups, "
                "repeats of every call."
            ),
            mix={
                "call": 6,
                "priced": 3,
                "debit": 4,
                "stream": 4,
                "abort": 3,
                "above": 2,
                "refund": 3,
                "conflict": 1,
                "late": 2,
                "abandon": 1,
            },
            accounts=16,
            grants=4,
            think_seconds=0.02,
            repeats=0.25,
            may_overspend=True,
        ),
    )
}
