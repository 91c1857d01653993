"""What the clients do: the life of a hold, debits and refunds, mixed by chance."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.faults.client import Client, GaveUp, Refused
from tests.faults.history import Attempt

_LEAST, _MOST = 1, 2_000
_THINK_SECONDS: Final = 0.03
_BETWEEN_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Account:
    """An account under load. `granted` at first, and `more` before each further cycle.

    `allowance`: what it may use without Redis; `overdraft`: how far below zero it may go; `only`:
    the one client that uses it. Amounts are microcredits.
    """

    name: str
    granted: int
    more: int = 0
    allowance: int = 0
    overdraft: int = 0
    only: int | None = None


class Flows:
    """One client's work, one flow after the other."""

    def __init__(
        self,
        client: Client,
        accounts: Sequence[Account],
        home: int,
        chance: random.Random,
        plain_ids: float = 0.0,
    ) -> None:
        self._client = client
        self._accounts = accounts
        self._home = home
        self._chance = chance
        self._plain_ids = plain_ids
        self._mix: list[tuple[Callable[[Account], Awaitable[None]], int]] = [
            (self._hold_and_settle, 8),
            (self._debit, 5),
            (self._stream, 3),
            (self._release, 3),
            (self._above, 1),
            (self._refund, 3),
        ]

    async def one(self) -> None:
        """Do one of them, on one of the accounts, and pause."""
        flows, weights = zip(*self._mix, strict=True)
        (flow,) = self._chance.choices(flows, weights)
        # That is in the history; whether it may be so is for the checks to say.
        with contextlib.suppress(GaveUp, Refused):
            await flow(self._chance.choice(self._accounts))
        await self._client.pause(self._chance.uniform(0, 2 * _BETWEEN_SECONDS))

    # Flows -----------------------------------------------------------------------------------

    async def _hold_and_settle(self, account: Account) -> None:
        hold, home = await self._hold(account)
        await self._think()
        amount = self._chance.randint(0 if self._chance.random() < 0.05 else 1, hold["amount"])
        await self._settle(account, hold["id"], amount, home)

    async def _debit(self, account: Account) -> None:
        await self._ask("debit", self._body(account, amount=self._amount()))

    async def _stream(self, account: Account) -> None:
        hold, home = await self._hold(account)
        steps = sorted({self._chance.randint(1, hold["amount"]) for _ in range(2)})
        for total in steps:
            await self._settle(account, hold["id"], total, home, is_final=False)
            await self._think()
        total = self._chance.randint(steps[-1], hold["amount"])
        await self._settle(account, hold["id"], total, home)

    async def _release(self, account: Account) -> None:
        hold, home = await self._hold(account)
        if self._chance.random() < 0.3:
            await self._extend(account, hold, home)
        await self._think()
        await self._ask("release", {"account": account.name, "id": hold["id"]}, home)

    async def _above(self, account: Account) -> None:
        hold, home = await self._hold(account)
        amount = hold["amount"] + self._chance.randint(1, 50)
        await self._settle(account, hold["id"], amount, home)

    async def _refund(self, account: Account) -> None:
        charge = self._body(account, amount=self._amount())
        # One that was granted without Redis is known, for a while, to that sidecar alone.
        home = (await self._ask("debit", charge)).sidecar
        await self._think()
        part = self._chance.randint(1, charge["amount"])
        await self._ask("refund", self._body(account, of=charge["id"], amount=part), home)

    # Steps -----------------------------------------------------------------------------------

    async def _hold(self, account: Account) -> tuple[dict[str, Any], int]:
        """Make a hold; return its answer, and the sidecar that gave it."""
        answer = await self._ask("hold", self._body(account, amount=self._amount()))
        return answer.fields, answer.sidecar

    async def _extend(self, account: Account, hold: dict[str, Any], home: int) -> None:
        more = hold["amount"] + self._amount()
        body = {"account": account.name, "id": hold["id"], "amount": more}
        try:
            await self._ask("extend", body, home)
        except Refused:
            # The hold goes on as it was.
            return

    async def _settle(
        self, account: Account, id: str, amount: int, home: int, *, is_final: bool = True
    ) -> None:
        body = {"account": account.name, "id": id, "amount": amount, "final": is_final}
        await self._ask("settle", body, home)

    async def _ask(self, operation: str, body: dict[str, Any], home: int | None = None) -> Attempt:
        return await self._client.call(operation, body, self._home if home is None else home)

    async def _think(self) -> None:
        await self._client.pause(self._chance.uniform(0, 2 * _THINK_SECONDS))

    def _body(self, account: Account, **fields: Any) -> dict[str, Any]:
        is_plain = self._chance.random() < self._plain_ids
        id = f"call-{self._chance.getrandbits(48)}" if is_plain else new_id(self._chance)
        return {"account": account.name, "id": id, **fields}

    def _amount(self) -> int:
        return self._chance.randint(_LEAST, _MOST)


def new_id(chance: random.Random) -> str:
    """Return a UUIDv7: with one, a call is done once also across a loss of Redis."""
    digits = f"{time.time_ns() // 1_000_000:012x}7{chance.getrandbits(12):03x}"
    rest = f"{0x8000 | chance.getrandbits(14):04x}{chance.getrandbits(48):012x}"
    text = digits + rest
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
