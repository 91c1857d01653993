"""HTTP of the control listener: one ASGI object a path, the checks in the contract's order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, TypeVar

import anyio.to_thread
import msgspec
from anyio import CapacityLimiter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sidecar.control.decode import check_path, parse_json, read_body_as, read_query
from sidecar.errors import ErrorCode, Refusal
from sidecar.metrics import ControlMetrics
from sidecar.web import read_body, refusal_answer, require_bearer, require_json

log: Final = logging.getLogger(__name__)

BODY_LIMIT: Final = 1_048_576
THREADS: Final = 16
"""Requests that are worked on at once; others wait for their turn."""

_BODY_SECONDS: Final = 10.0

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class Call(Generic[B]):
    """One request, read and checked."""

    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: B
    remote: str | None


Handler = Callable[[Call[Any]], Response]


@dataclass(frozen=True, slots=True)
class Route:
    """What one method does at one path.

    `body` is the type of the JSON body, `bytes` for the body as it came, None for no body.
    `query` names the parameters that are taken; None takes and ignores any. A probe has threads
    of its own, so that it is answered while a ledger that hangs keeps all others waiting. So has
    what asks Stripe, whose slowness must not keep its webhooks waiting.
    """

    method: str
    path: str
    handler: Handler
    body: type[Any] | None = None
    query: Collection[str] | None = ()
    is_open: bool = False
    is_probe: bool = False
    asks_stripe: bool = False


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    """What all paths share: the tokens that let in, the counters, the threads that handlers use."""

    tokens: Sequence[str]
    metrics: ControlMetrics
    threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(THREADS))
    probe_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(4))
    stripe_threads: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(8))

    def threads_of(self, route: Route) -> CapacityLimiter:
        """Return the threads that answer a route."""
        if route.is_probe:
            return self.probe_threads
        return self.stripe_threads if route.asks_stripe else self.threads


class Resource:
    """All methods of one path, as an ASGI application."""

    def __init__(self, routes: Sequence[Route], gatekeeper: Gatekeeper) -> None:
        self._path = routes[0].path
        self._routes = {route.method: route for route in routes}
        if "GET" in self._routes:
            self._routes["HEAD"] = self._routes["GET"]
        self._gatekeeper = gatekeeper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        started = time.perf_counter()
        try:
            response = await self._respond(request)
        except Refusal as refusal:
            response = self._refuse(refusal)
        except ClientDisconnect:
            return
        except Exception:
            log.exception("a control request failed", extra={"route": self._path})
            response = refusal_answer(
                Refusal(ErrorCode.INTERNAL_ERROR, "The control listener failed; its log says why.")
            )
        metrics = self._gatekeeper.metrics
        metrics.requests.labels(self._path, str(response.status_code)).inc()
        metrics.request_seconds.labels(self._path).observe(time.perf_counter() - started)
        await response(scope, receive, send)

    def _refuse(self, refusal: Refusal) -> Response:
        response = refusal_answer(refusal)
        if refusal.code is ErrorCode.METHOD_NOT_ALLOWED:
            response.headers["Allow"] = ", ".join(self._routes)
        return response

    async def _respond(self, request: Request) -> Response:
        route = self._routes.get(request.method)
        if route is None:
            raise Refusal(
                ErrorCode.METHOD_NOT_ALLOWED, f"This path takes {', '.join(self._routes)}."
            )
        if not route.is_open:
            require_bearer(request.headers.get("authorization"), self._gatekeeper.tokens)
        body = b"" if route.body is None else await _body(request)
        if route.body not in (None, bytes):
            require_json(request.headers.get("content-type"))
        work = partial(_answer, route, request, body)
        limiter = self._gatekeeper.threads_of(route)
        return await anyio.to_thread.run_sync(work, limiter=limiter)


async def _body(request: Request) -> bytes:
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            return await read_body(request, BODY_LIMIT)
    except TimeoutError:
        raise Refusal(
            ErrorCode.INVALID_JSON, f"The body did not arrive within {_BODY_SECONDS:.0f} s."
        ) from None


def _answer(route: Route, request: Request, raw: bytes) -> Response:
    """Read what was sent, in the contract's order, and let the handler answer."""
    is_json = route.body is not None and issubclass(route.body, msgspec.Struct)
    value = parse_json(raw) if is_json else None
    check_path(request.path_params)
    pairs = request.query_params.multi_items()
    query = {} if route.query is None else read_query(pairs, route.query)
    call: Call[Any] = Call(
        path=request.path_params,
        query=query,
        headers=request.headers,
        body=read_body_as(route.body, value) if is_json and route.body else raw,
        remote=request.client.host if request.client else None,
    )
    return route.handler(call)


def resources(routes: Sequence[Route], gatekeeper: Gatekeeper) -> dict[str, Resource]:
    """Return the resource of each path, in the order in which the paths are first named."""
    by_path: dict[str, list[Route]] = {}
    for route in routes:
        by_path.setdefault(route.path.replace(":path}", "}"), []).append(route)
    return {group[0].path: Resource(group, gatekeeper) for group in by_path.values()}
