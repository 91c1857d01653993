"""The SQL of revision 0004. Never edited once it is released: later changes are new revisions."""

from __future__ import annotations

from typing import Final

_ACCOUNTS: Final = (
    # What operators decided, apart from what is derived of it and of payments.
    "ALTER TABLE accounts ADD operator_status text NOT NULL DEFAULT 'active'"
    " CONSTRAINT accounts_operator_status_known"
    " CHECK (operator_status IN ('active', 'suspended', 'closed')),"
    " ADD operator_reason text, ADD top_up_threshold bigint",
    "UPDATE accounts SET operator_status = status, operator_reason = status_reason"
    " WHERE status IN ('suspended', 'closed')",
)

_GRANTS: Final = (
    "ALTER TABLE grants ADD rolled_group text, ADD rolled_keep bigint"
    " CONSTRAINT grants_rolled_keep_not_negative CHECK (rolled_keep >= 0)",
    "DROP TRIGGER grants_fixed ON grants",
    "CREATE TRIGGER grants_fixed BEFORE UPDATE OF grant_no, account, id, amount, category,"
    " priority, reference, transfer, created_ms ON grants"
    " FOR EACH ROW EXECUTE FUNCTION credits_refuse_change()",
    "GRANT UPDATE (expires_at_ms, rolled_group, rolled_keep) ON grants TO CURRENT_USER",
    "CREATE INDEX grants_reference ON grants (reference)",
)

_KINDS: Final = (
    "ALTER TABLE transfers DROP CONSTRAINT transfers_kind_known",
    "ALTER TABLE transfers ADD CONSTRAINT transfers_kind_known CHECK (kind IN ("
    "'grant', 'adjustment', 'clawback', 'lend', 'usage', 'refund', 'expire', 'return',"
    " 'suspense', 'residue'))",
    "CREATE INDEX transfers_clawback ON transfers (reference) WHERE kind = 'clawback'",
    "ALTER TABLE refills DROP CONSTRAINT refills_kind_known",
    "ALTER TABLE refills ADD CONSTRAINT refills_kind_known"
    " CHECK (kind IN ('open', 'grant', 'take', 'status', 'restore', 'roll'))",
)

_EVENTS: Final = (
    "ALTER TABLE stripe_events ADD source text NOT NULL DEFAULT 'webhook'"
    " CONSTRAINT stripe_events_source_known CHECK (source IN ('webhook', 'reconciler')),"
    " ADD blanked_ms bigint",
    "CREATE INDEX stripe_events_kept ON stripe_events (received_ms) WHERE blanked_ms IS NULL",
)

_OFFERS: Final = """
CREATE TABLE offers (
    id text PRIMARY KEY,
    no bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    credits bigint NOT NULL
        CONSTRAINT offers_credits_in_range CHECK (credits BETWEEN 1 AND 9007199254740991),
    price bigint NOT NULL CONSTRAINT offers_price_in_range CHECK (price BETWEEN 1 AND 99999999),
    currency text NOT NULL,
    is_rate boolean NOT NULL DEFAULT false,
    minimum_price bigint NOT NULL
        CONSTRAINT offers_minimum_in_range CHECK (minimum_price BETWEEN 1 AND 99999999),
    is_active boolean NOT NULL DEFAULT true,
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL
)
"""

_ORDERS: Final = """
CREATE TABLE orders (
    id text PRIMARY KEY,
    account text NOT NULL REFERENCES accounts,
    purpose text NOT NULL
        CONSTRAINT orders_purpose_known CHECK (purpose IN ('checkout', 'auto_top_up')),
    offer text NOT NULL,
    credits bigint NOT NULL
        CONSTRAINT orders_credits_in_range CHECK (credits BETWEEN 1 AND 9007199254740991),
    price bigint NOT NULL CONSTRAINT orders_price_positive CHECK (price > 0),
    currency text NOT NULL,
    checkout_session text,
    created_ms bigint NOT NULL
)
"""

_ORDER_GUARDS: Final = (
    # What was offered stays so: a payment is worth what its order says.
    "CREATE TRIGGER orders_fixed BEFORE UPDATE OF id, account, purpose, offer, credits, price,"
    " currency, created_ms ON orders FOR EACH ROW EXECUTE FUNCTION credits_refuse_change()",
    "CREATE TRIGGER orders_no_delete BEFORE DELETE ON orders"
    " FOR EACH ROW EXECUTE FUNCTION credits_refuse_change()",
)

_PAYMENTS: Final = (
    "ALTER TABLE stripe_payments ADD order_id text REFERENCES orders, ADD customer text,"
    " ADD charge text, ADD amount bigint, ADD fee bigint, ADD fee_currency text,"
    " ADD clawed_back bigint NOT NULL DEFAULT 0, ADD postings integer NOT NULL DEFAULT 0",
    "ALTER TABLE stripe_payments ADD CONSTRAINT stripe_payments_clawed_back_in_range"
    " CHECK (clawed_back BETWEEN 0 AND granted)",
    "CREATE INDEX stripe_payments_charge ON stripe_payments (charge)",
    "CREATE UNIQUE INDEX stripe_payments_order ON stripe_payments (order_id)",
)

_CHARGES: Final = """
CREATE TABLE stripe_charges (
    charge text PRIMARY KEY,
    payment_intent text,
    balance_transaction text,
    fee bigint,
    fee_currency text,
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL
)
"""

_REFUNDS: Final = """
CREATE TABLE stripe_refunds (
    refund text PRIMARY KEY,
    payment_intent text,
    charge text,
    amount bigint NOT NULL CONSTRAINT stripe_refunds_amount_positive CHECK (amount > 0),
    currency text NOT NULL,
    status text NOT NULL CONSTRAINT stripe_refunds_status_known
        CHECK (status IN ('pending', 'requires_action', 'succeeded', 'failed', 'canceled')),
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL
)
"""

_DISPUTES: Final = """
CREATE TABLE stripe_disputes (
    dispute text PRIMARY KEY,
    payment_intent text,
    charge text,
    amount bigint NOT NULL,
    currency text NOT NULL,
    status text NOT NULL,
    reason text,
    is_withdrawn boolean NOT NULL,
    is_forgiven boolean NOT NULL DEFAULT false,
    created_ms bigint NOT NULL,
    fetched_ms bigint NOT NULL,
    updated_ms bigint NOT NULL
)
"""

_WARNINGS: Final = """
CREATE TABLE stripe_fraud_warnings (
    warning text PRIMARY KEY,
    payment_intent text,
    charge text,
    is_actionable boolean NOT NULL,
    fraud_type text,
    created_ms bigint NOT NULL
)
"""

_PLANS: Final = """
CREATE TABLE plans (
    stripe_price text PRIMARY KEY,
    no bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    allowance bigint NOT NULL
        CONSTRAINT plans_allowance_in_range CHECK (allowance BETWEEN 1 AND 9007199254740991),
    grace_days integer NOT NULL DEFAULT 3
        CONSTRAINT plans_grace_in_range CHECK (grace_days BETWEEN 0 AND 365),
    rollover_cap bigint NOT NULL DEFAULT 0
        CONSTRAINT plans_rollover_in_range CHECK (rollover_cap BETWEEN 0 AND 9007199254740991),
    upgrade_allowance text NOT NULL DEFAULT 'prorated'
        CONSTRAINT plans_upgrade_known CHECK (upgrade_allowance IN ('prorated', 'full')),
    allowance_interval text NOT NULL DEFAULT 'period'
        CONSTRAINT plans_interval_known CHECK (allowance_interval IN ('period', 'month')),
    trial_allowance bigint NOT NULL DEFAULT 0
        CONSTRAINT plans_trial_in_range CHECK (trial_allowance BETWEEN 0 AND 9007199254740991),
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL
)
"""

_SUBSCRIPTIONS: Final = """
CREATE TABLE stripe_subscriptions (
    subscription text PRIMARY KEY,
    account text,
    customer text NOT NULL,
    status text NOT NULL,
    items jsonb NOT NULL,
    state text NOT NULL CONSTRAINT stripe_subscriptions_state_known
        CHECK (state IN ('active', 'grace', 'suspended', 'ended')),
    grace_until_ms bigint,
    is_ending boolean NOT NULL,
    trial_starts_ms bigint,
    trial_ends_ms bigint,
    has_run boolean NOT NULL DEFAULT false,
    changes integer NOT NULL DEFAULT 0,
    fetched_ms bigint NOT NULL,
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL
)
"""

_INVOICES: Final = """
CREATE TABLE stripe_invoices (
    invoice text PRIMARY KEY,
    subscription text,
    customer text,
    account text,
    status text NOT NULL,
    billing_reason text,
    is_paid boolean NOT NULL,
    amount_paid bigint NOT NULL,
    currency text NOT NULL,
    lines jsonb NOT NULL,
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL
)
"""

_ALLOWANCES: Final = """
CREATE TABLE allowances (
    subscription_item text NOT NULL,
    starts_ms bigint NOT NULL,
    account text NOT NULL REFERENCES accounts,
    subscription text NOT NULL,
    stripe_price text NOT NULL,
    quantity bigint NOT NULL,
    ends_ms bigint NOT NULL,
    expires_ms bigint NOT NULL,
    due_ms bigint NOT NULL,
    rollover_cap bigint NOT NULL,
    target bigint NOT NULL CONSTRAINT allowances_target_in_range
        CHECK (target BETWEEN 0 AND 9007199254740991),
    granted bigint NOT NULL DEFAULT 0,
    postings integer NOT NULL DEFAULT 0,
    is_trial boolean NOT NULL DEFAULT false,
    ended_ms bigint,
    invoice text NOT NULL,
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL,
    PRIMARY KEY (subscription_item, starts_ms),
    CONSTRAINT allowances_granted_in_range CHECK (granted BETWEEN 0 AND target),
    CONSTRAINT allowances_period_not_empty CHECK (starts_ms < ends_ms)
)
"""

_AUTO_TOP_UPS: Final = """
CREATE TABLE auto_top_ups (
    account text PRIMARY KEY REFERENCES accounts,
    is_enabled boolean NOT NULL,
    threshold bigint NOT NULL
        CONSTRAINT auto_top_ups_threshold_in_range CHECK (threshold BETWEEN 1 AND 9007199254740991),
    amount bigint NOT NULL
        CONSTRAINT auto_top_ups_amount_in_range CHECK (amount BETWEEN 1 AND 9007199254740991),
    monthly_cap bigint
        CONSTRAINT auto_top_ups_cap_in_range CHECK (monthly_cap BETWEEN 1 AND 9007199254740991),
    paused_reason text,
    paused_ms bigint,
    resumed_ms bigint NOT NULL DEFAULT 0,
    declines integer NOT NULL DEFAULT 0,
    failures integer NOT NULL DEFAULT 0,
    next_ms bigint NOT NULL DEFAULT 0,
    due_ms bigint,
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL
)
"""

_ATTEMPTS: Final = """
CREATE TABLE auto_top_up_attempts (
    id text PRIMARY KEY,
    account text NOT NULL REFERENCES accounts,
    order_id text NOT NULL REFERENCES orders,
    status text NOT NULL CONSTRAINT auto_top_up_attempts_status_known CHECK (status IN (
        'pending', 'unknown', 'charged', 'succeeded', 'declined', 'failed', 'canceled')),
    parameters text NOT NULL,
    tries integer NOT NULL DEFAULT 0,
    payment_intent text,
    error text,
    first_try_ms bigint,
    due_ms bigint NOT NULL,
    created_ms bigint NOT NULL,
    updated_ms bigint NOT NULL
)
"""

_WATCHED: Final = """
CREATE TABLE watched_accounts (
    account text PRIMARY KEY REFERENCES accounts,
    rung_ms bigint NOT NULL,
    due_ms bigint NOT NULL,
    is_low_told boolean NOT NULL DEFAULT false,
    is_exhausted_told boolean NOT NULL DEFAULT false,
    exhausted_ms bigint
)
"""

_ALERTS: Final = """
CREATE TABLE alerts (
    id text PRIMARY KEY,
    no bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    kind text NOT NULL,
    account text,
    key text NOT NULL UNIQUE,
    data jsonb NOT NULL,
    status text NOT NULL DEFAULT 'pending'
        CONSTRAINT alerts_status_known CHECK (status IN ('pending', 'delivered', 'dead')),
    attempts integer NOT NULL DEFAULT 0,
    due_ms bigint NOT NULL,
    delivered_ms bigint,
    answer integer,
    error text,
    created_ms bigint NOT NULL
)
"""

_RECONCILER: Final = """
CREATE TABLE reconciler_runs (
    name text PRIMARY KEY,
    reached_ms bigint NOT NULL,
    succeeded_ms bigint NOT NULL,
    seen bigint NOT NULL,
    found bigint NOT NULL
)
"""

_INDEXES: Final = (
    "CREATE INDEX orders_account ON orders (account, created_ms)",
    "CREATE INDEX stripe_charges_payment ON stripe_charges (payment_intent)",
    "CREATE INDEX stripe_refunds_payment ON stripe_refunds (payment_intent)",
    "CREATE INDEX stripe_refunds_charge ON stripe_refunds (charge)",
    "CREATE INDEX stripe_disputes_payment ON stripe_disputes (payment_intent)",
    "CREATE INDEX stripe_disputes_charge ON stripe_disputes (charge)",
    "CREATE INDEX stripe_fraud_warnings_payment ON stripe_fraud_warnings (payment_intent)",
    "CREATE INDEX stripe_subscriptions_account ON stripe_subscriptions (account)",
    "CREATE INDEX stripe_subscriptions_grace ON stripe_subscriptions (grace_until_ms)"
    " WHERE state = 'grace'",
    "CREATE INDEX stripe_invoices_subscription ON stripe_invoices (subscription)",
    "CREATE INDEX allowances_account ON allowances (account, starts_ms)",
    "CREATE INDEX allowances_subscription ON allowances (subscription)",
    "CREATE INDEX allowances_due ON allowances (due_ms)"
    " WHERE granted < target AND ended_ms IS NULL",
    "CREATE INDEX auto_top_ups_due ON auto_top_ups (due_ms) WHERE due_ms IS NOT NULL",
    "CREATE UNIQUE INDEX auto_top_up_attempts_one_in_flight ON auto_top_up_attempts (account)"
    " WHERE status IN ('pending', 'unknown', 'charged')",
    "CREATE INDEX auto_top_up_attempts_due ON auto_top_up_attempts (due_ms)"
    " WHERE status IN ('pending', 'unknown', 'charged')",
    "CREATE INDEX auto_top_up_attempts_account ON auto_top_up_attempts (account, created_ms)",
    "CREATE UNIQUE INDEX auto_top_up_attempts_order ON auto_top_up_attempts (order_id)",
    "CREATE INDEX watched_accounts_due ON watched_accounts (due_ms)",
    "CREATE INDEX alerts_due ON alerts (due_ms) WHERE status = 'pending'",
    "CREATE INDEX alerts_account ON alerts (account, no)",
)

CREATE: Final[tuple[str, ...]] = (
    *_ACCOUNTS,
    *_GRANTS,
    *_KINDS,
    *_EVENTS,
    _OFFERS,
    _ORDERS,
    *_ORDER_GUARDS,
    *_PAYMENTS,
    _CHARGES,
    _REFUNDS,
    _DISPUTES,
    _WARNINGS,
    _PLANS,
    _SUBSCRIPTIONS,
    _INVOICES,
    _ALLOWANCES,
    _AUTO_TOP_UPS,
    _ATTEMPTS,
    _WATCHED,
    _ALERTS,
    _RECONCILER,
    *_INDEXES,
)
