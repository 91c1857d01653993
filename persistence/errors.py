"""What the ledger refuses, and what it cannot do."""

from __future__ import annotations

from sidecar.errors import CreditsError, ErrorCode, Refusal
from sidecar.nodes import NodeChanged


class AccountUnknown(Refusal):
    """Raised when the ledger has no account of this name."""

    def __init__(self, account: str) -> None:
        super().__init__(ErrorCode.ACCOUNT_NOT_FOUND, f"There is no account {account}.")


class GrantConflict(Refusal):
    """Raised when the id of a grant or adjustment is taken by one with other contents."""

    def __init__(self, account: str, id: str) -> None:
        super().__init__(
            ErrorCode.ID_CONFLICT,
            f"The id {id} was used in account {account} with other contents.",
            param="id",
        )


class TotalExceeded(Refusal):
    """Raised when an account's credits would pass 2^53-1, above or below zero."""

    def __init__(self, account: str) -> None:
        super().__init__(
            ErrorCode.INVALID_REQUEST,
            f"The credits of account {account} may not pass 2^53-1 microcredits.",
            param="amount",
        )


class ShardBusy(CreditsError):
    """Raised when another worker flushes this shard; its turn comes again."""


class RedisMismatch(CreditsError):
    """Raised when Redis carries the state of another ledger than the one that was opened."""


class RedisChanged(CreditsError, NodeChanged):
    """Raised when the Redis that answers is not the one that the ledger lent to.

    Nothing was done. The opener sees to it; what was tried is tried again when it has.
    """


class SidecarAlive(CreditsError):
    """Raised when a sidecar that is to be declared dead gives signs of life."""


class SidecarUnknown(CreditsError):
    """Raised when the ledger knows no sidecar of this id that is not gone already."""


class BadEvent(CreditsError):
    """Raised when an entry of a usage stream is not an event that the ledger can take."""
