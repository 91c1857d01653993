"""A worker: which Redis it talks to, and its jobs as steps, one mixin for each file of them."""

from __future__ import annotations

from tests.simulation.asks import Asks
from tests.simulation.flush import Flush
from tests.simulation.opener import Opener
from tests.simulation.registry import Registry


class Worker(Opener, Registry, Asks, Flush):
    """All jobs of one worker."""
