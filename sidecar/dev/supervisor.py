"""`credit-sidecar dev`: one process that starts everything, watches it, and stops it in order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Final

import click
import httpx
from rich.console import Console

from persistence.schema import upgrade
from sidecar.commands import dev_state
from sidecar.commands.probe import reachable
from sidecar.dev import demo
from sidecar.dev.children import Child, say
from sidecar.dev.embedded import PostgresServer, RedisServer
from sidecar.dev.plan import Plan, make_plan
from sidecar.dev.processes import StartError
from sidecar.dev.story import Story
from sidecar.dev.story_world import StoryFailed, World

_READY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.1
_SAME_WISH_SECONDS: Final = 0.5
_MARGIN_SECONDS: Final = 10.0  # on top of the time that a role itself may take to finish

# The hot path first, so that the worker flushes all that it answered; the databases last.
_STOP_ORDER: Final = ("serve", "worker", "control", "stripe")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run(
    environment: Mapping[str, str],
    *,
    port: int | None,
    control_port: int | None,
    data_dir: Path,
    has_story: bool = False,
) -> int:
    """Run everything until a signal or until a part dies; return the exit status.

    With a story it is played, the audit runs, and that is all. Raises `StartError`,
    `SettingsError` and `DevAlreadyRunning` when it cannot start.
    """
    data_dir = data_dir.resolve()
    with dev_state.locked(data_dir):
        plan = make_plan(environment, port=port, control_port=control_port)
        return Supervisor(plan, environment, data_dir, has_story=has_story).run()


class Supervisor:
    """Starts the parts of one `dev`, and stops what it started."""

    def __init__(
        self,
        plan: Plan,
        environment: Mapping[str, str],
        data_dir: Path,
        *,
        has_story: bool = False,
    ) -> None:
        self._plan = plan
        self._has_story = has_story
        self._environment = environment
        self._data_dir = data_dir
        self._children: dict[str, Child] = {}
        self._servers: list[tuple[str, RedisServer | PostgresServer]] = []
        self._signals = 0
        self._last_signal = -_SAME_WISH_SECONDS
        self._told_to_stop = threading.Event()
        self._console = Console(highlight=False)

    def run(self) -> int:
        """Start, watch, stop; return the exit status: 0 when all ended as it should."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        is_well = False
        try:
            self._start()
            is_well = self._tell_story() if self._has_story else self._watch()
        finally:
            is_well = self._stop() and is_well
        if self._signals > 1:
            return 130
        return 0 if is_well else 1

    def _on_signal(self, _: int, __: FrameType | None) -> None:
        # One wish may come twice: from the terminal, and from the `make` that started us.
        if monotonic() - self._last_signal < _SAME_WISH_SECONDS:
            return
        self._last_signal = monotonic()
        self._signals += 1
        self._told_to_stop.set()
        if self._signals == 2:
            # What the databases have is safe: they are still stopped in order.
            for child in self._children.values():
                child.process.kill()
        elif self._signals > 2:
            os._exit(130)

    def _start(self) -> None:
        redis_url = self._start_redis()
        postgres_url = self._start_postgres()
        with self._step("Ledger", "schema and demo account"):
            upgrade(postgres_url)
            demo.make_demo_account(postgres_url)
        variables = {
            # What is told must not drown in what is logged.
            **({"CREDITS_LOG_LEVEL": "warning"} if self._has_story else {}),
            "CREDITS_JOURNAL_DIR": str(self._data_dir / "journal"),
            **self._plan.variables,
            "CREDITS_REDIS_URL": redis_url,
            "CREDITS_POSTGRES_URL": postgres_url,
        }
        self._start_children({**self._environment, **variables})
        self._wait_until_ready()
        if not self._told_to_stop.is_set():
            dev_state.write(self._data_dir, variables)
            if not self._has_story:
                say(demo.welcome(self._plan, redis_url, postgres_url, self._data_dir))

    def _start_redis(self) -> str:
        if not self._plan.has_own_redis:
            return self._plan.settings.redis_url
        server = RedisServer(self._data_dir / "redis")
        with self._step("Redis", "embedded"):
            server.start()
        self._servers.append(("Redis", server))
        return server.url

    def _start_postgres(self) -> str:
        if not self._plan.has_own_postgres:
            return self._plan.settings.postgres_url
        server = PostgresServer(self._data_dir / "postgres")
        with self._step("Postgres", "embedded; the first time takes longer"):
            server.start()
        self._servers.append(("Postgres", server))
        return server.url()

    def _start_children(self, environment: Mapping[str, str]) -> None:
        settings = self._plan.settings
        # The worker first: it opens the shards that the others wait for.
        roles = {
            "worker": settings.worker_listen,
            "serve": settings.listen,
            "control": settings.control_listen,
        }
        for role, address in roles.items():
            self._children[role] = Child(role, ["sidecar", role], address, environment)
        if self._plan.fake_stripe:
            self._children["stripe"] = self._fake_stripe(self._plan.fake_stripe, environment)

    def _fake_stripe(self, address: str, environment: Mapping[str, str]) -> Child:
        settings = self._plan.settings
        level = "warning" if self._has_story else "info"
        arguments = ["sidecar.dev.fake_stripe", "--listen", address, "--log-level", level]
        if not settings.control_listen.startswith("unix:"):
            url = f"http://{reachable(settings.control_listen)}/stripe/webhook"
            secrets = ",".join(settings.stripe_webhook_secret)
            arguments += ["--webhook-url", url, "--webhook-secret", secrets]
        return Child("stripe", arguments, address, environment, ready_path="/healthz")

    def _wait_until_ready(self) -> None:
        with self._step("Roles", ", ".join(self._children)):
            deadline = monotonic() + _READY_SECONDS
            waiting = dict(self._children)
            while waiting and not self._told_to_stop.wait(_POLL_SECONDS):
                self._refuse_dead_children()
                waiting = {name: one for name, one in waiting.items() if not one.is_ready()}
                if waiting and monotonic() > deadline:
                    names = " and ".join(waiting)
                    raise StartError(f"Not ready after {_READY_SECONDS:.0f} s: {names}.")

    def _refuse_dead_children(self) -> None:
        for name, child in self._children.items():
            status = child.process.poll()
            if status is not None:
                raise StartError(f"{name} {_ended(status)} while starting; its log says why.")

    def _tell_story(self) -> bool:
        """Play the story, then audit; False when something did not come out right."""
        if self._told_to_stop.is_set():
            return False
        try:
            with contextlib.closing(World(self._plan)) as world:
                Story(world, say).play()
        except (StoryFailed, httpx.HTTPError) as error:
            click.secho(f"The story ended: {error}", fg="red", err=True)
            return False
        say("")
        command = [sys.executable, "-m", "sidecar", "audit", "--data-dir", str(self._data_dir)]
        return subprocess.run(command, env=dict(self._environment), check=False).returncode == 0

    def _watch(self) -> bool:
        """Wait for a signal; False when a part ended before by itself."""
        while not self._told_to_stop.wait(_POLL_SECONDS):
            for name, status in self._statuses():
                if status is not None:
                    click.secho(f"{name} {_ended(status)} by itself.", fg="red", err=True)
                    return False
        return True

    def _statuses(self) -> Iterator[tuple[str, int | None]]:
        for name, child in self._children.items():
            yield name, child.process.poll()
        for name, server in self._servers:
            yield name, server.process.poll()

    def _stop(self) -> bool:
        """Stop everything that was started; True when every role finished what it did."""
        if self._children or self._servers:
            say("\nStopping; a second Ctrl-C does not wait.")
        grace = self._plan.settings.shutdown_grace_ms / 1000 + _MARGIN_SECONDS
        is_well = True
        for child in (self._children[name] for name in _STOP_ORDER if name in self._children):
            is_well = self._stop_child(child, grace) and is_well
        for name, server in self._servers:
            with self._step(f"{name} stopped", "stopping"):
                server.stop()
        return is_well

    def _stop_child(self, child: Child, grace_seconds: float) -> bool:
        if child.process.poll() is not None:
            return False  # and it has been said
        with self._step(f"{child.name} stopped", "finishing what runs"):
            status = child.stop(grace_seconds)
        if status != 0:
            click.secho(f"{child.name} {_ended(status)}.", fg="red", err=True)
        return status == 0

    @contextlib.contextmanager
    def _step(self, name: str, what: str) -> Iterator[None]:
        started = monotonic()
        with self._console.status(f"{name}: {what} …"):
            yield
        say(f"{click.style('✓', fg='green')} {name} {monotonic() - started:.1f} s")


def _ended(status: int) -> str:
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}"
