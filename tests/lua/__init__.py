"""Each script against a real Redis: its conformance table, and its header against its code."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.lua.consistent", "tests.lua.support", "tests.lua.table")
