"""Tables of plans, of the subscriptions to them, and of the allowances that they gave."""

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
    PrimaryKeyConstraint,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from persistence.tables import metadata

plans: Final = Table(
    "plans",
    metadata,
    Column("stripe_price", Text, primary_key=True),
    Column("no", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column("allowance", BigInteger, nullable=False),
    Column("grace_days", Integer, nullable=False, server_default="3"),
    Column("rollover_cap", BigInteger, nullable=False, server_default="0"),
    Column("upgrade_allowance", Text, nullable=False, server_default="prorated"),
    Column("allowance_interval", Text, nullable=False, server_default="period"),
    Column("trial_allowance", BigInteger, nullable=False, server_default="0"),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    CheckConstraint("allowance BETWEEN 1 AND 9007199254740991", name="plans_allowance_in_range"),
    CheckConstraint("grace_days BETWEEN 0 AND 365", name="plans_grace_in_range"),
    CheckConstraint("rollover_cap BETWEEN 0 AND 9007199254740991", name="plans_rollover_in_range"),
    CheckConstraint("upgrade_allowance IN ('prorated', 'full')", name="plans_upgrade_known"),
    CheckConstraint("allowance_interval IN ('period', 'month')", name="plans_interval_known"),
    CheckConstraint("trial_allowance BETWEEN 0 AND 9007199254740991", name="plans_trial_in_range"),
)
"""What a recurring Stripe price gives for each unit and period, in microcredits."""

stripe_subscriptions: Final = Table(
    "stripe_subscriptions",
    metadata,
    Column("subscription", Text, primary_key=True),
    Column("account", Text),
    Column("customer", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("items", JSONB, nullable=False),
    Column("state", Text, nullable=False),
    Column("grace_until_ms", BigInteger),
    Column("is_ending", Boolean, nullable=False),
    Column("trial_starts_ms", BigInteger),
    Column("trial_ends_ms", BigInteger),
    Column("has_run", Boolean, nullable=False, server_default="false"),
    Column("changes", Integer, nullable=False, server_default="0"),
    Column("fetched_ms", BigInteger, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    CheckConstraint(
        "state IN ('active', 'grace', 'suspended', 'ended')",
        name="stripe_subscriptions_state_known",
    ),
    Index("stripe_subscriptions_account", "account"),
    Index("stripe_subscriptions_grace", "grace_until_ms", postgresql_where=text("state = 'grace'")),
)
"""One row a subscription, as it was when it was last fetched.

`items` is a list of {"item", "price", "quantity", "starts_ms", "ends_ms"}. `state` is what the
plan gives now; `grace_until_ms` when its grace ends. `has_run`: it was active or in grace once.
`changes` counts the changes of `state`, and names each.
"""

stripe_invoices: Final = Table(
    "stripe_invoices",
    metadata,
    Column("invoice", Text, primary_key=True),
    Column("subscription", Text),
    Column("customer", Text),
    Column("account", Text),
    Column("status", Text, nullable=False),
    Column("billing_reason", Text),
    Column("is_paid", Boolean, nullable=False),
    Column("amount_paid", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("lines", JSONB, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Index("stripe_invoices_subscription", "subscription"),
)
"""One row an invoice of a subscription. `lines`: those that give an allowance, once it is paid,
with what the plan said then.
"""

allowances: Final = Table(
    "allowances",
    metadata,
    Column("subscription_item", Text, nullable=False),
    Column("starts_ms", BigInteger, nullable=False),
    Column("account", Text, ForeignKey("accounts.account"), nullable=False),
    Column("subscription", Text, nullable=False),
    Column("stripe_price", Text, nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("ends_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("rollover_cap", BigInteger, nullable=False),
    Column("target", BigInteger, nullable=False),
    Column("granted", BigInteger, nullable=False, server_default="0"),
    Column("postings", Integer, nullable=False, server_default="0"),
    Column("is_trial", Boolean, nullable=False, server_default="false"),
    Column("ended_ms", BigInteger),
    Column("invoice", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    CheckConstraint("target BETWEEN 0 AND 9007199254740991", name="allowances_target_in_range"),
    PrimaryKeyConstraint("subscription_item", "starts_ms"),
    CheckConstraint("granted BETWEEN 0 AND target", name="allowances_granted_in_range"),
    CheckConstraint("starts_ms < ends_ms", name="allowances_period_not_empty"),
    Index("allowances_account", "account", "starts_ms"),
    Index("allowances_subscription", "subscription"),
    Index(
        "allowances_due", "due_ms", postgresql_where=text("granted < target AND ended_ms IS NULL")
    ),
)
"""What one subscription item gives in one period: `target` is the most that it was ever worth,
`granted` what was posted of it, `due_ms` when it may be. `ended_ms`: what was left of it was ended
then.
"""
