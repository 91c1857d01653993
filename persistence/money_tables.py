"""Tables of what is sold and of what Stripe says of money: facts, one row an object."""

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
    Table,
    Text,
)

from persistence.tables import metadata

offers: Final = Table(
    "offers",
    metadata,
    Column("id", Text, primary_key=True),
    Column("no", BigInteger, Identity(always=True), nullable=False, unique=True),
    Column("credits", BigInteger, nullable=False),
    Column("price", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("is_rate", Boolean, nullable=False, server_default="false"),
    Column("minimum_price", BigInteger, nullable=False),
    Column("is_active", Boolean, nullable=False, server_default="true"),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    CheckConstraint("credits BETWEEN 1 AND 9007199254740991", name="offers_credits_in_range"),
    CheckConstraint("price BETWEEN 1 AND 99999999", name="offers_price_in_range"),
    CheckConstraint("minimum_price BETWEEN 1 AND 99999999", name="offers_minimum_in_range"),
)
"""The price list. `price` is in the smallest unit of the currency, before tax.

A rate (`is_rate`) sells any number of credits in proportion, rounded up to the smallest unit.
"""

orders: Final = Table(
    "orders",
    metadata,
    Column("id", Text, primary_key=True),
    Column("account", Text, ForeignKey("accounts.account"), nullable=False),
    Column("purpose", Text, nullable=False),
    Column("offer", Text, nullable=False),
    Column("credits", BigInteger, nullable=False),
    Column("price", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("checkout_session", Text),
    Column("created_ms", BigInteger, nullable=False),
    CheckConstraint("purpose IN ('checkout', 'auto_top_up')", name="orders_purpose_known"),
    CheckConstraint("credits BETWEEN 1 AND 9007199254740991", name="orders_credits_in_range"),
    CheckConstraint("price > 0", name="orders_price_positive"),
    Index("orders_account", "account", "created_ms"),
)
"""What we offered to sell, fixed when it was made: a payment is worth what its order says."""

stripe_charges: Final = Table(
    "stripe_charges",
    metadata,
    Column("charge", Text, primary_key=True),
    Column("payment_intent", Text),
    Column("balance_transaction", Text),
    Column("fee", BigInteger),
    Column("fee_currency", Text),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Index("stripe_charges_payment", "payment_intent"),
)
"""What is known of charges: which payment they belong to, and what Stripe kept of them."""

stripe_refunds: Final = Table(
    "stripe_refunds",
    metadata,
    Column("refund", Text, primary_key=True),
    Column("payment_intent", Text),
    Column("charge", Text),
    Column("amount", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    CheckConstraint("amount > 0", name="stripe_refunds_amount_positive"),
    CheckConstraint(
        "status IN ('pending', 'requires_action', 'succeeded', 'failed', 'canceled')",
        name="stripe_refunds_status_known",
    ),
    Index("stripe_refunds_payment", "payment_intent"),
    Index("stripe_refunds_charge", "charge"),
)
"""One row a refund; `amount` in the smallest unit of the currency."""

stripe_disputes: Final = Table(
    "stripe_disputes",
    metadata,
    Column("dispute", Text, primary_key=True),
    Column("payment_intent", Text),
    Column("charge", Text),
    Column("amount", BigInteger, nullable=False),
    Column("currency", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("reason", Text),
    Column("is_withdrawn", Boolean, nullable=False),
    Column("is_forgiven", Boolean, nullable=False, server_default="false"),
    Column("created_ms", BigInteger, nullable=False),
    Column("fetched_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Index("stripe_disputes_payment", "payment_intent"),
    Index("stripe_disputes_charge", "charge"),
)
"""One row a dispute, as it was when it was last fetched (`fetched_ms`, by the worker).

`is_withdrawn`: the bank has the money. `is_forgiven`: an operator lets the account spend again.
"""

stripe_fraud_warnings: Final = Table(
    "stripe_fraud_warnings",
    metadata,
    Column("warning", Text, primary_key=True),
    Column("payment_intent", Text),
    Column("charge", Text),
    Column("is_actionable", Boolean, nullable=False),
    Column("fraud_type", Text),
    Column("created_ms", BigInteger, nullable=False),
    Index("stripe_fraud_warnings_payment", "payment_intent"),
)
"""Early fraud warnings: they mark a payment, and stop auto top-up."""
