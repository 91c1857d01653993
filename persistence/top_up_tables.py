"""Tables of auto top-up, of accounts that run low, of alerts, and of the reconciler."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Identity,
    Index,
    Integer,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from persistence.tables import metadata

auto_top_ups: Final = Table(
    "auto_top_ups",
    metadata,
    Column("account", Text, ForeignKey("accounts.account"), primary_key=True),
    Column("is_enabled", Boolean, nullable=False),
    Column("threshold", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("monthly_cap", BigInteger),
    Column("paused_reason", Text),
    Column("paused_ms", BigInteger),
    # When a person last let it go on: what was known of its payments before stops it no more.
    Column("resumed_ms", BigInteger, nullable=False, server_default="0"),
    Column("declines", Integer, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("next_ms", BigInteger, nullable=False, server_default="0"),
    Column("due_ms", BigInteger),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    CheckConstraint(
        "threshold BETWEEN 1 AND 9007199254740991", name="auto_top_ups_threshold_in_range"
    ),
    CheckConstraint("amount BETWEEN 1 AND 9007199254740991", name="auto_top_ups_amount_in_range"),
    CheckConstraint("monthly_cap BETWEEN 1 AND 9007199254740991", name="auto_top_ups_cap_in_range"),
    Index("auto_top_ups_due", "due_ms", postgresql_where=text("due_ms IS NOT NULL")),
)
"""Who is topped up by itself, and by how much. `due_ms`: when it is to be looked at.

`declines` counts what banks refused, `failures` what Stripe refused for our fault, each since the
last success; `next_ms` is when it may be tried again.
"""

auto_top_up_attempts: Final = Table(
    "auto_top_up_attempts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, ForeignKey("accounts.account"), nullable=False),
    Column("order_id", Text, ForeignKey("orders.id"), nullable=False),
    Column("status", Text, nullable=False),
    Column("parameters", Text, nullable=False),
    Column("tries", Integer, nullable=False, server_default="0"),
    Column("payment_intent", Text),
    Column("error", Text),
    Column("first_try_ms", BigInteger),
    Column("due_ms", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    CheckConstraint(
        "status IN ('pending', 'unknown', 'charged', 'succeeded', 'declined', 'failed',"
        " 'canceled')",
        name="auto_top_up_attempts_status_known",
    ),
    Index(
        "auto_top_up_attempts_one_in_flight",
        "account",
        unique=True,
        postgresql_where=text("status IN ('pending', 'unknown', 'charged')"),
    ),
    Index(
        "auto_top_up_attempts_due",
        "due_ms",
        postgresql_where=text("status IN ('pending', 'unknown', 'charged')"),
    ),
    Index("auto_top_up_attempts_account", "account", "created_ms"),
    Index("auto_top_up_attempts_order", "order_id", unique=True),
)
"""Each charge that we tried. One in flight an account: a partial unique index says so.

`parameters` is what was sent, to the byte: a retry under the same key must send the same.
"""

watched_accounts: Final = Table(
    "watched_accounts",
    metadata,
    Column("account", Text, ForeignKey("accounts.account"), primary_key=True),
    Column("rung_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("is_low_told", Boolean, nullable=False, server_default="false"),
    Column("is_exhausted_told", Boolean, nullable=False, server_default="false"),
    Column("exhausted_ms", BigInteger),
    Index("watched_accounts_due", "due_ms"),
)
"""Accounts that fell below their mark, until they are above it again.

`exhausted_ms`: when it was last told that nothing is left.
"""

alerts: Final = Table(
    "alerts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("no", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("account", Text),
    Column("key", Text, nullable=False, unique=True),
    Column("data", JSONB, nullable=False),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_ms", BigInteger, nullable=False),
    Column("delivered_ms", BigInteger),
    Column("answer", Integer),
    Column("error", Text),
    Column("created_ms", BigInteger, nullable=False),
    CheckConstraint("status IN ('pending', 'delivered', 'dead')", name="alerts_status_known"),
    Index("alerts_due", "due_ms", postgresql_where=text("status = 'pending'")),
    Index("alerts_account", "account", "no"),
)
"""What the product is told by signed webhooks: written with its cause, sent at least once."""

reconciler_runs: Final = Table(
    "reconciler_runs",
    metadata,
    Column("name", Text, primary_key=True),
    Column("reached_ms", BigInteger, nullable=False),
    Column("succeeded_ms", BigInteger, nullable=False),
    Column("seen", BigInteger, nullable=False),
    Column("found", BigInteger, nullable=False),
)
"""How far the reconciler has come: everything up to `reached_ms` was looked at."""
