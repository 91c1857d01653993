"""Fixtures of the tests of the scripts."""

from __future__ import annotations

import pytest
import redis

from tests.lua.support import Account


@pytest.fixture
def account(redis_client: redis.Redis) -> Account:
    """An account of which Redis has nothing yet."""
    return Account(redis_client)
