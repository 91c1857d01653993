"""The flush's transaction: news is posted once, and what does not fit is noticed."""

from __future__ import annotations

from tests.simulation.ledger import Account, Generation, Ledger
from tests.simulation.rules import Rules
from tests.simulation.values import Event, Refill

_WORST_LAST = ("", "regression", "gap", "ledger_behind")


def post(ledger: Ledger, shard: int, events: list[Event], rules: Rules) -> str:
    """Post a batch; return why the shard's Redis is to be given up, or nothing.

    `persistence.posting` and `persistence.lives`, one event after the other.
    """
    seqs: dict[tuple[int, int], int] = {}
    causes = {_post(ledger, shard, event, seqs, rules) for event in events}
    return max(causes, key=_WORST_LAST.index, default="")


def _post(
    ledger: Ledger, shard: int, event: Event, seqs: dict[tuple[int, int], int], rules: Rules
) -> str:
    account = ledger.accounts[event.account]
    generation = account.gens.get(event.gen)
    if generation is None:
        return "ledger_behind" if _remember(ledger, account, event, rules) else ""
    is_newest = event.gen == account.gen and not generation.is_closed
    is_present = is_newest and generation.epoch == ledger.shards[shard].epoch
    cause = ""
    if is_present:
        seq = seqs.get((event.account, event.gen), generation.seq)
        if event.seq > seq + 1:
            cause = "gap"
        elif event.seq <= seq:
            cause = "regression"
        seqs[event.account, event.gen] = max(seq, event.seq)
    is_news = _enter(ledger, account, generation, event, is_present, rules)
    return cause if is_news or cause != "regression" else ""


def _remember(ledger: Ledger, account: Account, event: Event, rules: Rules) -> bool:
    """Post an event of a generation that the ledger forgot when it went back in time.

    Its credits are with the newest generation that the ledger knows. Tell whether it was news.
    """
    if event.key in ledger.usage or event in ledger.letters or event.operation == "take":
        return False
    if rules.posts_what_it_forgot:
        ledger.usage[event.key] = event
        _count(account, account.present, event._replace(seq=0, over=event.amount))
    else:
        ledger.letters[event] = "unknown_generation"
    return True


def _enter(
    ledger: Ledger,
    account: Account,
    generation: Generation,
    event: Event,
    is_present: bool,
    rules: Rules,
) -> bool:
    """Write one event down if it is new: `Posting._post_all`. Tell whether it was not a repeat."""
    known = ledger.usage.get(event.key) if rules.drops_known_ids else None
    if known is not None:
        if not rules.counts_only_what_went_in:
            _count(account, generation, event)
        return _drop(ledger, account, generation, event, is_present)
    is_doubted = not is_present or ledger.shards[account.shard].state == "suspect"
    charged = generation.spent + generation.returned - generation.over
    if generation.is_closed or (charged + event.amount - event.over > generation.lent):
        if not is_doubted:
            is_known = event in ledger.letters
            if not is_known:
                _refuse(ledger, account, generation, event)
            return not is_known
        # What a lost generation was charged is posted whatever its grants say.
        event = event._replace(over=event.amount)
    ledger.usage[event.key] = event
    _count(account, generation, event)
    if generation.is_closed:
        _even_out(ledger, account, generation, event.amount)
    return True


def _drop(
    ledger: Ledger, account: Account, generation: Generation, event: Event, is_present: bool
) -> bool:
    """Give back what Redis charged for a call that the ledger has: `Posting._give_back`."""
    known = ledger.usage.get(event.key)
    if known is None or known[:6] == event[:6] or event in ledger.duplicates:
        return False
    ledger.duplicates.add(event)
    generation.seq = max(generation.seq, event.seq)
    if is_present:
        ledger.lend(account, Refill("restore", event.amount))
    return True


def _count(account: Account, generation: Generation, event: Event) -> None:
    generation.seq = max(generation.seq, event.seq)
    generation.balance -= event.amount
    generation.over += event.over
    if event.operation == "take":
        generation.returned += event.amount
        account.available += event.amount
    else:
        generation.spent += event.amount
        account.spent += event.amount


def _refuse(ledger: Ledger, account: Account, generation: Generation, event: Event) -> None:
    """A dead letter: the `CHECK` of the generation refused it."""
    ledger.letters[event] = "refused"
    generation.seq = max(generation.seq, event.seq)
    generation.balance -= event.amount
    account.suspended += event.amount


def _even_out(ledger: Ledger, account: Account, generation: Generation, amount: int) -> None:
    """Take what comes late to a closed generation from the present one: `Posting._even_out`."""
    ledger.evened_out += 1
    account.available -= amount
    generation.balance += amount
    if ledger.is_present(account):
        ledger.lend(account, Refill("take", amount))
