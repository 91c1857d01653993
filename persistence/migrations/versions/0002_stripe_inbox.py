"""The Stripe inbox, the facts of payments, and the log of control actions."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision: Final = "0002"
down_revision: Final = "0001"
branch_labels: Final = None
depends_on: Final = None


def upgrade() -> None:
    """Create the three tables."""
    _create_stripe_events()
    _create_stripe_payments()
    _create_control_actions()


def downgrade() -> None:
    """Drop them again."""
    op.drop_table("control_actions")
    op.drop_table("stripe_payments")
    op.drop_table("stripe_events")
    op.execute("DROP FUNCTION refuse_change_of_control_actions()")


def _create_stripe_events() -> None:
    op.create_table(
        "stripe_events",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("no", sa.BigInteger, sa.Identity(always=True), nullable=False, unique=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("object_id", sa.Text),
        sa.Column("livemode", sa.Boolean, nullable=False),
        sa.Column("api_version", sa.Text),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.Text),
        sa.Column("status", sa.Text, nullable=False, server_default="pending"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("error", sa.Text),
        sa.Column("due_ms", sa.BigInteger, nullable=False),
        sa.Column("waits_for_account", sa.Text),
        sa.Column("finished_ms", sa.BigInteger),
        sa.CheckConstraint(
            "status IN ('pending', 'applied', 'ignored', 'failed', 'dead')",
            name="stripe_events_status_known",
        ),
        sa.CheckConstraint("attempts >= 0", name="stripe_events_attempts_not_negative"),
    )
    op.create_index(
        "stripe_events_due",
        "stripe_events",
        ["due_ms"],
        postgresql_where=sa.text("status IN ('pending', 'failed')"),
    )
    op.create_index("stripe_events_status", "stripe_events", ["status"])


def _create_stripe_payments() -> None:
    op.create_table(
        "stripe_payments",
        sa.Column("payment_intent", sa.Text, primary_key=True),
        sa.Column("account", sa.Text, nullable=False),
        sa.Column("credits", sa.BigInteger, nullable=False),
        sa.Column("is_paid", sa.Boolean, nullable=False),
        sa.Column("paid_minor_units", sa.BigInteger),
        sa.Column("currency", sa.Text),
        sa.Column("checkout_session", sa.Text),
        sa.Column("livemode", sa.Boolean, nullable=False),
        sa.Column("granted", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("updated_ms", sa.BigInteger, nullable=False),
        sa.CheckConstraint(
            "credits BETWEEN 1 AND 9007199254740991", name="stripe_payments_credits_in_range"
        ),
        sa.CheckConstraint(
            "granted BETWEEN 0 AND credits", name="stripe_payments_granted_in_range"
        ),
    )
    op.create_index("stripe_payments_account", "stripe_payments", ["account"])


def _create_control_actions() -> None:
    op.create_table(
        "control_actions",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("at_ms", sa.BigInteger, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("account", sa.Text),
        sa.Column("body", JSONB, nullable=False),
        sa.Column("remote", sa.Text),
    )
    op.create_index("control_actions_account", "control_actions", ["account", "id"])
    op.execute(
        """
        CREATE FUNCTION refuse_change_of_control_actions() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'control_actions is append-only' USING ERRCODE = 'restrict_violation';
        END $$
        """
    )
    op.execute(
        """
        CREATE TRIGGER control_actions_append_only
        BEFORE UPDATE OR DELETE OR TRUNCATE ON control_actions
        FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_control_actions()
        """
    )
