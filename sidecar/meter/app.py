"""HTTP of the hot path: a dictionary of paths, the checks in the contract's order, the answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sidecar.errors import ErrorCode, Refusal
from sidecar.meter import gate, requests
from sidecar.meter.decide import DECODERS, Decider
from sidecar.meter.operations import OPERATIONS
from sidecar.meter.watch import Watch
from sidecar.metrics import MeterMetrics
from sidecar.web import json_answer, read_body, refusal_answer, require_bearer, require_json

log: Final = logging.getLogger(__name__)

BODY_LIMIT: Final = 65_536
_BODY_SECONDS: Final = 10.0
_BATCH: Final = msgspec.json.Decoder(requests.BatchRequest, float_hook=float)

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Route:
    """What is at one path, whether it needs no token, and whether proxies ask there for others."""

    methods: tuple[str, ...]
    handler: Handler
    is_open: bool = False
    is_for_proxies: bool = False


class SlowBody(Refusal):
    """Raised when a body stops in the middle: its connection is of no more use."""


class MeterApp:
    """The hot path's ASGI application."""

    def __init__(
        self,
        decider: Decider,
        watch: Watch,
        metrics: MeterMetrics,
        registry: CollectorRegistry,
        api_keys: tuple[str, ...] = (),
    ) -> None:
        self._decider = decider
        self._watch = watch
        self._metrics = metrics
        self._registry = registry
        self._api_keys = api_keys
        get = ("GET", "HEAD")
        self._routes = {
            f"/v1/{name}": Route(("POST",), self._decision(name))
            for name in OPERATIONS
            if name != "balance"
        } | {
            "/v1/balance": Route(get, self._balance),
            "/v1/batch": Route(("POST",), self._batch),
            "/v1/gate": Route(("GET", "POST"), self._gate, is_for_proxies=True),
            "/healthz": Route(get, self._healthz, is_open=True),
            "/readyz": Route(get, self._readyz, is_open=True),
            "/metrics": Route(get, self._metrics_text, is_open=True),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._respond(request)
        except Refusal as refusal:
            self._metrics.http_refusals.labels(refusal.code.value).inc()
            response = refusal_answer(refusal)
            if refusal.code is ErrorCode.METHOD_NOT_ALLOWED:
                response.headers["Allow"] = ", ".join(self._routes[scope["path"]].methods)
            if isinstance(refusal, SlowBody):
                response.headers["Connection"] = "close"
        except ClientDisconnect:
            return
        except Exception:
            log.exception("a request failed", extra={"path": scope["path"]})
            message = "The sidecar failed. Send the same id again."
            response = refusal_answer(Refusal(ErrorCode.INTERNAL_ERROR, message))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        route = self._routes.get(request.scope["path"])
        if route is None:
            raise Refusal(ErrorCode.NOT_FOUND, "There is nothing at this path.")
        if request.method not in route.methods:
            raise Refusal(
                ErrorCode.METHOD_NOT_ALLOWED, f"This path takes {', '.join(route.methods)}."
            )
        if not route.is_open:
            require_bearer(request.headers.get("authorization"), self._api_keys)
        if not route.is_for_proxies:
            _refuse_browsers(request)
        return await route.handler(request)

    def _decision(self, name: str) -> Handler:
        operation, decoder = OPERATIONS[name], DECODERS[name]

        async def handle(request: Request) -> Response:
            decoded = requests.decode_json(decoder, await _json_body(request))
            return json_answer(await self._decider.decide(operation, decoded))

        return handle

    async def _balance(self, request: Request) -> Response:
        fields = dict(request.query_params)
        decoded = requests.convert(fields, requests.BalanceRequest)
        return json_answer(await self._decider.decide(OPERATIONS["balance"], decoded))

    async def _batch(self, request: Request) -> Response:
        decoded = requests.decode_json(_BATCH, await _json_body(request))
        return json_answer({"results": await self._decider.batch(decoded.operations)})

    async def _gate(self, request: Request) -> Response:
        response = await gate.answer(request.headers, self._decider)
        code = response.headers.get(gate.ERROR_HEADER)
        if code is not None:
            self._metrics.http_refusals.labels(code).inc()
        return response

    async def _healthz(self, _: Request) -> Response:
        return json_answer({"status": "ok"})

    async def _readyz(self, _: Request) -> Response:
        problem = await self._watch.problem()
        if problem is None:
            return json_answer({"status": "ready"})
        return json_answer({"status": "not ready", "reason": problem}, 503, {"Retry-After": "1"})

    async def _metrics_text(self, _: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


def _refuse_browsers(request: Request) -> None:
    if "origin" in request.headers:
        raise Refusal(
            ErrorCode.ORIGIN_NOT_ALLOWED, "Browsers have no business here: send no Origin header."
        )


async def _json_body(request: Request) -> bytes:
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            body = await read_body(request, BODY_LIMIT)
    except TimeoutError:
        raise SlowBody(
            ErrorCode.INVALID_JSON, f"The body did not arrive within {_BODY_SECONDS:.0f} s."
        ) from None
    require_json(request.headers.get("content-type"))
    return body
