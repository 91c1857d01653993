"""What a network can do to connections."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

Address = tuple[str, int]


class Kind(Enum):
    """What happens to what comes through."""

    PASS = auto()
    DROP_REPLIES = auto()
    """Requests arrive and are carried out; the replies vanish."""
    CUT_REPLIES = auto()
    """Requests arrive and are carried out; instead of the reply comes a reset."""
    RESET = auto()
    """Every connection is reset, and every new one too."""
    STALL = auto()
    """Nothing moves, in either direction, until the fault is over."""
    HALF_OPEN = auto()
    """Connections seem open, and everything that is written to them vanishes."""
    DELAY = auto()
    """Everything arrives later."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of failure; `share` of the replies are hit by it where it can choose."""

    kind: Kind = Kind.PASS
    share: float = 1.0
    delay_seconds: float = 0.0

    @property
    def is_silent(self) -> bool:
        """Whether one side does not learn that the other has closed."""
        return self.kind in (Kind.STALL, Kind.HALF_OPEN)


PASS: Final = Fault()
DROP_REPLIES: Final = Fault(Kind.DROP_REPLIES)
CUT_REPLIES: Final = Fault(Kind.CUT_REPLIES)
RESET: Final = Fault(Kind.RESET)
STALL: Final = Fault(Kind.STALL)
HALF_OPEN: Final = Fault(Kind.HALF_OPEN)
