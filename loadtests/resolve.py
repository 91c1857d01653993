"""The calls that nobody waited for to the end: sent again, now that nothing else runs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import httpx

from loadtests.caller import RETRIED_HTTP
from loadtests.receipts import Receipt, Told

_PAUSE_SECONDS: Final = 0.1


def resolve(told: Told, sidecars: Sequence[str], *, seconds: float) -> None:
    """Send every unanswered call again under its id until its outcome is known.

    Holds that turn out to be granted are released. What is still unknown after `seconds` stays
    unanswered.
    """
    deadline = time.monotonic() + seconds
    waiting, told.unanswered = told.unanswered, []
    with httpx.Client(trust_env=False, timeout=5) as client:
        post = _poster(client, sidecars, deadline)
        for call in waiting:
            answer = post(call.operation, call.body)
            if answer is None:
                told.unanswered.append(call)
            elif answer.status_code == 200:
                _take(told, post, call.operation, call.body, answer.json())


Post = Callable[[str, dict[str, Any]], httpx.Response | None]


def _poster(client: httpx.Client, sidecars: Sequence[str], deadline: float) -> Post:
    turn = itertools.cycle(sidecars)

    def post(operation: str, body: dict[str, Any]) -> httpx.Response | None:
        while time.monotonic() < deadline:
            try:
                answer = client.post(f"{next(turn)}/v1/{operation}", json=body)
            except httpx.HTTPError:
                time.sleep(_PAUSE_SECONDS)
                continue
            if answer.status_code not in RETRIED_HTTP:
                return answer
            time.sleep(_PAUSE_SECONDS)
        return None

    return post


def _take(
    told: Told, post: Post, operation: str, body: dict[str, Any], answer: dict[str, Any]
) -> None:
    account, id = body["account"], body["id"]
    charged, refunded = answer.get("charged", 0), answer.get("refunded", 0)
    told.add(Receipt(account, id, operation, answer["status"], charged, refunded))
    if operation == "hold":
        post("release", {"account": account, "id": id})
