"""The fake's HTTP: the API, the pages where customers pay, the control."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sidecar.dev.fake_stripe import control
from sidecar.dev.fake_stripe.api import Api
from sidecar.dev.fake_stripe.call import Verb
from sidecar.dev.fake_stripe.clock import Clock
from sidecar.dev.fake_stripe.delivery import Delivery
from sidecar.dev.fake_stripe.failures import StripeFailure
from sidecar.dev.fake_stripe.faults import Faults
from sidecar.dev.fake_stripe.pages import Pages
from sidecar.dev.fake_stripe.routes import TABLE
from sidecar.dev.fake_stripe.state import State
from sidecar.web import json_answer

_TICK_SECONDS: Final = 1.0

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def build(delivery: Delivery | None = None, state: State | None = None) -> Starlette:
    """Return the application; without a `delivery` no webhook is sent."""
    state, faults = state or State(), Faults()
    delivery = delivery or Delivery(None, ())
    state.publish = delivery.publish
    api = Api(state, faults)

    @contextlib.asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        ticker = asyncio.create_task(_tick(state.clock))
        yield
        ticker.cancel()
        await delivery.close()

    routes = [
        Route("/healthz", _healthz),
        *control.routes(state, delivery, faults),
        *Pages(state).routes(),
        *(_route(api, place, verb) for place, verb in TABLE.items()),
        Route("/{path:path}", _unknown, methods=["GET", "POST", "DELETE"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _route(api: Api, place: str, verb: Verb) -> Route:
    async def handle(request: Request) -> Response:
        return await api.answer(verb, request)

    method, _, path = place.partition(" ")
    return Route(path, handle, methods=[method])


async def _tick(clock: Clock) -> None:
    """Let things become due by real time too, without any request."""
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        clock.catch_up()


async def _healthz(_: Request) -> Response:
    return json_answer({"status": "ok"})


async def _unknown(request: Request) -> Response:
    message = f"Unrecognized request URL ({request.method}: {request.url.path})."
    failure = StripeFailure(message, status=404)
    return json_answer({"error": failure.error}, failure.status)
