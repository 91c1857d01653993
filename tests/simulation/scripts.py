"""The Lua scripts, each one step: they read, decide, and write the event with the decision."""

from __future__ import annotations

from typing import NamedTuple

from tests.simulation.redis_state import Account, Server
from tests.simulation.rules import OVERDRAFT, Rules
from tests.simulation.values import Ended, Event, Hold, Mark, Refill


class Call(NamedTuple):
    """Which account is called: `run_id` is that of the process for which the script was loaded."""

    server: Server
    run_id: int
    shard: int
    epoch: int
    account: int
    now: int
    rules: Rules


class Reply(NamedTuple):
    """Status, and for the journal: place in the stream, the event, and whether it was late."""

    status: str
    place: int = 0
    event: Event | None = None
    amount: int = 0


def load(call: Call) -> Account | str:
    """`prelude.lua`: begin. What has expired is freed; `noscript` is another process's answer."""
    if call.run_id != call.server.run_id and call.rules.is_fenced:
        return "noscript"
    if not call.server.is_master:
        return "readonly"
    account = call.server.data.accounts.get(call.account)
    if account is None:
        return "unknown"
    if account.epoch != call.epoch and call.rules.is_fenced:
        return "fenced"
    for id, hold in list(account.holds.items()):
        if hold.expires <= call.now:
            _end(account, id, "expire", 0)
    return account


def debit(call: Call, id: str, amount: int) -> Reply:
    """`debit.lua`."""
    account = load(call)
    if isinstance(account, str):
        return Reply(account)
    known = account.ended.get(id)
    if known is not None:
        return Reply("debited", known.place, amount=known.amount)
    if amount > account.available + OVERDRAFT:
        return Reply("insufficient")
    account.available -= amount
    place, event = _charge(call, account, "debit", id, amount)
    account.ended[id] = Ended("debit", amount, place, 0)
    return Reply("debited", place, event, amount)


def hold(call: Call, id: str, amount: int, ttl: int) -> Reply:
    """`hold.lua`."""
    account = load(call)
    if isinstance(account, str):
        return Reply(account)
    if id in account.holds or id in account.ended:
        return Reply("held")
    if amount > account.available + OVERDRAFT:
        return Reply("insufficient")
    account.available -= amount
    account.held += amount
    account.holds[id] = Hold(amount, call.now + ttl)
    return Reply("held")


def settle(call: Call, id: str, amount: int, *, is_known: bool) -> Reply:
    """`settle.lua`. `is_known`: the sidecar sends what it has of a hold that was lost."""
    account = load(call)
    if isinstance(account, str):
        return Reply(account)
    ended = account.ended.get(id)
    if ended is not None and ended.operation == "settle":
        return Reply("settled" if ended.held else "late", ended.place, amount=ended.amount)
    if ended is not None and ended.operation == "release":
        return Reply("hold_released")
    if ended is None and id not in account.holds and not is_known:
        return Reply("hold_not_found")
    is_late = id not in account.holds
    if not is_late:
        _end(account, id, "settle", amount)
    account.available -= amount
    place, event = _charge(call, account, "settle", id, amount)
    held = account.ended[id].held if not is_late else 0
    account.ended[id] = Ended("settle", amount, place, held)
    return Reply("late" if is_late else "settled", place, event, amount)


def release(call: Call, id: str) -> Reply:
    """`release.lua`."""
    account = load(call)
    if isinstance(account, str):
        return Reply(account)
    if id in account.holds:
        _end(account, id, "release", 0)
        return Reply("released")
    ended = account.ended.get(id)
    is_repeat = ended is not None and ended.operation == "release"
    return Reply("released" if is_repeat else "hold_not_found")


def refill(call: Call, gen: int, number: int, what: Refill) -> tuple[str, int]:
    """`open.lua`, `grant.lua`, `take.lua` and `restore.lua`: numbered, once and in order."""
    if what.kind == "open":
        return _open(call, gen)
    account = load(call)
    if isinstance(account, str):
        return account, 0
    if account.gen != gen:
        return "stale", 0
    if number <= account.refill_no and call.rules.numbers_refills:
        return "replayed", account.refill_no
    if number > account.refill_no + 1:
        return "gap", account.refill_no
    account.refill_no = max(number, account.refill_no)
    if what.kind == "take":
        account.available -= what.amount
        _charge(call, account, "take", f"refill:{number}", what.amount)
    else:
        account.available += what.amount
    return "applied", number


def hand_in(call: Call, events: list[Event], mark: Mark | None) -> int | None:
    """`hand_in.lua`: return the place of the last entry, or None when the shard moved on."""
    server = call.server
    fence = server.data.fences.get(call.shard)
    is_same = server.run_id == call.run_id and server.is_master
    if call.rules.is_fenced and not (is_same and fence and fence.epoch == call.epoch):
        return None
    stream = server.data.stream(call.shard, call.epoch)
    for event in events:
        stream.add(call.now, event)
    if mark is not None:
        stream.add(call.now, mark)
    return stream.last_id


def _open(call: Call, gen: int) -> tuple[str, int]:
    known = load(call)
    if known in ("noscript", "readonly"):
        return str(known), 0
    accounts = call.server.data.accounts
    if known == "fenced" and accounts[call.account].epoch > call.epoch:
        return "fenced", 0
    if isinstance(known, Account):
        return ("replayed", known.refill_no) if known.gen == gen else ("stale", 0)
    if call.rules.opens_a_generation_once and not _may_open(call, gen):
        return "unknown", 0
    accounts[call.account] = Account(call.epoch, gen)
    call.server.data.opened[call.account] = call.epoch, gen
    return "applied", 1


def _may_open(call: Call, gen: int) -> bool:
    """Tell whether an account that is not there was not there before: else it is lost."""
    data = call.server.data
    fence = data.fences.get(call.shard)
    is_fenced = fence is not None and fence.epoch == call.epoch
    return is_fenced and data.opened.get(call.account) != (call.epoch, gen)


def _charge(
    call: Call, account: Account, operation: str, id: str, amount: int
) -> tuple[int, Event]:
    account.seq += 1
    over = min(amount, max(0, -account.available))
    event = Event(call.account, account.gen, account.seq, operation, id, amount, over)
    return call.server.data.stream(call.shard, call.epoch).add(call.now, event), event


def _end(account: Account, id: str, operation: str, amount: int) -> None:
    ended = account.holds.pop(id)
    account.held -= ended.amount
    account.available += ended.amount
    account.ended[id] = Ended(operation, amount, 0, ended.amount)
