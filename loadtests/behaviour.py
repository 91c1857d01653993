"""What one inference server does with the sidecar: the flows that scenarios mix."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any, Final

from loadtests.caller import Broken, Caller, GaveUp
from loadtests.scenarios import Scenario

MODEL: Final = "openai/gpt-4o-mini"

_SHORT_TTL_MS: Final = 1_000  # the least that the contract allows
_PAST_TTL_SECONDS: Final = 1.3
_BROKE: Final = "insufficient_credits"


class InferenceServer:
    """Serves made-up inference calls, one flow after the other, for the accounts it is given."""

    def __init__(
        self,
        caller: Caller,
        scenario: Scenario,
        accounts: list[str],
        sleep: Callable[[float], None],
    ) -> None:
        self._caller = caller
        self._scenario = scenario
        self._accounts = accounts
        self._sleep = sleep
        self._flows = {name: getattr(self, f"_{name}") for name in scenario.mix}
        self._account = accounts[0]

    def serve_one(self) -> None:
        """Run one flow of the mix on one of the accounts."""
        names = list(self._scenario.mix)
        (name,) = random.choices(names, list(self._scenario.mix.values()))
        self._account = random.choice(self._accounts)
        try:
            self._flows[name]()
        except (GaveUp, Broken):
            # On record; a server goes on with its next request.
            return

    # Flows ------------------------------------------------------------------------------------

    def _call(self) -> None:
        hold = self._hold(self._amount())
        if hold is None:
            return
        self._think()
        self._settle(hold, random.randint(1, hold["amount"]))

    def _debit(self) -> None:
        self._ask("debit", self._body(amount=self._amount()), "debited", _BROKE)

    def _priced(self) -> None:
        tokens = random.randint(200, 4_000)
        usage = {"model": MODEL, "input_tokens": tokens, "max_output_tokens": 4_000}
        body = self._body(usage=usage, scopes={"user": "u1"}, metadata={"run": "load"})
        if self._ask("hold", body, "held", _BROKE) == _BROKE:
            return
        self._think()
        used = {"model": MODEL, "input_tokens": tokens, "output_tokens": random.randint(1, 4_000)}
        settle = {"account": self._account, "id": body["id"], "usage": used}
        self._ask("settle", settle, "settled")

    def _stream(self) -> None:
        hold = self._hold(self._amount())
        if hold is None:
            return
        steps = sorted(random.randint(0, hold["amount"]) for _ in range(3))
        for total in steps:
            self._settle(hold, total, is_final=False)
            self._think()
        if random.random() < 0.5:
            more = {"account": self._account, "id": hold["id"], "amount": hold["amount"] + 1_000}
            self._ask("extend", more, "held", _BROKE)
        self._settle(hold, steps[-1])

    def _abort(self) -> None:
        hold = self._hold(self._amount())
        if hold is None:
            return
        if random.random() < 0.3:
            self._settle(hold, random.randint(1, hold["amount"]), is_final=False)
        release = {"account": self._account, "id": hold["id"]}
        self._ask("release", release, "released")
        if random.random() < 0.3:
            self._ask("settle", release | {"amount": hold["amount"]}, "hold_released")

    def _above(self) -> None:
        hold = self._hold(self._amount())
        if hold is None:
            return
        self._settle(hold, hold["amount"] + random.randint(1, hold["amount"]))
        if random.random() < 0.3:
            again = {"account": self._account, "id": hold["id"], "amount": 3 * hold["amount"]}
            self._ask("settle", again, "hold_settled")

    def _refund(self) -> None:
        charge = self._body(amount=self._amount())
        if self._ask("debit", charge, "debited", _BROKE) == _BROKE:
            return
        part = random.randint(1, charge["amount"])
        self._ask("refund", self._body(of=charge["id"], amount=part), "refunded")
        rest = self._body(of=charge["id"])
        if part < charge["amount"]:
            self._ask("refund", rest, "refunded")
        again = self._body(of=charge["id"], amount=1)
        self._ask("refund", again, "refund_exceeds_charge")

    def _conflict(self) -> None:
        body = self._body(amount=self._amount())
        if self._ask("debit", body, "debited", _BROKE) == "debited":
            self._ask("debit", body | {"amount": body["amount"] + 1}, "id_conflict")

    def _late(self) -> None:
        hold = self._hold(self._amount(), ttl_ms=_SHORT_TTL_MS)
        if hold is None:
            return
        self._sleep(_PAST_TTL_SECONDS)
        answer = self._settle(hold, random.randint(1, hold["amount"]))
        if not answer["late"]:
            self._caller.find(f"a settle after the expiry is not late: {answer}")

    def _abandon(self) -> None:
        hold = self._hold(self._amount(), ttl_ms=_SHORT_TTL_MS)
        if hold is None or random.random() < 0.5:
            return
        self._sleep(_PAST_TTL_SECONDS)
        self._ask("release", {"account": self._account, "id": hold["id"]}, "hold_expired")

    # Steps ------------------------------------------------------------------------------------

    def _body(self, **fields: Any) -> dict[str, Any]:
        return {"account": self._account, "id": new_id(), **fields}

    def _amount(self) -> int:
        return random.randint(*self._scenario.amounts)

    def _think(self) -> None:
        if self._scenario.think_seconds:
            self._sleep(random.uniform(0, self._scenario.think_seconds))

    def _ask(self, operation: str, body: dict[str, Any], *expected: str) -> str:
        return self._caller.call(operation, body, *expected).code

    def _hold(self, amount: int, **fields: Any) -> dict[str, Any] | None:
        body = self._body(amount=amount, **fields)
        answer = self._caller.call("hold", body, "held", _BROKE)
        return answer.fields if answer.http == 200 else None

    def _settle(
        self, hold: dict[str, Any], amount: int, *, is_final: bool = True
    ) -> dict[str, Any]:
        body = {"account": self._account, "id": hold["id"], "amount": amount, "final": is_final}
        expected = "settled" if is_final else "held"
        return self._caller.call("settle", body, expected).fields


def new_id() -> str:
    """Return a UUIDv4: the ids of a load run need no order."""
    return str(uuid.uuid4())
