"""The key space in Redis: every key that any script or role uses is made here.

The hash tag `{sNNN}` of a shard is in all keys of its accounts and of its usage stream, so one
script updates them together, on one Redis or on a cluster. What belongs to no shard has the tag
`{credits}`. `lua/README.md` says what each holds.
"""

from __future__ import annotations

import zlib
from typing import Final

SHARDS: Final = 64
"""Shards of a new ledger. Fixed when the ledger is made; read it from there afterwards."""

META: Final = "{credits}:meta"
"""Hash, written by a worker: `shards`, `ledger` (its UUID), `timeline` (of its Postgres)."""

ASK: Final = "{credits}:ask"
"""List of `<channel> <account>`: accounts that a sidecar does not find in Redis."""

SIDECARS: Final = "{credits}:sidecars"
"""Hash: id of a sidecar -> its last sign of life, as JSON."""

REGISTERED: Final = "{credits}:registered"
"""Hash, written by workers: id of a sidecar -> its `confirmation`."""

ANSWER_CHANNEL_PREFIX: Final = "credits:answer:"
"""Pub/sub channel of one sidecar, with answers: `<account> loaded|unknown|closing|lost`."""


def confirmation(boot: str, run_id: str, replid: str) -> str:
    """Return what says that Postgres knows a boot of a sidecar, and that this Redis was told.

    Another process that has it, from an old file or as a replica, was told nothing: the sidecar
    may have been let go since.
    """
    return f"{boot} {run_id} {replid}"


def shard_of(account: str, shards: int) -> int:
    """Return the shard of an account: CRC-32 of its name modulo the number of shards."""
    return zlib.crc32(account.encode()) % shards


def tag(shard: int) -> str:
    """Return the hash tag of a shard."""
    return f"{{s{shard:03d}}}"


def fence(shard: int) -> str:
    """Hash: `epoch`, `run_id`, `replid` of the Redis that may decide for the shard; `draining`."""
    return f"{tag(shard)}:fence"


def sweep(shard: int) -> str:
    """Sorted set: account by the instant (ms) when something of it expires next."""
    return f"{tag(shard)}:x"


def stream(shard: int, epoch: int) -> str:
    """Stream of usage events, one packed field `e`."""
    return f"{tag(shard)}:u:{epoch}"


def cursor(shard: int) -> str:
    """String `<epoch> <stream id>`: the last that the ledger has committed."""
    return f"{tag(shard)}:cursor"


def account_keys(account: str, shard: int, epoch: int) -> tuple[str, ...]:
    """Return the KEYS of every account script, in the order that `lua/prelude.lua` names."""
    t = tag(shard)
    return (
        f"{t}:a:{account}",
        f"{t}:g:{account}",
        f"{t}:o:{account}",
        f"{t}:h:{account}",
        f"{t}:x:{account}",
        f"{t}:x",
        f"{t}:i:{account}:0",
        f"{t}:i:{account}:1",
        f"{t}:u:{epoch}",
    )
