"""The kinds of settings: how the text of each is read, and what is allowed in it."""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar import deployment

# The kernel's limit for a socket's path is 107 bytes on Linux and 103 on macOS.
_SOCKET_PATH_BYTES: Final = 103

SIGNING_PREFIX: Final = "whsec_"
"""What the secrets of Standard Webhooks begin with; the rest is the key in base64."""

_SIGNING_KEY_BYTES: Final = 24


class Secret(str):
    """A string that does not show itself in a `repr`, and so in no log and no message."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'********'" if self else "''"


class Url(str):
    """A URL that hides its password in a `repr`."""

    __slots__ = ()

    def __repr__(self) -> str:
        text = re.sub(r"(://[^/:@]*):.*@", r"\1:********@", str(self))
        return repr(re.sub(r"(?i)([?&][a-z]*password=)[^&]*", r"\1********", text))


@dataclass(frozen=True, slots=True)
class Kind:
    """How a text becomes a value: `parse` raises `ValueError` unless the text is as `allowed`."""

    parse: Callable[[str], Any]
    allowed: str
    is_secret: bool = False


def about(kind: Kind, sentence: str) -> dict[str, Any]:
    """Return what is kept beside the default of a setting: how it is read, what it is for."""
    return {"kind": kind, "sentence": sentence}


def whole(least: int, most: int) -> Kind:
    """Return the kind of an integer within bounds, both included."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError
        return int(text)

    return Kind(parse, f"a whole number from {least} to {most}")


def choice(*names: str) -> Kind:
    """Return the kind of a closed set of lower-case names; upper case is accepted."""

    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError
        return text.lower()

    return Kind(parse, "one of " + ", ".join(names))


def url(*schemes: str) -> Kind:
    """Return the kind of a URL with one of some schemes."""

    def parse(text: str) -> Url:
        parts = urlsplit(text)
        _ = parts.port  # reading a wrong port raises ValueError
        rest = parts.netloc or parts.path or parts.query
        if parts.scheme not in schemes or not rest or not text.startswith(f"{parts.scheme}://"):
            raise ValueError
        return Url(text)

    return Kind(parse, "a URL that begins with " + " or ".join(f"{name}://" for name in schemes))


def _redis_url(text: str) -> Url:
    deployment.parse(text)
    return Url(text)


def is_loopback(address: str) -> bool:
    """Tell whether only this machine reaches an address of the kind `ADDRESS`."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
        raise ValueError
    return text.lower() in ("true", "1", "yes")


def _name(text: str) -> str:
    if not re.fullmatch(r"[\x21-\x7e]{1,100}", text):
        raise ValueError
    return text


def _secret(text: str) -> Secret:
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        raise ValueError
    return Secret(text)


def _secrets(text: str) -> tuple[Secret, ...]:
    return tuple(_secret(element.strip()) for element in text.split(","))


def _signing_secrets(text: str) -> tuple[Secret, ...]:
    secrets = _secrets(text)
    for secret in secrets:
        if not secret.startswith(SIGNING_PREFIX):
            raise ValueError
        key = base64.b64decode(secret.removeprefix(SIGNING_PREFIX), validate=True)
        if len(key) < _SIGNING_KEY_BYTES:
            raise ValueError
    return secrets


def _address(text: str) -> str:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or len(path.encode()) > _SOCKET_PATH_BYTES:
            raise ValueError
        return text
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]", host):
        raise ValueError
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError
    return text


ADDRESS: Final = Kind(
    _address,
    f"host:port, [ipv6]:port or unix:/absolute/path ({_SOCKET_PATH_BYTES} bytes at most)",
)
FLAG: Final = Kind(_flag, "true or false")
NAME: Final = Kind(_name, "1 to 100 printable ASCII characters without spaces")
PATH: Final = Kind(Path, "a path")
SECRET: Final = Kind(_secret, "printable ASCII without spaces", is_secret=True)
SECRETS: Final = Kind(_secrets, "a comma-separated list without blank elements", is_secret=True)
SIGNING_SECRETS: Final = Kind(
    _signing_secrets,
    f"{SIGNING_PREFIX} and at least {_SIGNING_KEY_BYTES} bytes in base64,"
    " or a comma-separated list of such without blank elements",
    is_secret=True,
)
REDIS_URL: Final = Kind(
    _redis_url,
    "redis://, rediss:// or unix://, redis+sentinel://host:port,…/service"
    " or redis+cluster://host:port,…",
)
HTTP_URL: Final = url("http", "https")
