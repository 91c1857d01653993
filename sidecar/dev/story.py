"""A whole story of one account, played against a running `dev` and told step by step.

It buys, spends, is topped up by itself, subscribes, fails to renew, is in grace, suspended, pays,
upgrades, downgrades, is refunded, disputed, and wins. Each step waits until the ledger, Redis and
the status are what they must be; the first that does not get there ends the story.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from sidecar.dev.story_world import CREDIT, StoryFailed, World

MONTH_SECONDS: Final = 31 * 86_400

_HUNDRED: Final = 100 * CREDIT


@dataclass(slots=True)
class Story:
    """The steps, in their order; what one learns, later ones know."""

    world: World
    say: Callable[[str], None]
    account: str = field(default_factory=lambda: f"story-{uuid.uuid4().hex[:8]}")
    step: int = 0
    seen: str = ""
    customer: str = ""
    card: str = ""
    subscription: dict[str, Any] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)
    dispute: str = ""

    def play(self) -> None:
        """Play it from begin to end. Raises `StoryFailed`."""
        began = time.monotonic()
        self.say(f"\nThe story of the account {self.account}. 1 credit = 1,000,000 microcredits.\n")
        for scene in (
            self.prices,
            self.buys,
            self.spends,
            self.is_topped_up,
            self.subscribes,
            self.fails_to_renew,
            self.is_suspended,
            self.pays,
            self.upgrades,
            self.downgrades,
            self.is_refunded,
            self.is_disputed,
            self.wins,
        ):
            scene()
        self.say(f"\nAll {self.step} steps came out right, in {time.monotonic() - began:.0f} s.")

    def prices(self) -> None:
        """An operator says what is sold."""
        put, stripe = self.world.put, self.world.stripe
        put("/v1/offers/hundred", {"credits": _HUNDRED, "price": 2500, "currency": "usd"})
        rate = {"credits": 10 * CREDIT, "price": 250, "currency": "usd", "is_rate": True}
        put("/v1/offers/rate", rate)
        product = stripe("products", {"name": "Credits"})["id"]
        for name, amount, allowance in (("small", 2000, 200), ("large", 5000, 600)):
            price = {
                "product": product,
                "currency": "usd",
                "unit_amount": amount,
                "recurring[interval]": "month",
            }
            self.plans[name] = stripe("prices", price)["id"]
            put(f"/v1/plans/{self.plans[name]}", {"allowance": allowance * CREDIT, "grace_days": 3})
        put(f"/v1/accounts/{self.account}", {"name": "Story"})
        self._tell(
            "The operator sets the price list: 100 credits for $25, and two monthly plans,",
            "200 credits for $20 and 600 credits for $50.",
        )

    def buys(self) -> None:
        """A customer pays in a Checkout session, and the webhook brings the credits."""
        body = {
            "offer": "hundred",
            "success_url": "https://example.com/thanks",
            "cancel_url": "https://example.com/prices",
            "save_card": True,
        }
        session = self.world.post(f"/v1/accounts/{self.account}/checkout", body)
        self.world.fake(f"checkout/{session['url'].rsplit('/', 1)[-1]}/pay")
        self._until(ledger=100)
        account = self.world.get(f"/v1/accounts/{self.account}")
        self.customer = account["stripe_customer"]
        methods = self.world.stripe_get(f"customers/{self.customer}/payment_methods")["data"]
        self.card = methods[0]["id"]
        self._tell("It buys 100 credits for $25 with a card, and the card is kept for later.")

    def spends(self) -> None:
        """An inference call: credits are set aside before it, and charged after it."""
        self.world.hot("hold", {"account": self.account, "id": "call-1", "amount": 30 * CREDIT})
        self.world.hot("settle", {"account": self.account, "id": "call-1", "amount": 25 * CREDIT})
        self._until(ledger=75)
        self._tell("A call sets 30 credits aside, uses 25, and 5 are free again.")

    def is_topped_up(self) -> None:
        """The call that crosses the threshold has a worker charge the card."""
        wish = {
            "enabled": True,
            "threshold": 50 * CREDIT,
            "amount": _HUNDRED,
            "monthly_cap": 5 * _HUNDRED,
        }
        self.world.put(f"/v1/accounts/{self.account}/auto-top-up", wish)
        self.world.hot("debit", {"account": self.account, "id": "call-2", "amount": 35 * CREDIT})
        self._until(ledger=140)
        self._tell(
            "Auto top-up: below 50 credits, buy 100. A call of 35 credits crosses that, and the",
            "card is charged once.",
        )

    def subscribes(self) -> None:
        """The first invoice is paid: the plan's allowance is there."""
        self.world.put(f"/v1/accounts/{self.account}/auto-top-up", {"enabled": False})
        self.subscription = self.world.stripe(
            "subscriptions",
            {
                "customer": self.customer,
                "items[0][price]": self.plans["small"],
                "default_payment_method": self.card,
                "metadata[account]": self.account,
            },
        )
        self._until(ledger=340)
        self._tell(
            "It subscribes to the small plan: 200 credits a month, on top of what it bought."
        )

    def fails_to_renew(self) -> None:
        """A month later the card is declined: grace, with what is left of the old allowance."""
        self.world.fake(f"cards/{self.card}", decline_code="insufficient_funds")
        self.world.advance(MONTH_SECONDS + 7_200)
        self._until(status="grace", ledger=340)
        self._tell(
            "A month goes by, and the card is declined. Grace: the old allowance lives on for a",
            "while, and everybody can see that the renewal failed.",
        )

    def is_suspended(self) -> None:
        """Stripe gives up: the plan is suspended, bought credits are not."""
        self.world.fake("settings", after_retries="unpaid")
        self.world.advance(20 * 86_400)
        self._until(status="active", ledger=140)
        call = {"account": self.account, "id": "call-3", "amount": 10 * CREDIT}
        self.world.hot("debit", call)
        self._until(ledger=130)
        self._tell(
            "Every retry fails, and the subscription is unpaid: its allowance ends at once.",
            "Credits that were bought are still there, and pay for a call of 10.",
        )

    def pays(self) -> None:
        """The card is mended and the open invoice paid: that month's allowance comes."""
        self.world.fake(f"cards/{self.card}", decline_code=None)
        invoices = self.world.stripe_get("invoices", subscription=self.subscription["id"])["data"]
        unpaid = next(one for one in invoices if one["status"] == "open")
        self.world.stripe(f"invoices/{unpaid['id']}/pay", {})
        self._until(status="active", ledger=330)
        self._tell("It pays the open invoice. The plan is active, and that month's 200 are here.")

    def upgrades(self) -> None:
        """The larger plan: the difference comes, for the part of the month that is left."""
        before = self.world.balances(self.account)["ledger"]
        self._change_plan("large")
        self._wait(lambda: self.world.balances(self.account)["ledger"] > before, "an upgrade")
        gained = (self.world.balances(self.account)["ledger"] - before) / CREDIT
        self._tell(
            f"It upgrades to the large plan in mid-month: {gained:,.6f} credits more, its share of",
            "the 400 that are between the two.",
        )

    def downgrades(self) -> None:
        """Back again, and up again: nothing is taken back, and nothing is given twice."""
        before = self.world.balances(self.account)["ledger"]
        self._change_plan("small")
        self._change_plan("large")
        self._settle_down()
        if self.world.balances(self.account)["ledger"] != before:
            raise StoryFailed("down and up again changed the credits")
        self._tell("Down to the small plan and up again within a minute gives nothing twice.")

    def is_refunded(self) -> None:
        """Half of the first payment is refunded: half of its credits go back."""
        before = self.world.balances(self.account)["ledger"]
        first = self._payment(is_checkout=True)
        self.world.stripe("refunds", {"payment_intent": first["payment_intent"], "amount": 1250})
        self._wait(
            lambda: self.world.balances(self.account)["ledger"] == before - _HUNDRED // 2,
            "half of 100 credits to go back",
        )
        self._tell("Half of the first payment is refunded: 50 of its 100 credits go back.")

    def is_disputed(self) -> None:
        """It spends nearly all, and the bank takes the second payment back."""
        available = self.world.balances(self.account)["available"]
        spent = {"account": self.account, "id": "call-4", "amount": available - 5 * CREDIT}
        self.world.hot("debit", spent)
        self._until(ledger=5)
        payment = self._payment(is_checkout=False)["payment_intent"]
        self.dispute = self.world.fake("disputes", payment_intent=payment)["id"]
        self._until(status="suspended", ledger=-95)
        refused = self.world.hot_status(
            "hold", {"account": self.account, "id": "call-5", "amount": 1}
        )
        if refused != 403:
            raise StoryFailed(f"a suspended account was answered {refused}")
        self._tell(
            "It spends all but 5 credits. Then the bank takes the second payment back: 100 credits",
            "go, the account is 95 below zero and suspended, and a call is refused with 403.",
        )

    def wins(self) -> None:
        """The dispute is won: exactly what was taken comes back, and the account may spend."""
        self.world.fake(f"disputes/{self.dispute}/win")
        self._until(status="active", ledger=5)
        self.world.hot("debit", {"account": self.account, "id": "call-6", "amount": 5 * CREDIT})
        self._until(ledger=0)
        self._tell("The dispute is won: the 100 credits are back, and the last 5 are spent.")

    def _change_plan(self, plan: str) -> None:
        (item,) = self.subscription["items"]["data"]
        self.world.stripe(
            f"subscriptions/{self.subscription['id']}",
            {
                "items[0][id]": item["id"],
                "items[0][price]": self.plans[plan],
                "proration_behavior": "always_invoice",
            },
        )

    def _payment(self, *, is_checkout: bool) -> dict[str, Any]:
        """Return the newest payment, of a Checkout session or of an auto top-up."""
        rows = self.world.get(f"/v1/accounts/{self.account}/payments")["data"]
        return next(row for row in rows if bool(row["checkout_session"]) == is_checkout)

    def _settle_down(self) -> None:
        """Wait until every event that Stripe sent is applied."""
        self._wait(self.world.is_quiet, "all events of Stripe to be applied")

    def _until(self, *, status: str | None = None, ledger: int | None = None) -> None:
        """Wait for a status, and for credits in the ledger and in Redis alike."""

        def is_there() -> bool:
            now = self.world.balances(self.account)
            return (status is None or now["status"] == status) and (
                ledger is None or now["ledger"] == now["in_redis"] == ledger * CREDIT
            )

        wished = " ".join(
            [f"status {status}"] * (status is not None)
            + [f"{ledger} credits"] * (ledger is not None)
        )
        self._wait(is_there, wished)

    def _wait(self, is_there: Callable[[], bool], what: str) -> None:
        if not self.world.wait(is_there):
            now = self.world.balances(self.account)
            raise StoryFailed(f"step {self.step + 1} waited for {what}; there is {now}")

    def _tell(self, *lines: str) -> None:
        self.step += 1
        self.say(f"{self.step:>2}. " + "\n    ".join(lines))
        events, self.seen = self.world.events_since(self.seen)
        if events:
            self.say("    Stripe sent: " + ", ".join(events))
        now = self.world.balances(self.account)
        shown = " · ".join(f"{name} {now[name] / CREDIT:,.2f}" for name in ("available", "ledger"))
        self.say(f"    {now['status']} · {shown}\n")
