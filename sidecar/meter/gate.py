"""`/v1/gate`: a hold made from headers, for nginx `auth_request` and Envoy `ext_authz`.

A proxy asks with the caller's own headers and no body, and understands only a status.
"""

from __future__ import annotations

import re
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.responses import Response

from sidecar.errors import ErrorCode, Refusal
from sidecar.meter import requests
from sidecar.meter.decide import Decider
from sidecar.meter.operations import OPERATIONS
from sidecar.web import json_answer, refusal_answer

ERROR_HEADER: Final = "X-Credit-Error"
_NUMBER: Final = re.compile(r"^(0|[1-9][0-9]{0,15})\Z")
_FIELDS: Final = {
    "account": "X-Credit-Account",
    "id": "X-Credit-Id",
    "amount": "X-Credit-Amount",
    "usage": "X-Credit-Model",
    "usage.model": "X-Credit-Model",
    "usage.max_output_tokens": "X-Credit-Max-Tokens",
}


async def answer(headers: Headers, decider: Decider) -> Response:
    """Make the hold that the headers ask for, and answer so that a proxy understands it."""
    deny_status = None
    try:
        deny_status = _deny_status(headers)
        held = await decider.decide(OPERATIONS["hold"], _hold(headers))
    except Refusal as refusal:
        if refusal.param in _FIELDS:
            refusal.param = _FIELDS[refusal.param]
        response = refusal_answer(refusal)
        response.headers[ERROR_HEADER] = refusal.code.value
        response.status_code = deny_status or response.status_code
        return response
    return json_answer(held, headers={"X-Credit-Hold": held["id"]})


def _hold(headers: Headers) -> requests.HoldRequest:
    fields: dict[str, Any] = {
        "account": _single(headers, "X-Credit-Account"),
        "id": _single(headers, "X-Credit-Id"),
        "amount": _number(headers, "X-Credit-Amount"),
    }
    model, tokens = _single(headers, "X-Credit-Model"), _number(headers, "X-Credit-Max-Tokens")
    if model is not None or tokens is not None:
        fields["usage"] = {"model": model, "max_output_tokens": tokens}
    return requests.convert(
        {name: value for name, value in fields.items() if value is not None}, requests.HoldRequest
    )


def _single(headers: Headers, name: str) -> str | None:
    values = headers.getlist(name)
    if len(values) > 1:
        raise requests.invalid(f"{name} is there {len(values)} times.", name)
    return values[0] if values else None


def _number(headers: Headers, name: str) -> int | None:
    value = _single(headers, name)
    if value is None:
        return None
    if not _NUMBER.match(value):
        raise requests.invalid(f"{name} must be a whole number.", name)
    return int(value)


def _deny_status(headers: Headers) -> int | None:
    value = _number(headers, "X-Credit-Deny-Status")
    if value is not None and not 400 <= value <= 599:
        raise Refusal(
            ErrorCode.INVALID_REQUEST,
            "X-Credit-Deny-Status must be 400 to 599.",
            param="X-Credit-Deny-Status",
        )
    return value
