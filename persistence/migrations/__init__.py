"""Alembic's environment of the ledger's schema."""
