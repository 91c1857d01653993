"""The ledger's tables. The migrations make them; a test compares the two.

Amounts are integer microcredits. Instants are Unix milliseconds. Append-only tables are guarded by
triggers and privileges, which only the migrations spell out.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

metadata: Final = MetaData()


def _counter(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default="0")


ledger: Final = Table(
    "ledger",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("ledger_id", UUID(as_uuid=True), nullable=False),
    Column("shards", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="ledger_is_one"),
    CheckConstraint("shards BETWEEN 1 AND 999", name="ledger_shards_in_range"),
)
"""One row: which ledger this is, and into how many shards its accounts are divided for ever."""

shards: Final = Table(
    "shards",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("epoch", Integer, nullable=False, server_default="0"),
    Column("cursor", Text, nullable=False, server_default="0-0"),
    _counter("flushed_events"),
    _counter("last_batch"),
    Column("last_hash", LargeBinary, nullable=False, server_default=text("'\\x'::bytea")),
    Column("state", Text, nullable=False, server_default="open"),
    Column("run_id", Text),
    Column("replid", Text),
    Column("is_fenced", Boolean, nullable=False, server_default="false"),
    Column("cause", Text),
    CheckConstraint("state IN ('open', 'draining', 'suspect')", name="shards_state_known"),
)
"""One row a shard. `epoch` 0: never opened. `cursor`: the last stream id in the ledger.

`run_id` and `replid` name the Redis process that may decide for it, `is_fenced` says that Redis has
the same. `draining`: a Redis was lost, and sidecars hand in what they acknowledged; `suspect`: this
one is to be given up, because of `cause`.
"""

sidecars: Final = Table(
    "sidecars",
    metadata,
    Column("id", UUID(as_uuid=True), primary_key=True),
    Column("name", Text, nullable=False),
    Column("boot", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("registered_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
    Column("reason", Text),
    CheckConstraint("state IN ('alive', 'gone', 'dead')", name="sidecars_state_known"),
    Index("sidecars_alive", "id", postgresql_where=text("state = 'alive'")),
)
"""Who may hold acknowledged usage in a journal. `gone`: all of it is in the ledger. `dead`: nobody
waits for its journal any more; what it held may come late, or never."""

drains: Final = Table(
    "drains",
    metadata,
    Column("shard", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("sidecar", UUID(as_uuid=True), ForeignKey("sidecars.id"), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("handed_in_ms", BigInteger),
    PrimaryKeyConstraint("shard", "epoch", "sidecar"),
    Index("drains_pending", "sidecar", postgresql_where=text("handed_in_ms IS NULL")),
)
"""Whose journal a shard's epoch waits for before the accounts of older ones are reopened."""

recoveries: Final = Table(
    "recoveries",
    metadata,
    Column("shard", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("cause", Text, nullable=False),
    Column("noticed_ms", BigInteger, nullable=False),
    Column("drained_ms", BigInteger),
    PrimaryKeyConstraint("shard", "epoch"),
)
"""Each time that a shard's Redis was given up: why, since when, and when all journals were in."""

accounts: Final = Table(
    "accounts",
    metadata,
    Column("account", Text, primary_key=True),
    Column("account_no", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column("shard", Integer, ForeignKey("shards.shard"), nullable=False),
    Column("name", Text),
    Column("status", Text, nullable=False, server_default="active"),
    Column("status_reason", Text),
    _counter("overdraft_limit"),
    Column("low_balance_threshold", BigInteger),
    Column("stripe_customer", Text),
    _counter("outage_allowance"),
    _counter("granted_total"),
    Column("generation", Integer, nullable=False, server_default="0"),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("operator_status", Text, nullable=False, server_default="active"),
    Column("operator_reason", Text),
    Column("top_up_threshold", BigInteger),
    CheckConstraint(
        "status IN ('active', 'grace', 'suspended', 'closed')", name="accounts_status_known"
    ),
    CheckConstraint(
        "operator_status IN ('active', 'suspended', 'closed')",
        name="accounts_operator_status_known",
    ),
    CheckConstraint(
        "overdraft_limit BETWEEN 0 AND 9007199254740991", name="accounts_overdraft_in_range"
    ),
    CheckConstraint(
        "outage_allowance BETWEEN 0 AND 9007199254740991", name="accounts_outage_in_range"
    ),
    CheckConstraint(
        "granted_total BETWEEN 0 AND 9007199254740991", name="accounts_granted_in_range"
    ),
    Index("accounts_stripe_customer", "stripe_customer"),
)
"""Who is charged. `generation` is the present one.

`status` is derived, `operator_status` is what operators decided of it. `top_up_threshold`: below
this it is topped up by itself.
"""

ledger_accounts: Final = Table(
    "ledger_accounts",
    metadata,
    Column("no", BigInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("account", Text, ForeignKey("accounts.account")),
    Column("generation", Integer),
    Column("balance", Numeric(38, 0), nullable=False, server_default="0"),
    CheckConstraint(
        "kind IN ('source', 'suspense', 'available', 'lent', 'spent', 'expired')",
        name="ledger_accounts_kind_known",
    ),
    Index("ledger_accounts_account", "account"),
)
"""The double-entry accounts. `balance` is credits less debits; all of them sum to zero.

`available` is what is not lent, `lent` what a generation in Redis may spend and has not.
"""

transfers: Final = Table(
    "transfers",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("debit_account", BigInteger, ForeignKey("ledger_accounts.no"), nullable=False),
    Column("credit_account", BigInteger, ForeignKey("ledger_accounts.no"), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("reference", Text),
    Column("account", Text),
    Column("shard", Integer),
    Column("batch", BigInteger),
    CheckConstraint("amount > 0", name="transfers_amount_positive"),
    CheckConstraint("debit_account <> credit_account", name="transfers_two_accounts"),
    CheckConstraint(
        "kind IN ('grant', 'adjustment', 'clawback', 'lend', 'usage', 'refund', 'expire',"
        " 'return', 'suspense', 'residue')",
        name="transfers_kind_known",
    ),
    Index("transfers_account", "account", "id"),
    Index("transfers_batch", "account", "batch", postgresql_where=text("batch IS NOT NULL")),
    Index("transfers_clawback", "reference", postgresql_where=text("kind = 'clawback'")),
)
"""The double-entry rows. Append-only."""

grants: Final = Table(
    "grants",
    metadata,
    Column("grant_no", BigInteger, Identity(always=True), primary_key=True),
    Column("account", Text, ForeignKey("accounts.account"), nullable=False),
    Column("id", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("category", Text, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("reference", Text),
    Column("transfer", BigInteger, ForeignKey("transfers.id"), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    _counter("used"),
    _counter("expired"),
    _counter("returned"),
    Column("rolled_group", Text),
    Column("rolled_keep", BigInteger),
    UniqueConstraint("account", "id", name="grants_account_id_key"),
    CheckConstraint("amount BETWEEN 1 AND 9007199254740991", name="grants_amount_in_range"),
    CheckConstraint(
        "category IN ('paid', 'promo', 'allowance', 'adjustment')", name="grants_category_known"
    ),
    CheckConstraint("priority BETWEEN 0 AND 100", name="grants_priority_in_range"),
    CheckConstraint("expires_at_ms BETWEEN 0 AND 999999999999998", name="grants_expiry_in_range"),
    CheckConstraint(
        "used >= 0 AND expired >= 0 AND returned >= 0", name="grants_counters_not_negative"
    ),
    CheckConstraint("used + expired + returned <= amount", name="grants_not_overspent"),
    CheckConstraint("rolled_keep >= 0", name="grants_rolled_keep_not_negative"),
    Index("grants_account_no", "account", "grant_no"),
    Index("grants_reference", "reference"),
)
"""Credits added. `used` (less refunds), `expired` and `returned` change, and when it ends.

`rolled_group`: the grants whose rest was carried over together, at most `rolled_keep` of it.
"""

adjustments: Final = Table(
    "adjustments",
    metadata,
    Column("account", Text, ForeignKey("accounts.account"), nullable=False),
    Column("id", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("transfer", BigInteger, ForeignKey("transfers.id"), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("account", "id"),
    CheckConstraint(
        "amount BETWEEN -9007199254740991 AND 9007199254740991 AND amount <> 0",
        name="adjustments_amount_in_range",
    ),
)
"""What operators added (also a grant of the same id) or took away. Append-only."""

generations: Final = Table(
    "generations",
    metadata,
    Column("account", Text, ForeignKey("accounts.account"), nullable=False),
    Column("gen", Integer, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("state", Text, nullable=False, server_default="open"),
    _counter("seq"),
    _counter("refill_no"),
    _counter("applied_refill_no"),
    _counter("lent"),
    _counter("spent"),
    _counter("expired"),
    _counter("returned"),
    _counter("overage"),
    _counter("suspended"),
    _counter("dropped"),
    _counter("restored"),
    _counter("residue"),
    Column("available_no", BigInteger, ForeignKey("ledger_accounts.no"), nullable=False),
    Column("lent_no", BigInteger, ForeignKey("ledger_accounts.no"), nullable=False),
    Column("spent_no", BigInteger, ForeignKey("ledger_accounts.no"), nullable=False),
    Column("expired_no", BigInteger, ForeignKey("ledger_accounts.no"), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("frozen_ms", BigInteger),
    Column("closed_ms", BigInteger),
    PrimaryKeyConstraint("account", "gen"),
    CheckConstraint("state IN ('open', 'frozen', 'closed')", name="generations_state_known"),
    CheckConstraint(
        "spent + expired + returned <= lent + overage", name="generations_not_overspent"
    ),
    CheckConstraint(
        "lent >= 0 AND expired >= 0 AND returned >= 0 AND seq >= 0", name="generations_not_negative"
    ),
    CheckConstraint(
        "applied_refill_no BETWEEN 0 AND refill_no", name="generations_refills_in_order"
    ),
    Index("generations_live", "shard", "epoch", postgresql_where=text("state <> 'closed'")),
)
"""One life of an account in Redis: what was lent to it and what became of that.

The account's newest generation is present while its `epoch` is the shard's. When the shard goes on
to a newer epoch it is superseded, until it is closed and the next one is opened: `residue` is what
of its loan came back then.

`seq` is the last event in the ledger, `overage` what was charged beyond all grants and is not
covered yet, `suspended` what its dead letters charged, `dropped` what events charged that were
duplicates, and `restored` what of it refills gave back.
"""

refills: Final = Table(
    "refills",
    metadata,
    Column("account", Text, nullable=False),
    Column("gen", Integer, nullable=False),
    Column("refill_no", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("payload", JSONB, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("applied_ms", BigInteger),
    Column("voided_ms", BigInteger),
    PrimaryKeyConstraint("account", "gen", "refill_no"),
    ForeignKeyConstraint(["account", "gen"], ["generations.account", "generations.gen"]),
    CheckConstraint(
        "kind IN ('open', 'grant', 'take', 'status', 'restore', 'roll')",
        name="refills_kind_known",
    ),
    CheckConstraint("amount >= 0", name="refills_amount_not_negative"),
    Index(
        "refills_pending",
        "created_ms",
        "account",
        postgresql_where=text("applied_ms IS NULL AND voided_ms IS NULL"),
    ),
)
"""Numbered movements from the ledger to a generation. `amount` is what one lends; 0 for most.

`voided_ms`: its generation was closed before Redis had it; the next one begins with what it said.
"""

usage_events: Final = Table(
    "usage_events",
    metadata,
    Column("event_id", UUID(as_uuid=True), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("batch", BigInteger, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("late", Boolean, nullable=False),
    Column("degraded", Boolean, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("account", Text, nullable=False),
    Column("operation", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("allocations", ARRAY(BigInteger), nullable=False),
    Column("model", Text),
    Column("price_version", Text),
    Column("of", Text),
    Column("reason", Text),
    Column("usage", JSONB),
    Column("scopes", JSONB),
    Column("metadata", JSONB),
    Index("usage_events_account", "account", "at_ms", "seq"),
    Index("usage_events_id", "account", "id"),
    Index("usage_events_of", "account", "of", postgresql_where=text("of IS NOT NULL")),
    postgresql_partition_by="RANGE (event_id)",
)
"""Every event of the streams, partitioned by month on its id. Append-only.

`allocations` is flat: grant_no, amount, grant_no, amount, ...; grant_no 0 is beyond all grants.
"""

flush_batches: Final = Table(
    "flush_batches",
    metadata,
    Column("shard", Integer, ForeignKey("shards.shard"), nullable=False),
    Column("batch_no", BigInteger, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("first_id", Text, nullable=False),
    Column("last_id", Text, nullable=False),
    Column("events", Integer, nullable=False),
    Column("inserted", Integer, nullable=False),
    Column("amount", Numeric(38, 0), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("prev_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("shard", "batch_no"),
)
"""One row a flush: sha256 over the one before it, its usage rows and its transfers. Append-only."""

duplicate_events: Final = Table(
    "duplicate_events",
    metadata,
    Column("account", Text, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("event_id", UUID(as_uuid=True), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("batch", BigInteger, nullable=False),
    PrimaryKeyConstraint("account", "generation", "seq", "event_id"),
)
"""Events that the ledger had already, under another `seq`. Each was given back by a refill."""

dead_letters: Final = Table(
    "dead_letters",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("shard", Integer, nullable=False),
    Column("stream_id", Text, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("account", Text),
    Column("generation", Integer),
    Column("seq", BigInteger),
    Column("amount", BigInteger),
    Column("created_ms", BigInteger, nullable=False),
    Column("resolved_ms", BigInteger),
    CheckConstraint(
        "reason IN ('unreadable', 'unknown_generation', 'gap', 'regression', 'refused')",
        name="dead_letters_reason_known",
    ),
    Index("dead_letters_account", "account", "generation", "seq"),
    Index("dead_letters_open", "id", postgresql_where=text("resolved_ms IS NULL")),
)
"""Events that could not be posted, as they were. Only those `refused` took their `seq`."""
