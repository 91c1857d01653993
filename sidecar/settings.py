"""The settings: read once from the environment (`CREDITS_*`), checked, and then never changed."""

from __future__ import annotations

import dataclasses
import difflib
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from sidecar.errors import SettingsError
from sidecar.kinds import (
    ADDRESS,
    FLAG,
    NAME,
    PATH,
    REDIS_URL,
    SECRET,
    Kind,
    Secret,
    Url,
    about,
    choice,
    is_loopback,
    url,
    whole,
)
from sidecar.money_settings import MoneySettings

PREFIX: Final = "CREDITS_"

# Not settings of ours: the test suite's own switches pass through to the roles that it starts.
_IGNORED_PREFIX: Final = "CREDITS_TEST_"

# Pairs of settings of which the first may not be more than the second.
_ORDERED: Final = (
    ("journal_segment_mb", "journal_max_mb"),
    ("sidecar_lost_seconds", "sidecar_dead_seconds"),
    ("redis_memory_alarm_percent", "redis_memory_refuse_percent"),
)


def _host_name() -> str:
    return socket.gethostname() or "sidecar"


@dataclass(frozen=True, slots=True)
class Settings(MoneySettings):
    """Every setting, with its unit, default and meaning. A blank default means: not set."""

    redis_url: str = field(
        default=Url("redis://127.0.0.1:6379/0"),
        metadata=about(REDIS_URL, "The Redis that decides: one, with sentinels, or a cluster."),
    )
    postgres_url: str = field(
        default=Url(""),
        metadata=about(
            url("postgresql", "postgres"),
            "The ledger's database; worker, control and migrate need it.",
        ),
    )
    listen: str = field(
        default="127.0.0.1:8787",
        metadata=about(ADDRESS, "Where `serve` listens; beyond loopback it needs an API key."),
    )
    api_key: Secret = field(
        default=Secret(""),
        metadata=about(SECRET, "The bearer token of calls to `serve`; unset, none is needed."),
    )
    control_listen: str = field(
        default="127.0.0.1:8788", metadata=about(ADDRESS, "Where `control` listens.")
    )
    admin_token: Secret = field(
        default=Secret(""),
        metadata=about(SECRET, "The bearer token of the admin API; `control` needs it."),
    )
    worker_listen: str = field(
        default="127.0.0.1:8790",
        metadata=about(ADDRESS, "Where a worker answers /healthz, /readyz and /metrics."),
    )
    price_book: Path | None = field(
        default=None, metadata=about(PATH, "A JSON file of prices instead of the built-in one.")
    )
    redis_timeout_ms: int = field(
        default=250,
        metadata=about(whole(10, 60_000), "How long one decision may wait for Redis."),
    )
    redis_connections: int = field(
        default=64,
        metadata=about(whole(1, 10_000), "Most connections from one sidecar to Redis."),
    )
    load_wait_ms: int = field(
        default=250,
        metadata=about(
            whole(1, 60_000),
            "How long a call waits for a worker to load an account that Redis does not have.",
        ),
    )
    allow_unsafe_redis: bool = field(
        default=False,
        metadata=about(FLAG, "Serve although Redis may forget: no AOF, or an eviction policy."),
    )
    journal_dir: Path | None = field(
        default=None,
        metadata=about(PATH, "The journal of `serve`; unset: a folder in ./credits-journal."),
    )
    journal_fsync: str = field(
        default="interval",
        metadata=about(
            choice("none", "interval", "group"),
            "When the journal is synchronised: never, each second, or before each answer.",
        ),
    )
    journal_max_mb: int = field(
        default=1_024,
        metadata=about(whole(1, 1_048_576), "Most MB of journal; then new calls are refused."),
    )
    journal_segment_mb: int = field(
        default=16,
        metadata=about(whole(1, 1_024), "The size of one file of the journal in MB, 2^20 B."),
    )
    sidecar_name: str = field(
        default_factory=_host_name,
        metadata=about(NAME, "The name of `serve` in lists of sidecars; unset: the host's."),
    )
    sidecar_lost_seconds: int = field(
        default=15,
        metadata=about(
            whole(12, 86_400),
            "How long without a sign of life a worker lets go of a sidecar, once all is flushed.",
        ),
    )
    sidecar_dead_seconds: int = field(
        default=0,
        metadata=about(
            whole(0, 31_536_000),
            "How long a recovery waits for a lost sidecar until it is declared dead; 0: for ever.",
        ),
    )
    redis_memory_alarm_percent: int = field(
        default=60,
        metadata=about(whole(1, 100), "How full of its maxmemory Redis may be without an alarm."),
    )
    redis_memory_refuse_percent: int = field(
        default=85,
        metadata=about(whole(1, 100), "How full Redis may be until new calls are refused."),
    )
    audit_interval_seconds: int = field(
        default=900, metadata=about(whole(0, 86_400), "How often a worker audits; 0: never.")
    )
    stream_keep_seconds: int = field(
        default=60,
        metadata=about(
            whole(0, 86_400), "How long events stay in Redis after the ledger committed them."
        ),
    )
    flush_interval_ms: int = field(
        default=250,
        metadata=about(whole(1, 60_000), "How often usage is flushed to the ledger."),
    )
    flush_batch_events: int = field(
        default=5_000, metadata=about(whole(1, 100_000), "Most events in one flush transaction.")
    )
    log_format: str = field(
        default="auto",
        metadata=about(
            choice("auto", "json", "text"), "auto: text on a terminal, JSON lines elsewhere."
        ),
    )
    log_level: str = field(
        default="info",
        metadata=about(choice("debug", "info", "warning", "error"), "The least level logged."),
    )
    shutdown_grace_ms: int = field(
        default=10_000,
        metadata=about(whole(0, 600_000), "How long a stopping role may finish what runs."),
    )

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str], *, defaults: Mapping[str, str] | None = None
    ) -> Settings:
        """Return the settings of an environment; `defaults` are variables that it may override.

        Raises `SettingsError` when a `CREDITS_*` variable is unknown or wrong, when two do not go
        together, when a listener beyond loopback has no secret, or when alerts have none.
        """
        variables = {**(defaults or {}), **environment}
        names = {variable_of(name): name for name in setting_names()}
        values: dict[str, Any] = {}
        for variable, text in sorted(variables.items()):
            if not variable.startswith(PREFIX) or variable.startswith(_IGNORED_PREFIX):
                continue
            if variable not in names:
                raise SettingsError(_unknown(variable, list(names)))
            values[names[variable]] = _parse(names[variable], text)
        settings = cls(**values)
        settings._refuse_open_listeners()
        settings._refuse_wrong_orders()
        if settings.alert_url:
            settings.require("alert_secret")
        return settings

    @property
    def journal_directory(self) -> Path:
        """The directory of the journal, also when it is not set."""
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", self.listen).strip("-.")
        return self.journal_dir or Path("credits-journal", slug)

    def require(self, *names: str) -> None:
        """Check that settings are given; raises `SettingsError` with the first that is not."""
        for name in names:
            if not getattr(self, name):
                raise SettingsError(
                    f"{variable_of(name)} is not set. {sentence_of(name)} "
                    f"Give {kind_of(name).allowed}."
                )

    def _refuse_open_listeners(self) -> None:
        for listen, secret in (("listen", "api_key"), ("control_listen", "admin_token")):
            address = getattr(self, listen)
            if not is_loopback(address) and not getattr(self, secret):
                raise SettingsError(
                    f"{variable_of(listen)}={address} can be reached from other machines: "
                    f"set {variable_of(secret)} too, or listen on 127.0.0.1."
                )

    def _refuse_wrong_orders(self) -> None:
        for less, more in _ORDERED:
            least, most = getattr(self, less), getattr(self, more)
            if least > most > 0:  # 0 means never
                raise SettingsError(
                    f"{variable_of(less)}={least} must not be more than {variable_of(more)}={most}."
                )


def setting_names() -> tuple[str, ...]:
    """Return the names of all settings, in the order in which they are explained."""
    money = [setting.name for setting in dataclasses.fields(MoneySettings)]
    own = [setting.name for setting in dataclasses.fields(Settings) if setting.name not in money]
    return (*own, *money)


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return PREFIX + name.upper()


def kind_of(name: str) -> Kind:
    """Return how a setting is read."""
    kind = Settings.__dataclass_fields__[name].metadata["kind"]
    assert isinstance(kind, Kind)
    return kind


def sentence_of(name: str) -> str:
    """Return the sentence that says what a setting is for."""
    return str(Settings.__dataclass_fields__[name].metadata["sentence"])


def _parse(name: str, text: str) -> Any:
    kind, variable = kind_of(name), variable_of(name)
    if not text.strip():
        raise SettingsError(f"{variable} is set but blank: unset it, or give it {kind.allowed}.")
    try:
        return kind.parse(text)
    except ValueError:
        shown = "" if kind.is_secret else "=" + (repr(Url(text)) if "://" in text else repr(text))
        raise SettingsError(f"{variable}{shown} is wrong: it must be {kind.allowed}.") from None


def _unknown(variable: str, known: list[str]) -> str:
    # Without the prefix, which makes all of them look alike.
    bare = [name.removeprefix(PREFIX) for name in known]
    near = difflib.get_close_matches(variable.removeprefix(PREFIX), bare, n=1, cutoff=0.6)
    hint = (
        f"Did you mean {PREFIX}{near[0]}?" if near else "`credit-sidecar settings` lists them all."
    )
    return f"{variable} is not a setting of Credit Sidecar. {hint}"
