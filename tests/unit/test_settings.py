"""The settings: defaults, every kind of wrong value, and what a message may show."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sidecar.errors import SettingsError
from sidecar.kinds import Secret, Url, is_loopback
from sidecar.settings import (
    Settings,
    kind_of,
    sentence_of,
    setting_names,
    variable_of,
)


def refusal(**variables: str) -> str:
    with pytest.raises(SettingsError) as refused:
        Settings.from_environment(variables)
    return str(refused.value)


def test_an_empty_environment_gives_the_defaults_of_the_contract() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.listen == "127.0.0.1:8787"
    assert settings.control_listen == "127.0.0.1:8788"
    assert settings.redis_timeout_ms == 250


def test_each_setting_has_a_sentence_and_says_what_is_allowed() -> None:
    for name in setting_names():
        assert sentence_of(name).endswith("."), name
        assert kind_of(name).allowed, name


def test_the_default_of_each_setting_is_a_value_that_it_would_accept() -> None:
    settings = Settings()
    for name in setting_names():
        default = getattr(settings, name)
        if default not in ("", None, ()):
            text = str(default).lower() if isinstance(default, bool) else str(default)
            assert kind_of(name).parse(text) == default, name


def test_values_are_read_with_their_types() -> None:
    settings = Settings.from_environment(
        {
            "CREDITS_REDIS_URL": "unix:///run/redis.sock?db=1",
            "CREDITS_POSTGRES_URL": "postgresql://u:p@/credits?host=/run/pg",
            "CREDITS_LISTEN": "unix:/run/credits.sock",
            "CREDITS_PRICE_BOOK": "/etc/prices.json",
            "CREDITS_REDIS_TIMEOUT_MS": "10",
            "CREDITS_ALLOW_UNSAFE_REDIS": "True",
            "CREDITS_STRIPE_WEBHOOK_SECRET": "whsec_a, whsec_b",
            "CREDITS_LOG_FORMAT": "JSON",
        }
    )
    assert settings.redis_url == "unix:///run/redis.sock?db=1"
    assert settings.listen == "unix:/run/credits.sock"
    assert settings.price_book == Path("/etc/prices.json")
    assert settings.redis_timeout_ms == 10
    assert settings.allow_unsafe_redis is True
    assert settings.stripe_webhook_secret == ("whsec_a", "whsec_b")
    assert settings.log_format == "json"


def test_the_environment_overrides_the_defaults_that_are_given() -> None:
    defaults = {"CREDITS_LOG_LEVEL": "error", "CREDITS_LOG_FORMAT": "json"}
    settings = Settings.from_environment({"CREDITS_LOG_LEVEL": "debug"}, defaults=defaults)
    assert (settings.log_level, settings.log_format) == ("debug", "json")


def test_other_variables_and_those_of_the_tests_are_not_settings() -> None:
    environment = {"PATH": "/bin", "CREDITS_TEST_POSTGRES_URL": "anything"}
    assert Settings.from_environment(environment) == Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CREDITS_REDIS_URL", "http://127.0.0.1"),
        ("CREDITS_REDIS_URL", "redis:"),
        ("CREDITS_REDIS_URL", "redis://127.0.0.1:port"),
        ("CREDITS_POSTGRES_URL", "mysql://x"),
        ("CREDITS_LISTEN", "8787"),
        ("CREDITS_LISTEN", ":8787"),
        ("CREDITS_LISTEN", "127.0.0.1:0"),
        ("CREDITS_LISTEN", "127.0.0.1:65536"),
        ("CREDITS_LISTEN", "::1:8787"),
        ("CREDITS_LISTEN", "unix:relative.sock"),
        ("CREDITS_LISTEN", "unix:/" + "x" * 103),
        ("CREDITS_REDIS_TIMEOUT_MS", "9"),
        ("CREDITS_REDIS_TIMEOUT_MS", "60001"),
        ("CREDITS_REDIS_TIMEOUT_MS", "250.0"),
        ("CREDITS_REDIS_TIMEOUT_MS", "-250"),
        ("CREDITS_REDIS_TIMEOUT_MS", "2_50"),
        ("CREDITS_REDIS_TIMEOUT_MS", "٢٥٠"),
        ("CREDITS_ALLOW_UNSAFE_REDIS", "maybe"),
        ("CREDITS_TOP_UP_URL", "javascript://x"),
        ("CREDITS_JOURNAL_FSYNC", "always"),
        ("CREDITS_JOURNAL_MAX_MB", "0"),
        ("CREDITS_JOURNAL_SEGMENT_MB", "1025"),
        ("CREDITS_SIDECAR_NAME", "two words"),
        ("CREDITS_SIDECAR_NAME", "x" * 101),
        ("CREDITS_SIDECAR_LOST_SECONDS", "11"),
        ("CREDITS_REDIS_MEMORY_ALARM_PERCENT", "0"),
        ("CREDITS_REDIS_MEMORY_REFUSE_PERCENT", "101"),
        ("CREDITS_LOG_FORMAT", "xml"),
        ("CREDITS_LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_value_names_the_variable_the_value_and_what_is_allowed(
    variable: str, value: str
) -> None:
    message = refusal(**{variable: value})
    assert message.startswith(f"{variable}={value!r} is wrong: it must be ")


@pytest.mark.parametrize("name", setting_names())
def test_a_blank_value_is_refused_for_every_setting(name: str) -> None:
    for blank in ("", "  "):
        message = refusal(**{variable_of(name): blank})
        assert message.startswith(f"{variable_of(name)} is set but blank")


@pytest.mark.parametrize("value", ["a,,b", ",a", "a,", "a, ,b", ","])
def test_a_blank_element_in_a_list_of_secrets_is_refused(value: str) -> None:
    assert "without blank elements" in refusal(CREDITS_STRIPE_WEBHOOK_SECRET=value)


def test_alerts_are_signed_with_standard_webhooks_secrets() -> None:
    old, new = f"whsec_{'a' * 32}", f"whsec_{'b' * 44}"
    given = {"CREDITS_ALERT_URL": "https://a.example/hook", "CREDITS_ALERT_SECRET": f"{old}, {new}"}
    assert Settings.from_environment(given).alert_secret == (old, new)
    for wrong in ("a" * 32, "whsec_", "whsec_short", f"whsec_{'a' * 31}", f"{old},", f"{old},x"):
        assert "CREDITS_ALERT_SECRET is wrong" in refusal(CREDITS_ALERT_SECRET=wrong)


def test_an_address_for_alerts_without_a_secret_is_refused() -> None:
    message = refusal(CREDITS_ALERT_URL="https://a.example/hook")
    assert message.startswith("CREDITS_ALERT_SECRET is not set.")


def test_an_unknown_variable_is_refused_with_the_nearest_known_name() -> None:
    message = refusal(CREDITS_REDIS_TIMEOUT="250")
    assert "CREDITS_REDIS_TIMEOUT is not a setting" in message
    assert "CREDITS_REDIS_TIMEOUT_MS?" in message
    assert "credit-sidecar settings" in refusal(CREDITS_ZZZ="1")


def test_a_message_never_shows_a_secret() -> None:
    assert "hunter" not in refusal(CREDITS_API_KEY="hunter 2")
    assert "hunter" not in refusal(CREDITS_STRIPE_WEBHOOK_SECRET="hunter,")
    assert "hunter" not in refusal(CREDITS_POSTGRES_URL="mysql://me:hunter2@db/x")


def test_the_repr_of_the_settings_shows_no_secret_and_no_password() -> None:
    settings = Settings.from_environment(
        {
            "CREDITS_API_KEY": "hunter2",
            "CREDITS_ADMIN_TOKEN": "hunter3",
            "CREDITS_STRIPE_WEBHOOK_SECRET": "hunter4,hunter5",
            "CREDITS_REDIS_URL": "rediss://:hunter6@redis:6379/0",
            "CREDITS_POSTGRES_URL": "postgresql://me:hunter7@db/credits",
        }
    )
    assert "hunter" not in repr(settings)
    assert settings.api_key == "hunter2"


def test_a_secret_and_a_url_are_their_text_everywhere_but_in_their_repr() -> None:
    assert str(Secret("x")) == "x"
    assert repr(Secret("x")) == "'********'"
    assert repr(Secret("")) == "''"
    assert repr(Url("redis://me:pw@host/0")) == "'redis://me:********@host/0'"
    assert repr(Url("redis://host/0")) == "'redis://host/0'"
    for url in (
        "postgresql://u:p/w@host/db",
        "postgresql://u:a@b@host/db",
        "postgresql://host/db?user=u&password=p/w",
        "postgresql://host/db?sslpassword=a@b&connect_timeout=3",
    ):
        assert not any(secret in repr(Url(url)) for secret in ("p/w", "a@b"))
        assert "host" in repr(Url(url)) or "********@host" in repr(Url(url))


def test_a_sidecar_is_called_like_its_host_unless_told_otherwise() -> None:
    assert Settings.from_environment({}).sidecar_name == socket.gethostname()
    assert Settings.from_environment({"CREDITS_SIDECAR_NAME": "gpu-7"}).sidecar_name == "gpu-7"


@pytest.mark.parametrize(
    ("listen", "folder"),
    [
        ("127.0.0.1:8787", "127.0.0.1-8787"),
        ("[::1]:8787", "1-8787"),
        ("unix:/run/credits/a.sock", "unix-run-credits-a.sock"),
        ("unix:/..", "unix"),
    ],
)
def test_each_listener_has_a_journal_of_its_own_unless_told_otherwise(
    listen: str, folder: str
) -> None:
    settings = Settings.from_environment({"CREDITS_LISTEN": listen})
    assert settings.journal_directory == Path("credits-journal", folder)
    given = {"CREDITS_LISTEN": listen, "CREDITS_JOURNAL_DIR": "/var/lib/credits"}
    assert Settings.from_environment(given).journal_directory == Path("/var/lib/credits")


@pytest.mark.parametrize(
    ("less", "more"),
    [
        ("journal_segment_mb", "journal_max_mb"),
        ("sidecar_lost_seconds", "sidecar_dead_seconds"),
        ("redis_memory_alarm_percent", "redis_memory_refuse_percent"),
    ],
)
def test_settings_that_bound_each_other_are_refused_in_the_wrong_order(
    less: str, more: str
) -> None:
    given = {variable_of(less): "31", variable_of(more): "30"}
    message = f"{variable_of(less)}=31 must not be more than {variable_of(more)}=30."
    assert refusal(**given) == message
    given[variable_of(less)] = "30"
    assert getattr(Settings.from_environment(given), less) == 30


def test_a_sidecar_is_never_declared_dead_by_itself_unless_asked_for() -> None:
    assert Settings.from_environment({}).sidecar_dead_seconds == 0
    given = {"CREDITS_SIDECAR_DEAD_SECONDS": "0", "CREDITS_SIDECAR_LOST_SECONDS": "12"}
    assert Settings.from_environment(given).sidecar_dead_seconds == 0


def test_a_listener_beyond_loopback_needs_its_secret() -> None:
    assert "set CREDITS_API_KEY" in refusal(CREDITS_LISTEN="0.0.0.0:8787")
    assert "set CREDITS_ADMIN_TOKEN" in refusal(CREDITS_CONTROL_LISTEN="[::]:8788")
    both = {"CREDITS_LISTEN": "0.0.0.0:8787", "CREDITS_API_KEY": "k"}
    assert Settings.from_environment(both).listen == "0.0.0.0:8787"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("127.8.9.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("example.com:1", False),
    ],
)
def test_what_only_this_machine_reaches_is_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_a_missing_setting_names_itself_and_what_it_is_for() -> None:
    with pytest.raises(SettingsError, match=r"CREDITS_POSTGRES_URL is not set\. The ledger's"):
        Settings().require("redis_url", "postgres_url")
    Settings().require("redis_url", "listen")
