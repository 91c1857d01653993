"""What a shard needs: its row in the ledger against its fence and the Redis that answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import sqlalchemy as sa

from persistence.fences import Fence, View
from persistence.recovery import Cause


class Step(Enum):
    """What a shard needs."""

    NOTHING = auto()
    OPEN = auto()
    """It was never open."""
    ADOPT = auto()
    """Its fence fits, but is older than the ledger's record of the process."""
    CONFIRM = auto()
    """Its fence is written, and the worker that wrote it did not live to say so."""
    CATCH_UP = auto()
    """Its fence is newer than the ledger, which went back in time: first the stream of that."""
    FLAG = auto()
    """Its fence says wrongly whether it drains."""
    GIVE_UP = auto()


@dataclass(slots=True)
class Plan:
    """What one round is about to do, by shard."""

    steps: dict[int, Step] = field(default_factory=dict)
    causes: dict[int, Cause] = field(default_factory=dict)
    epochs: dict[int, int] = field(default_factory=dict)
    states: dict[int, str] = field(default_factory=dict)

    def having(self, *steps: Step) -> list[int]:
        """Return the shards that need one of these steps."""
        return [shard for shard, step in self.steps.items() if step in steps]


def plan_round(rows: Sequence[sa.Row[Any]], view: View, flushed: Mapping[int, int]) -> Plan:
    """Return what to do now with each shard of these rows.

    A shard of a Redis that is whole is given up only when `flushed` has it with this epoch.
    """
    plan = Plan()
    for row in rows:
        if row.shard not in view.fences:
            continue  # its node does not answer
        step, cause = diagnose(row, view)
        is_whole = row.state == "suspect" and cause is not None and cause == row.cause
        if is_whole and flushed.get(row.shard) != row.epoch:
            continue  # its stream first; it comes the next time
        plan.steps[row.shard] = step
        plan.states[row.shard] = row.state
        plan.epochs[row.shard] = row.epoch
        fence = view.fences[row.shard]
        if step in (Step.OPEN, Step.GIVE_UP):
            # Redis may have a newer one than a ledger that went back in time.
            plan.epochs[row.shard] = max(row.epoch, fence.epoch if fence else 0) + 1
        elif step is Step.CATCH_UP and fence is not None:
            plan.epochs[row.shard] = fence.epoch
        if cause is not None:
            plan.causes[row.shard] = cause
    return plan


def diagnose(row: sa.Row[Any], view: View) -> tuple[Step, Cause | None]:
    """Return what a shard needs, and the cause when it is to be given up."""
    fence, process = view.fences[row.shard], view.processes[row.shard]
    if row.epoch == 0:
        return Step.OPEN, None
    if row.run_id is None and fence == Fence(row.epoch, process, is_draining=False):
        return Step.ADOPT, None
    if fence is not None and fence.epoch > row.epoch and fence.process == process:
        return Step.CATCH_UP, None
    cause = _cause(row, fence, view)
    if cause is not None and cause == row.cause and not row.is_fenced:
        # Its fence fits, so it is true; and what it has is flushed before it is given up.
        return Step.CONFIRM, None
    if cause is not None:
        return Step.GIVE_UP, cause
    if not row.is_fenced:
        return Step.CONFIRM, None
    assert fence is not None
    is_flag_true = fence.is_draining == is_draining(row)
    return (Step.NOTHING if is_flag_true else Step.FLAG), None


def _cause(row: sa.Row[Any], fence: Fence | None, view: View) -> Cause | None:
    process = view.processes[row.shard]
    if row.run_id != process.run_id:
        others = {other.run_id for other in view.processes.values()}
        return Cause.MOVED if row.run_id in others else Cause.RESTARTED
    if row.replid != process.replid:
        return Cause.PROMOTED
    if fence is None or fence.epoch != row.epoch or fence.process != process:
        if not row.is_fenced:
            return Cause.INTERRUPTED
        return Cause.FENCE_MISSING if fence is None else Cause.FENCE_DIFFERS
    return Cause(row.cause) if row.state == "suspect" else None


def is_draining(row: sa.Row[Any]) -> bool:
    """Tell whether a shard waits for journals."""
    return bool(row.state == "draining")
