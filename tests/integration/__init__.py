"""Roles, Redis, Postgres and HTTP together."""

from __future__ import annotations
