"""What the documents name must exist, and what is new must be in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import click
import pytest
from starlette.routing import Route

from sidecar.billing.alerts import AlertKind
from sidecar.billing.handlers import HANDLERS
from sidecar.billing.offers import FIELDS
from sidecar.billing.plans import CHANGEABLE
from sidecar.billing.stripe_api import API_VERSION
from sidecar.cli import cli
from sidecar.control.app import build
from sidecar.control.payments import FEE_COLUMNS, PAYMENT_COLUMNS
from sidecar.kinds import Secret
from sidecar.settings import Settings, setting_names, variable_of

ROOT: Final = Path(__file__).parent.parent
DOCS: Final = (
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "loadtests/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
)
# What a histogram is made of.
_PARTS: Final = re.compile(r"_(bucket|count|sum)$")


@pytest.fixture(params=DOCS, ids=[path.relative_to(ROOT).as_posix() for path in DOCS])
def text(request: pytest.FixtureRequest) -> str:
    """One document after the other."""
    path: Path = request.param
    return path.read_text()


def test_every_setting_that_is_named_exists(text: str) -> None:
    known = {variable_of(name) for name in setting_names()}
    assert set(re.findall(r"\bCREDITS_[A-Z_]+[A-Z]\b", text)) - known == set()


def test_every_metric_that_is_named_exists(text: str) -> None:
    known = set(re.findall(r'"(credits_[a-z_]+)"', _source("sidecar/metrics.py")))
    named = set(re.findall(r"\bcredits_[a-z_]+", text))
    assert {name for name in named if name not in known and _PARTS.sub("", name) not in known} == (
        set()
    )


def test_every_command_that_is_named_exists(text: str) -> None:
    for words in re.findall(r"credit-sidecar((?: [a-z][a-z-]*)+)", text):
        first, *rest = words.split()
        assert first in cli.commands, words
        command = cli.commands[first]
        if rest and isinstance(command, click.Group):
            assert rest[0] in command.commands, words


def test_every_option_that_is_named_exists(text: str) -> None:
    for words, options in re.findall(
        r"`credit-sidecar ([a-z][a-z -]*?)((?: --?[a-z][^`]*)?)`", text
    ):
        command: click.Command = cli
        for word in words.split():
            if isinstance(command, click.Group):
                command = command.commands[word]
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        assert set(re.findall(r"(?<!\S)--[a-z-]+", options)) - known - {"--help"} == set(), words


def test_every_make_target_that_is_named_exists(text: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", _source("Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
    assert named - targets == set()


def test_every_path_of_the_control_api_that_is_named_exists_and_the_other_way_round() -> None:
    text = _source("docs/api.md").partition("## Control")[2]
    named = {
        _shape(path.replace("…/{account}", "/v1/accounts/{}"))
        for path in re.findall(r"\b(?:GET|PUT|POST) ((?:/v1|/stripe|…/\{account\})[^`?\s]*)", text)
    }
    there = {_shape(path) for path in _control_paths()}
    assert named - there == set()
    # Some stand in short in the row of another: `· /holds`.
    short = {path for path in there - named if not re.search(rf"`/?{_last(path)}`", text)}
    assert short == {"/healthz", "/readyz", "/metrics"}


def test_the_events_to_subscribe_to_are_those_that_are_applied() -> None:
    text = _source("docs/stripe.md")
    table = text.partition("### Events to subscribe to")[2].partition("\n\nMore do no harm")[0]
    assert sorted(re.findall(r"`([a-z_.]+)`", table)) == sorted(HANDLERS)


def test_the_version_of_stripes_api_is_the_one_that_is_read(text: str) -> None:
    assert set(re.findall(r"\d{4}-\d\d-\d\d\.[a-z]+", text)) <= {API_VERSION}


def test_every_kind_of_alert_is_in_the_table() -> None:
    text = _source("docs/alerts.md")
    assert re.findall(r"^\| `([a-z_]+\.[a-z_]+)`", text, re.MULTILINE) == list(AlertKind)


def test_every_outcome_of_a_webhook_that_is_named_exists() -> None:
    files = ("billing/webhook.py", "billing/signature.py", "control/stripe_inbox.py")
    source = "".join(_source(f"sidecar/{name}") for name in files)
    named = re.findall(r'(?:webhooks_total|…)\{outcome="([a-z_]+)"', _source("docs/stripe.md"))
    assert len(named) > 5
    assert [outcome for outcome in named if f'"{outcome}"' not in source] == []


def test_what_logs_and_errors_are_said_to_say_they_say() -> None:
    source = "".join(path.read_text() for path in sorted((ROOT / "sidecar").rglob("*.py")))
    source += "".join(path.read_text() for path in sorted((ROOT / "persistence").rglob("*.py")))
    alarms = _source("docs/stripe.md").partition("## Alarms")[2]
    troubles = _source("docs/operations.md").partition("## When something is wrong")[2]
    said = re.findall(r"`([A-Za-z]+ [A-Za-z',: -]+)`", alarms + " ".join(troubles.split()))
    texts = [text for text in said if not text.startswith("credit-sidecar ")]
    for text in [*texts, *re.findall(r'"([^"{}`]+ [^"{}`]+)"', alarms)]:
        for part in filter(None, (part.strip() for part in text.split("…"))):
            assert part in source, text


@pytest.mark.parametrize("columns", [PAYMENT_COLUMNS, FEE_COLUMNS, FIELDS, tuple(CHANGEABLE)])
def test_what_is_shown_and_saved_of_money_is_in_the_api(columns: tuple[str, ...]) -> None:
    text = _source("docs/api.md")
    missing = {name for name in columns if not re.search(rf"\b{name}\b", text)}
    assert missing - {"updated_ms"} == set()


def _control_paths() -> list[str]:
    settings = Settings(
        postgres_url="postgresql://nobody@127.0.0.1:9/none",
        admin_token=Secret("x"),
        stripe_webhook_secret=(Secret("whsec_x"),),
        stripe_secret_key=Secret("sk_test_x"),
    )
    return [route.path for route in build(settings).routes if isinstance(route, Route)]


def _shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def _last(path: str) -> str:
    return [part for part in path.split("/") if part != "{}"][-1]


def _source(name: str) -> str:
    return (ROOT / name).read_text()
