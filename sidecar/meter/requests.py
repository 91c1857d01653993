"""What the hot path accepts: typed requests that refuse whatever the contract refuses."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from sidecar.domain import ACCOUNT_PATTERN, ID_PATTERN, MAX_AMOUNT
from sidecar.errors import ErrorCode, Refusal

TTL_DEFAULT_MS: Final = 600_000
BATCH_MAX: Final = 100
METADATA_BYTES: Final = 2048

_TEXT: Final = (
    r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*\Z"  # no control characters but tab and line ends
)

Account = Annotated[str, Meta(pattern=ACCOUNT_PATTERN)]
Id = Annotated[str, Meta(pattern=ID_PATTERN)]
Amount = Annotated[int, Meta(ge=1, le=MAX_AMOUNT)]
AmountOrZero = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
Count = Annotated[int, Meta(ge=0, le=MAX_AMOUNT)]
Ttl = Annotated[int, Meta(ge=1_000, le=86_400_000)]
Model = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,256}\Z")]
Text = Annotated[str, Meta(pattern=_TEXT, max_length=500)]
Metadata = Annotated[
    dict[Annotated[str, Meta(pattern=_TEXT)], Annotated[str, Meta(pattern=_TEXT)]],
    Meta(max_length=16),
]


class Usage(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a call used, in units of each meter; `model` says which prices apply."""

    model: Model
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    max_output_tokens: Count | None = None
    cached_input_tokens: Count | None = None
    cache_write_tokens: Count | None = None
    reasoning_tokens: Count | None = None
    input_audio_tokens: Count | None = None
    output_audio_tokens: Count | None = None
    images: Count | None = None
    seconds: Count | None = None
    requests: Count | None = None

    def counts(self) -> dict[str, int]:
        """Return the units of each meter that was given; the most of output stands for output."""
        counts = {
            name: value
            for name in self.__struct_fields__[1:]
            if (value := getattr(self, name)) is not None
        }
        if "max_output_tokens" in counts:
            counts["output_tokens"] = counts.pop("max_output_tokens")
        return counts


class Scopes(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Who, inside the account, a call is for."""

    key: Id | None = None
    user: Id | None = None
    session: Id | None = None


class HoldRequest(Struct, forbid_unknown_fields=True):
    """Set credits aside before a call runs."""

    account: Account
    id: Id
    amount: Amount | None = None
    usage: Usage | None = None
    ttl_ms: Ttl | None = None
    scopes: Scopes | None = None
    metadata: Metadata | None = None
    partial: bool | None = None


class SettleRequest(Struct, forbid_unknown_fields=True):
    """Charge what a call has used; `amount` is the total so far."""

    account: Account
    id: Id
    amount: AmountOrZero | None = None
    usage: Usage | None = None
    final: bool | None = None
    metadata: Metadata | None = None


class ReleaseRequest(Struct, forbid_unknown_fields=True):
    """End a hold and charge nothing more."""

    account: Account
    id: Id
    reason: Text | None = None


class ExtendRequest(Struct, forbid_unknown_fields=True):
    """Make a hold larger (`amount` is the new total) or longer."""

    account: Account
    id: Id
    amount: Amount | None = None
    ttl_ms: Ttl | None = None


class DebitRequest(Struct, forbid_unknown_fields=True):
    """Charge at once."""

    account: Account
    id: Id
    amount: Amount | None = None
    usage: Usage | None = None
    scopes: Scopes | None = None
    metadata: Metadata | None = None


class RefundRequest(Struct, forbid_unknown_fields=True):
    """Give back all or part of a charge."""

    account: Account
    id: Id
    of: Id
    amount: Amount | None = None
    reason: Text | None = None


class CheckRequest(Struct, forbid_unknown_fields=True):
    """Ask whether a hold would be granted."""

    account: Account
    amount: Amount | None = None
    usage: Usage | None = None
    scopes: Scopes | None = None


class BalanceRequest(Struct, forbid_unknown_fields=True):
    """Ask what an account has."""

    account: Account


class BatchRequest(Struct, forbid_unknown_fields=True):
    """Several operations in one request, each on its own."""

    operations: Annotated[list[Any], Meta(min_length=1, max_length=BATCH_MAX)]


Request = (
    HoldRequest
    | SettleRequest
    | ReleaseRequest
    | ExtendRequest
    | DebitRequest
    | RefundRequest
    | CheckRequest
    | BalanceRequest
)
Priced = HoldRequest | SettleRequest | DebitRequest | CheckRequest

T = TypeVar("T")

# With the hook, a number beyond the range of floats is a wrong number, and still JSON.
_ANY: Final = msgspec.json.Decoder(float_hook=float)
_MISSING: Final = re.compile(r"(?:missing required|contains unknown) field `([^`]*)`")
_PATH: Final = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_ACCOUNT_FORM: Final = "1 to 128 characters of A-Z a-z 0-9 . _ : @ -"
_ID_FORM: Final = "1 to 128 printable ASCII characters without space"
_FORMS: Final = {
    "account": _ACCOUNT_FORM,
    "id": _ID_FORM,
    "of": _ID_FORM,
    "usage.model": "1 to 256 printable ASCII characters without space",
    "scopes.key": _ID_FORM,
    "scopes.user": _ID_FORM,
    "scopes.session": _ID_FORM,
}


def decode_json(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Decode a body. Raises `Refusal`: 400 when it is not JSON, 422 when a field is not right."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        return _decode_again(decoder.type, body, error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _not_json(error) from error


def convert(value: Any, kind: type[T]) -> T:
    """Read a decoded object as a request, as strictly as `decode_json`."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _invalid(error) from error


def check_priced(request: Priced) -> None:
    """Refuse (422) a request that gives both `amount` and `usage`, or neither, or no meter."""
    if request.usage is None:
        if request.amount is None:
            raise invalid("Give an amount or a usage.", "amount")
        return
    if request.amount is not None:
        raise invalid("Give an amount or a usage, not both.", "usage")
    usage = request.usage
    if usage.max_output_tokens is not None:
        if not isinstance(request, HoldRequest | CheckRequest):
            raise invalid("What was used has output_tokens.", "usage.max_output_tokens")
        if usage.output_tokens is not None:
            raise invalid(
                "Give output_tokens or max_output_tokens, not both.", "usage.max_output_tokens"
            )
    if not usage.counts():
        raise invalid("The usage counts nothing.", "usage")


def check_metadata(metadata: dict[str, str] | None) -> None:
    """Refuse (422) metadata that is too large."""
    if metadata and sum(len(k.encode()) + len(v.encode()) for k, v in metadata.items()) > (
        METADATA_BYTES
    ):
        raise invalid(f"The metadata may have at most {METADATA_BYTES} bytes.", "metadata")


def invalid(message: str, param: str | None) -> Refusal:
    """Return the refusal of one field."""
    return Refusal(ErrorCode.INVALID_REQUEST, message, param=param)


def _decode_again(kind: type[T], body: bytes, error: msgspec.ValidationError) -> T:
    # A field may be wrong before the text turns out not to be JSON, or before the same key comes
    # again: the whole text counts first.
    try:
        value = _ANY.decode(body)
    except msgspec.ValidationError:  # a number that no type can hold
        raise _invalid(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
        raise _not_json(broken) from broken
    return convert(value, kind)


def _not_json(error: Exception) -> Refusal:
    detail = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
    return Refusal(ErrorCode.INVALID_JSON, f"The body is not valid JSON: {detail}.")


def _invalid(error: msgspec.ValidationError) -> Refusal:
    text = str(error)
    path = _PATH.search(text)
    missing = _MISSING.search(text)
    parts = [path.group(1) if path else "", missing.group(1) if missing else ""]
    param = ".".join(part for part in parts if part).replace("[...]", "")[:256] or None
    if "regex" in text:
        form = _FORMS.get(param or "", "text without control characters")
        return invalid(f"{param} must be {form}.", param)
    text = _PATH.sub("", text).replace(" | null", "")
    return invalid(f"{text}." if param is None else f"{param}: {text}.", param)
