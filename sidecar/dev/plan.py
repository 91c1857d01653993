"""What `dev` is going to run, and with which settings, decided before anything starts."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sidecar.commands.probe import reachable
from sidecar.dev.processes import StartError
from sidecar.settings import Settings

DEFAULTS: Final = {
    "CREDITS_ADMIN_TOKEN": "dev-admin-token",
    "CREDITS_STRIPE_WEBHOOK_SECRET": "whsec_dev",
    "CREDITS_LOG_FORMAT": "text",
}
"""What `dev` sets when the environment does not. Fine on loopback, and nowhere else."""

FAKE_STRIPE_KEY: Final = "sk_test_dev"

_CONTROL_PORT: Final = 8788


@dataclass(frozen=True, slots=True)
class Plan:
    """The variables of the roles, and what of them `dev` made up or has to bring along."""

    variables: Mapping[str, str]
    settings: Settings
    defaults: Mapping[str, str]
    fake_stripe: str | None
    has_own_redis: bool
    has_own_postgres: bool


def make_plan(
    environment: Mapping[str, str], *, port: int | None, control_port: int | None
) -> Plan:
    """Decide on ports and settings. `environment` wins over defaults, the ports win over it.

    Raises `SettingsError` for a wrong setting and `StartError` for a port that is taken.
    """
    given = {name: value for name, value in environment.items() if name.startswith("CREDITS_")}
    if port:
        given["CREDITS_LISTEN"] = f"127.0.0.1:{port}"
    if control_port:
        given["CREDITS_CONTROL_LISTEN"] = f"127.0.0.1:{control_port}"
    defaults = {name: value for name, value in DEFAULTS.items() if name not in given}
    chosen: dict[str, str] = {}
    # Beside the control port, so that two of these with ports of their own do not meet.
    beside = _port_of(given.get("CREDITS_CONTROL_LISTEN", "")) or _CONTROL_PORT
    if "CREDITS_WORKER_LISTEN" not in given:
        chosen["CREDITS_WORKER_LISTEN"] = f"127.0.0.1:{_port_near(beside + 2)}"
    fake_stripe = None
    if not {"CREDITS_STRIPE_SECRET_KEY", "CREDITS_STRIPE_API_BASE"} & given.keys():
        fake_stripe = f"127.0.0.1:{_port_near(beside + 1)}"
        chosen["CREDITS_STRIPE_API_BASE"] = f"http://{fake_stripe}"
        chosen["CREDITS_STRIPE_SECRET_KEY"] = FAKE_STRIPE_KEY
    variables = {**defaults, **chosen, **given}
    settings = Settings.from_environment(variables)
    _refuse_taken("CREDITS_LISTEN", "--port", settings.listen)
    _refuse_taken("CREDITS_CONTROL_LISTEN", "--control-port", settings.control_listen)
    return Plan(
        variables=variables,
        settings=settings,
        defaults=defaults,
        fake_stripe=fake_stripe,
        has_own_redis="CREDITS_REDIS_URL" not in given,
        has_own_postgres="CREDITS_POSTGRES_URL" not in given,
    )


def _port_of(address: str) -> int | None:
    port = address.rpartition(":")[2]
    return int(port) if port.isascii() and port.isdigit() else None


def _refuse_taken(variable: str, option: str, address: str) -> None:
    if address.startswith("unix:"):
        return
    host, _, port = address.rpartition(":")
    if not _is_free(host.strip("[]"), int(port)):
        raise StartError(
            f"Port {port} is taken ({reachable(address)}): give another one with {option} or "
            f"{variable}."
        )


def _port_near(port: int) -> int:
    """Return `port`, or when it is taken any that is free."""
    if port < 65_536 and _is_free("127.0.0.1", port):
        return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return found


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
