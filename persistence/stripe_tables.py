"""Tables of the Stripe inbox, of the facts learnt from it, and of what operators did."""

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

stripe_events: Final = Table(
    "stripe_events",
    metadata,
    Column("id", Text, primary_key=True),
    Column("no", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column("type", Text, nullable=False),
    Column("object_id", Text),
    Column("livemode", Boolean, nullable=False),
    Column("api_version", Text),
    Column("created_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    # The body as Stripe signed it. Text, not jsonb: jsonb refuses \u0000, which JSON allows.
    Column("payload", Text),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("error", Text),
    Column("due_ms", BigInteger, nullable=False),
    # The account whose making this event waits for.
    Column("waits_for_account", Text),
    Column("finished_ms", BigInteger),
    Column("source", Text, nullable=False, server_default="webhook"),
    # When the payload was blanked: it holds personal data, and is kept for a while only.
    Column("blanked_ms", BigInteger),
    CheckConstraint(
        "status IN ('pending', 'applied', 'ignored', 'failed', 'dead')",
        name="stripe_events_status_known",
    ),
    CheckConstraint("attempts >= 0", name="stripe_events_attempts_not_negative"),
    CheckConstraint("source IN ('webhook', 'reconciler')", name="stripe_events_source_known"),
    Index("stripe_events_kept", "received_ms", postgresql_where=text("blanked_ms IS NULL")),
    Index("stripe_events_due", "due_ms", postgresql_where=text("status IN ('pending', 'failed')")),
    Index("stripe_events_status", "status"),
)
"""One row for each event that Stripe sent, for ever: its id is what deliveries are told apart by.

`no` is the order of arrival. `due_ms` is when it is tried (again): `pending` and `failed` ones are,
`dead` ones were given up.
"""

stripe_payments: Final = Table(
    "stripe_payments",
    metadata,
    Column("payment_intent", Text, primary_key=True),
    Column("account", Text, nullable=False),
    Column("credits", BigInteger, nullable=False),
    Column("is_paid", Boolean, nullable=False),
    # What the payer paid, in the smallest unit of the currency; for people, never for credits.
    Column("paid_minor_units", BigInteger),
    Column("currency", Text),
    Column("checkout_session", Text),
    Column("livemode", Boolean, nullable=False),
    Column("granted", BigInteger, nullable=False, server_default="0"),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Column("order_id", Text, ForeignKey("orders.id")),
    Column("customer", Text),
    Column("charge", Text),
    # What the payment was made for, with tax: refunds and disputes are shares of it.
    Column("amount", BigInteger),
    Column("fee", BigInteger),
    Column("fee_currency", Text),
    Column("clawed_back", BigInteger, nullable=False, server_default="0"),
    Column("postings", Integer, nullable=False, server_default="0"),
    CheckConstraint(
        "credits BETWEEN 1 AND 9007199254740991", name="stripe_payments_credits_in_range"
    ),
    CheckConstraint("granted BETWEEN 0 AND credits", name="stripe_payments_granted_in_range"),
    CheckConstraint(
        "clawed_back BETWEEN 0 AND granted", name="stripe_payments_clawed_back_in_range"
    ),
    Index("stripe_payments_account", "account"),
    Index("stripe_payments_charge", "charge"),
    Index("stripe_payments_order", "order_id", unique=True),
)
"""One row for each PaymentIntent that is a top-up of ours: what is known of it, what it gave.

`granted` less `clawed_back` is what it is worth now; `postings` counts how often that changed.
"""

control_actions: Final = Table(
    "control_actions",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("action", Text, nullable=False),
    Column("account", Text),
    Column("body", JSONB, nullable=False),
    Column("remote", Text),
    Index("control_actions_account", "account", "id"),
)
"""What operators changed through the control listener. Append-only."""
