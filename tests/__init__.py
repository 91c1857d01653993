"""The tests: real Redis, real Postgres, no stand-ins."""

from __future__ import annotations
