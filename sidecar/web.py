"""Plain ASGI pieces that both listeners share: answers, tokens, body limits."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from sidecar.errors import ErrorCode, Refusal

_encode: Final = msgspec.json.Encoder().encode


def json_answer(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return `body` as JSON; `headers` are added to the answer's own."""
    return Response(_encode(body), status, headers, media_type="application/json")


def refusal_answer(refusal: Refusal) -> Response:
    """Return a refusal as the contract's error object, with the headers its status asks for."""
    headers = {}
    if refusal.http == 503:
        headers["Retry-After"] = str(refusal.details.get("retry_after_s", 1))
    if refusal.code is ErrorCode.LIMIT_EXCEEDED:
        headers["Retry-After"] = str(-(-int(refusal.details["retry_after_ms"]) // 1000))
    if refusal.code is ErrorCode.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return json_answer(refusal.body(), refusal.http, headers)


def require_bearer(header: str | None, secrets: Iterable[str]) -> None:
    """Check an `Authorization` header against the allowed tokens, in constant time.

    Raises `Refusal` (401) when no token matches; with no `secrets` at all nothing is required.
    """
    allowed = tuple(secrets)
    if not allowed:
        return
    scheme, _, token = (header or "").partition(" ")
    given = token.strip().encode()
    matches = [hmac.compare_digest(given, secret.encode()) for secret in allowed]
    if scheme.lower() != "bearer" or not any(matches):
        raise Refusal(ErrorCode.UNAUTHORIZED, "A valid bearer token is required.")


def require_json(content_type: str | None) -> None:
    """Refuse (415) a body whose `Content-Type` is not JSON in UTF-8; none at all is fine."""
    if not content_type:
        return
    kind, _, parameters = content_type.partition(";")
    charset = parameters.replace(" ", "").replace('"', "").lower()
    is_json = kind.strip().lower() == "application/json"
    if not is_json or charset not in ("", "charset=utf-8"):
        raise Refusal(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE, "The body must be JSON: application/json in UTF-8."
        )


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body, or refuse (413) it as soon as it is known to pass `limit` bytes."""
    length = request.headers.get("content-length", "")
    too_large = Refusal(ErrorCode.BODY_TOO_LARGE, f"The body may have at most {limit} bytes.")
    if length.isdigit() and int(length) > limit:
        raise too_large
    chunks = bytearray()
    async for chunk in request.stream():
        chunks += chunk
        if len(chunks) > limit:
            raise too_large
    return bytes(chunks)
