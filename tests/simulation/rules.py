"""The rules that the protocol stands on, each with a switch: see `mutations.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SHARDS: Final = 2
LEASE: Final = 16  # instants for which a sidecar believes what it saw of Redis
LOST: Final = 40  # instants of silence after which a sidecar is let go of; far more than a lease
KEEP: Final = 60  # instants for which flushed entries stay in a stream
BATCH: Final = 4  # entries that one flush reads
OVERDRAFT: Final = 20


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds in the real protocol: everything, but for what two of them say."""

    waits_for_journals: bool = True
    """Accounts are reopened when every journal is in."""
    counts_only_what_went_in: bool = True
    """The roll-up is of the rows that were inserted, not of the batch."""
    is_fenced: bool = True
    """Scripts, leases and workers look at run id, replication id and epoch."""
    never_seeds_again: bool = True
    """An account that Redis has lost is not filled from the ledger while its generation is out."""
    publishes_whole_streams_only: bool = True
    """No cursor is published while the stream lacks entries that were written to it."""
    journals_before_answering: bool = True
    has_leases: bool = True
    """An answer goes out only while the lease runs and the shard is in the call's epoch."""
    lets_go_only_of_flushed: bool = True
    """A silent sidecar is let go of when all that the streams have had is in the ledger."""
    doubts_a_promoted_ledger: bool = True
    registers_first: bool = True
    """A sidecar acknowledges nothing before the ledger knows it."""
    marks_after_the_events: bool = True
    """The mark of a journal that is handed in comes after its events."""
    numbers_refills: bool = True
    """A refill that Redis has is not applied again."""
    drops_known_ids: bool = True
    """The ledger takes an event's id once."""
    repeats_need_their_event: bool = True
    """A repeat is acknowledged when its event is in the journal, or the ledger has it."""
    keeps_what_was_flushed_lately: bool = True
    """Entries leave a stream when they were flushed, not written, before the recovery window."""
    confirms_suspects_too: bool = True
    """The fence of a suspect shard is confirmed if it is written: only then it can be flushed."""
    posts_what_it_forgot: bool = True
    """Usage of a generation that a ledger lost when it went back is charged, not put aside.

    The code puts it aside, as dead letters with an alarm: that is a limit in the README.
    """
    doubts_at_the_flush: bool = True
    """Nothing is flushed into a promoted ledger before its shards are suspect."""
    enters_again_whom_it_forgot: bool = True
    """A promoted ledger waits for every sidecar that Redis knows, before it gives shards up."""
    confirms_what_comes_late: bool = True
    """A record that is entered when the cursor has passed it is forgotten all the same."""
    opens_a_generation_once: bool = True
    """An account that was opened and is gone is lost, also when the ledger does not know yet.

    The code knows it by the shard's stream, so not where one account alone was deleted in the
    moment in which the worker died that had opened it: that is a limit in the README.
    """
    flushes_this_epoch_into_this_ledger: bool = True
    """Another epoch's flush, or one into a ledger that was promoted since, does not count."""
    keeps_until_confirmed: bool = True
    """Records stay in the journal until the published cursor has passed them."""
