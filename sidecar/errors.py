"""What goes wrong, in two kinds: refusals that the contract names, and faults of ours."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final


class CreditsError(Exception):
    """The root of this project's faults."""


class SettingsError(CreditsError):
    """Raised when a setting is missing, unknown or out of range; its message names the setting."""


class StoreUnavailable(CreditsError):
    """Raised when Redis gave no answer in time. What it did is unknown: retry the same id."""


class LedgerUnavailable(CreditsError):
    """Raised when Postgres cannot be reached or refused for a passing reason."""


class SchemaMismatch(CreditsError):
    """Raised when the ledger's schema is older or newer than this program."""


class JournalError(CreditsError):
    """Raised when the journal cannot be opened or written; its message says what to do."""


class JournalFull(JournalError):
    """Raised when the journal has reached its size and the record is not urgent enough."""


class JournalDamaged(JournalError):
    """Raised when a file of the journal is not as it was written; names the file and the byte."""


class ErrorCode(StrEnum):
    """The `code` of an error answer."""

    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    UNAUTHORIZED = "unauthorized"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    INVALID_JSON = "invalid_json"
    INVALID_REQUEST = "invalid_request"
    UNKNOWN_MODEL = "unknown_model"
    STORE_UNAVAILABLE = "store_unavailable"
    ACCOUNT_NOT_FOUND = "account_not_found"
    ID_CONFLICT = "id_conflict"
    HOLD_NOT_FOUND = "hold_not_found"
    HOLD_SETTLED = "hold_settled"
    HOLD_RELEASED = "hold_released"
    HOLD_EXPIRED = "hold_expired"
    HOLD_OPEN = "hold_open"
    REFUND_EXCEEDS_CHARGE = "refund_exceeds_charge"
    ACCOUNT_SUSPENDED = "account_suspended"
    ACCOUNT_CLOSED = "account_closed"
    LIMIT_EXCEEDED = "limit_exceeded"
    INSUFFICIENT_CREDITS = "insufficient_credits"
    INTERNAL_ERROR = "internal_error"


HTTP_STATUS: Final[dict[ErrorCode, int]] = {
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.METHOD_NOT_ALLOWED: 405,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.ORIGIN_NOT_ALLOWED: 403,
    ErrorCode.BODY_TOO_LARGE: 413,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: 415,
    ErrorCode.INVALID_JSON: 400,
    ErrorCode.INVALID_REQUEST: 422,
    ErrorCode.UNKNOWN_MODEL: 422,
    ErrorCode.STORE_UNAVAILABLE: 503,
    ErrorCode.ACCOUNT_NOT_FOUND: 404,
    ErrorCode.ID_CONFLICT: 409,
    ErrorCode.HOLD_NOT_FOUND: 404,
    ErrorCode.HOLD_SETTLED: 409,
    ErrorCode.HOLD_RELEASED: 409,
    ErrorCode.HOLD_EXPIRED: 409,
    ErrorCode.HOLD_OPEN: 409,
    ErrorCode.REFUND_EXCEEDS_CHARGE: 422,
    ErrorCode.ACCOUNT_SUSPENDED: 403,
    ErrorCode.ACCOUNT_CLOSED: 403,
    ErrorCode.LIMIT_EXCEEDED: 429,
    ErrorCode.INSUFFICIENT_CREDITS: 402,
    ErrorCode.INTERNAL_ERROR: 500,
}

_BILLING: Final = frozenset(
    {
        ErrorCode.INSUFFICIENT_CREDITS,
        ErrorCode.ACCOUNT_SUSPENDED,
        ErrorCode.ACCOUNT_CLOSED,
        ErrorCode.LIMIT_EXCEEDED,
    }
)


def error_type(code: ErrorCode) -> str:
    """Return the `type` of an error answer: OpenAI's kinds, and `billing_error` for ours."""
    if code in _BILLING:
        return "billing_error"
    if code is ErrorCode.UNAUTHORIZED:
        return "authentication_error"
    return "server_error" if HTTP_STATUS[code] >= 500 else "invalid_request_error"


class Refusal(CreditsError):
    """Raised where a request is refused before anything is decided.

    `details` go into the error object beside the message; `param` names the field at fault.
    """

    def __init__(
        self, code: ErrorCode, message: str, *, param: str | None = None, **details: Any
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param
        self.details = details

    @property
    def http(self) -> int:
        """The HTTP status of the refusal."""
        return HTTP_STATUS[self.code]

    def body(self) -> dict[str, Any]:
        """Return the JSON object of the answer."""
        error = {
            "code": self.code.value,
            "type": error_type(self.code),
            "message": self.message,
            "param": self.param,
        }
        return {"error": error | self.details}
