"""Postgres: the ledger, what moves credits between it and Redis, and what checks both."""
