"""What the jobs of a worker share."""

from __future__ import annotations

from tests.simulation.ledger import Ledger
from tests.simulation.redis_state import Server
from tests.simulation.rules import Rules
from tests.simulation.values import Steps
from tests.simulation.world import World


class Jobs:
    """Its name, the Redis it is connected to, and the present ledger."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.asleep_until = 0
        self.start()

    def start(self) -> None:
        """Begin as a new process."""
        self.is_up = True
        self.server = self.world.primary

    @property
    def ledger(self) -> Ledger:
        """The Postgres that answers now. A transaction belongs to the one it began on."""
        return self.world.ledger

    @property
    def rules(self) -> Rules:
        """The rules of this history."""
        return self.world.rules

    def master(self) -> Server | None:
        """The connected Redis, when it answers and is no replica."""
        server = self.server
        return server if server.is_up and server.is_master else None

    def suspect(self, shard: int, epoch: int, cause: str) -> Steps:
        """Make a shard suspect, when nobody has its row: `persistence.recovery.suspect`."""
        while self.ledger.shards[shard].is_locked:
            yield
        self.ledger.shards[shard].suspect(epoch, cause)
        self.world.note("worker: suspect", f"shard {shard} epoch {epoch}: {cause}")
