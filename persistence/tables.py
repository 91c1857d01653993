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
    CheckConstraint("state IN ('open', 'lost')", name="shards_state_known"),
)
"""One row a shard. `epoch` 0: never opened. `cursor`: the last stream id in the ledger."""

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
    CheckConstraint(
        "status IN ('active', 'grace', 'suspended', 'closed')", name="accounts_status_known"
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
"""Who is charged. `generation` is the present one."""

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
        "kind IN ('grant', 'adjustment', 'lend', 'usage', 'refund', 'expire', 'return',"
        " 'suspense')",
        name="transfers_kind_known",
    ),
    Index("transfers_account", "account", "id"),
    Index("transfers_batch", "account", "batch", postgresql_where=text("batch IS NOT NULL")),
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
    Index("grants_account_no", "account", "grant_no"),
)
"""Credits added. Only `used` (less refunds), `expired` and `returned` ever change."""

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
    Column("available_no", BigInteger, ForeignKey("ledger_accounts.no"), nullable=False),
    Column("lent_no", BigInteger, ForeignKey("ledger_accounts.no"), nullable=False),
    Column("spent_no", BigInteger, ForeignKey("ledger_accounts.no"), nullable=False),
    Column("expired_no", BigInteger, ForeignKey("ledger_accounts.no"), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("frozen_ms", BigInteger),
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
    Index("generations_shard", "shard"),
)
"""One life of an account in Redis: what was lent to it and what became of that.

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
    PrimaryKeyConstraint("account", "gen", "refill_no"),
    ForeignKeyConstraint(["account", "gen"], ["generations.account", "generations.gen"]),
    CheckConstraint(
        "kind IN ('open', 'grant', 'take', 'status', 'restore')", name="refills_kind_known"
    ),
    CheckConstraint("amount >= 0", name="refills_amount_not_negative"),
    Index("refills_pending", "created_ms", "account", postgresql_where=text("applied_ms IS NULL")),
)
"""Numbered movements from the ledger to a generation. `amount` is what one lends; 0 for most."""

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
    PrimaryKeyConstraint("account", "generation", "seq"),
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
