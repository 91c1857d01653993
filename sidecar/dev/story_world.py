"""What the story talks to: the hot path, the control API, and the fake Stripe with its control."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx

from sidecar.billing.handlers import HANDLERS
from sidecar.commands.probe import reachable
from sidecar.dev.plan import FAKE_STRIPE_KEY, Plan
from sidecar.errors import CreditsError

CREDIT: Final = 1_000_000

_WAIT_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.1

Json = dict[str, Any]


class StoryFailed(CreditsError):
    """Raised when something did not come out as the story tells it."""


class World:
    """The listeners of one `dev`."""

    def __init__(self, plan: Plan) -> None:
        if plan.fake_stripe is None:
            raise StoryFailed("The story needs the fake Stripe: unset CREDITS_STRIPE_SECRET_KEY.")
        settings = plan.settings
        self._client = httpx.Client(timeout=30, trust_env=False)
        self._hot = f"http://{reachable(settings.listen)}"
        self._control = f"http://{reachable(settings.control_listen)}"
        self._fake = f"http://{plan.fake_stripe}"
        self._hot_headers = _bearer(settings.api_key) if settings.api_key else {}
        self._admin = _bearer(settings.admin_token)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def hot(self, verb: str, body: Mapping[str, Any]) -> Json:
        """Ask the hot path. Raises `StoryFailed` when it refuses."""
        return _json(self._ask_hot(verb, body))

    def hot_status(self, verb: str, body: Mapping[str, Any]) -> int:
        """Ask the hot path and return the HTTP status."""
        return self._ask_hot(verb, body).status_code

    def get(self, path: str) -> Json:
        """Ask the control API."""
        return _json(self._client.get(self._control + path, headers=self._admin))

    def put(self, path: str, body: Mapping[str, Any]) -> Json:
        """Change something through the control API."""
        return _json(self._client.put(self._control + path, headers=self._admin, json=dict(body)))

    def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """Do something through the control API."""
        return _json(self._client.post(self._control + path, headers=self._admin, json=dict(body)))

    def stripe(self, path: str, form: Mapping[str, Any]) -> Json:
        """Do something at Stripe, as a product or a person would."""
        url = f"{self._fake}/v1/{path}"
        return _json(self._client.post(url, auth=(FAKE_STRIPE_KEY, ""), data=dict(form)))

    def stripe_get(self, path: str, **query: str) -> Json:
        """Ask Stripe."""
        url = f"{self._fake}/v1/{path}"
        return _json(self._client.get(url, auth=(FAKE_STRIPE_KEY, ""), params=query))

    def fake(self, path: str, **body: Any) -> Json:
        """Let banks and customers do something, through the fake's own control."""
        return _json(self._client.post(f"{self._fake}/_fake/{path}", json=body))

    def advance(self, seconds: int) -> None:
        """Let time go by at Stripe."""
        self.fake("clock", advance_seconds=seconds)

    def balances(self, account: str) -> Json:
        """Return an account's status, and its credits by the ledger and by Redis."""
        shown = self.get(f"/v1/accounts/{account}")
        balances = shown["balances"]
        available, held = balances["available"] or 0, balances["held"] or 0
        return {
            "status": shown["status"],
            "ledger": balances["ledger"],
            "available": available,
            "in_redis": available + held,
        }

    def events_since(self, last: str) -> tuple[list[str], str]:
        """Return the types of the events after one that move something, and the newest one's id.

        Stripe forgets events after 30 days: all that it has are newer than one it has no more.
        """
        events: list[Json] = []
        for event in self.stripe_get("events", limit="100")["data"]:
            if event["id"] == last:
                break
            events.insert(0, event)
        types = Counter(event["type"] for event in events if event["type"] in HANDLERS)
        return [_counted(*one) for one in types.items()], events[-1]["id"] if events else last

    def is_quiet(self) -> bool:
        """Tell whether every event of Stripe's is in the inbox, and finished."""
        if self.fake("delivery")["pending"]:
            return False
        rows = self.get("/v1/stripe/events?limit=1000")["data"]
        return all(row["status"] in ("applied", "ignored") for row in rows)

    def wait(self, is_there: Callable[[], bool]) -> bool:
        """Wait until something is so; False when it is not within half a minute."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while time.monotonic() < deadline:
            if is_there():
                return True
            time.sleep(_POLL_SECONDS)
        return is_there()

    def _ask_hot(self, verb: str, body: Mapping[str, Any]) -> httpx.Response:
        url = f"{self._hot}/v1/{verb}"
        return self._client.post(url, headers=self._hot_headers, json=dict(body))


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _counted(name: str, times: int) -> str:
    return name if times == 1 else f"{times} {name}"


def _json(answer: httpx.Response) -> Json:
    if answer.status_code != 200:
        request = answer.request
        raise StoryFailed(
            f"{request.method} {request.url.path} was answered {answer.status_code}: "
            f"{answer.text[:300]}"
        )
    body: Json = answer.json()
    return body
