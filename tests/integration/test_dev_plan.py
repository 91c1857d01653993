"""What `dev` decides before it starts anything: ports, settings, and what it brings along."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from sidecar.dev.plan import DEFAULTS, make_plan
from sidecar.dev.processes import StartError
from sidecar.errors import SettingsError
from tests.conftest import free_port


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port of loopback that somebody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def ports() -> dict[str, int]:
    return {"port": free_port(), "control_port": free_port()}


def test_an_empty_environment_gets_everything_of_our_own() -> None:
    plan = make_plan({}, **ports())
    assert plan.has_own_redis
    assert plan.has_own_postgres
    assert plan.fake_stripe
    assert plan.defaults == DEFAULTS
    assert plan.settings.stripe_api_base == f"http://{plan.fake_stripe}"
    assert plan.settings.admin_token == "dev-admin-token"


def test_what_the_environment_gives_is_not_brought_along() -> None:
    given = {
        "CREDITS_REDIS_URL": "redis://127.0.0.1:6379/0",
        "CREDITS_POSTGRES_URL": "postgresql://127.0.0.1/credits",
        "CREDITS_STRIPE_SECRET_KEY": "sk_test_mine",
        "CREDITS_ADMIN_TOKEN": "mine",
        "CREDITS_STRIPE_WEBHOOK_SECRET": "whsec_mine",
    }
    plan = make_plan(given, **ports())
    assert not plan.has_own_redis
    assert not plan.has_own_postgres
    assert plan.fake_stripe is None
    assert plan.settings.stripe_api_base == "https://api.stripe.com"
    assert plan.settings.admin_token == "mine"
    assert plan.defaults.keys() == {"CREDITS_LOG_FORMAT"}


def test_the_ports_that_are_asked_for_win_over_the_environment() -> None:
    asked = ports()
    given = {"CREDITS_LISTEN": "127.0.0.1:1", "CREDITS_CONTROL_LISTEN": "127.0.0.1:2"}
    plan = make_plan(given, **asked)
    assert plan.settings.listen == f"127.0.0.1:{asked['port']}"
    assert plan.settings.control_listen == f"127.0.0.1:{asked['control_port']}"


def test_a_taken_port_is_refused_with_the_option_that_helps(taken_port: int) -> None:
    with pytest.raises(StartError, match=f"Port {taken_port} is taken.* --port"):
        make_plan({}, port=taken_port, control_port=free_port())
    with pytest.raises(StartError, match=f"Port {taken_port} is taken.* --control-port"):
        make_plan({}, port=free_port(), control_port=taken_port)


def test_a_wrong_setting_is_refused_before_anything_starts() -> None:
    with pytest.raises(SettingsError, match="CREDITS_REDIS_URI is not a setting"):
        make_plan({"CREDITS_REDIS_URI": "redis://x"}, **ports())
