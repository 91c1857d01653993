"""What must hold after a flood of the webhook: every acknowledged event counted, and once."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import redis
import sqlalchemy as sa
from sqlalchemy import Engine

from loadtests import checks, ledger
from loadtests.deliveries import Kind
from loadtests.flood_report import Proved, Window
from loadtests.receipts import Told
from loadtests.resolve import resolve
from loadtests.stack import Say, Stack
from sidecar.billing.inbox_rows import count_unfinished

_DRAIN_SECONDS: Final = 300.0
_AUDIT_SECONDS: Final = 300.0
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Proof:
    """What is compared. Each of `accounts` began with `granted` microcredits."""

    stack: Stack
    engine: Engine
    client: redis.Redis
    accounts: list[str]
    granted: int
    say: Say


def wait_drained(proof: Proof) -> None:
    """Wait until no event, refill or usage is on its way. Raises `NotInTime`."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    while sum(_open(proof.engine).values()):
        if time.monotonic() > deadline:
            raise ledger.NotInTime(f"the inbox is not drained after {_DRAIN_SECONDS:.0f} s")
        time.sleep(_POLL_SECONDS)
    ledger.wait_applied(proof.engine, proof.accounts, seconds=_DRAIN_SECONDS)
    ledger.wait_flushed(proof.engine, proof.client, seconds=_DRAIN_SECONDS)


def finished(engine: Engine) -> int:
    """Return how many events workers are done with."""
    return sum(_statuses(engine)[status] for status in ("applied", "ignored"))


def prove(proof: Proof, told: Told, windows: Sequence[Window]) -> Proved:
    """Compare what was acknowledged with the ledger and Redis, and audit."""
    proof.say("comparing receipts, events, ledger and Redis")
    resolve(told, proof.stack.sidecars, seconds=60)
    wait_drained(proof)
    truth = ledger.read_truth(proof.engine, proof.accounts)
    events = _statuses(proof.engine)
    mismatches = [*checks.compare(told, truth), *_compare_events(windows, events)]
    mismatches += _compare_grants(proof, windows, truth.granted)
    balances = checks.read_balances(proof.stack.sidecars, proof.accounts)
    mismatches += checks.compare_balances(told, truth, balances, may_overspend=False)
    proof.say("credit-sidecar audit")
    audit = proof.stack.audit(seconds=_AUDIT_SECONDS)
    if audit.returncode != 0:
        mismatches.append(f"audit exits with {audit.returncode}: {audit.stdout[-4_000:]}")
    return Proved(
        charges=len(told.debited) + len(told.settled),
        acknowledged=sum(told.nets().values()),
        ledger=sum(truth.usage.values()),
        top_ups=sum(truth.granted.values()) - proof.granted * len(proof.accounts),
        events=dict(events),
        discrepancies=_discrepancies(audit.stdout),
        mismatches=mismatches,
    )


def _compare_events(windows: Sequence[Window], events: Counter[str]) -> Iterator[str]:
    stored: Counter[str] = sum((w.flooded.stored for w in windows if w.flooded), Counter())
    wanted = {"applied": stored[Kind.TOP_UP], "ignored": stored[Kind.IGNORED]}
    for status in wanted.keys() | events.keys():
        if events[status] != wanted.get(status, 0):
            yield f"{events[status]} events are {status}, acknowledged: {wanted.get(status, 0)}"


def _compare_grants(
    proof: Proof, windows: Sequence[Window], granted: dict[str, int]
) -> Iterator[str]:
    bought: Counter[str] = sum((w.flooded.granted for w in windows if w.flooded), Counter())
    for account in proof.accounts:
        wanted = proof.granted + bought[account]
        if granted.get(account) != wanted:
            yield f"{account}: granted {granted.get(account)}, acknowledged top-ups make {wanted}"


def _discrepancies(report: str) -> int | None:
    try:
        return int(json.loads(report)["discrepancies"])
    except (ValueError, KeyError):
        return None


def _open(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        counts = count_unfinished(connection)
    # Those that were given up stay so, and are a mismatch in the end.
    return {status: count for status, count in counts.items() if status != "dead"}


def _statuses(engine: Engine) -> Counter[str]:
    with engine.connect() as connection:
        rows = connection.execute(_STATUSES)
        return Counter({row.status: int(row.events) for row in rows})


_STATUSES: Final = sa.text("SELECT status, count(*) AS events FROM stripe_events GROUP BY status")
