"""`settings`: every setting, with its value, its bounds and its sentence."""

from __future__ import annotations

from typing import Any

from sidecar.commands.output import print_json, print_table
from sidecar.kinds import Secret, Url
from sidecar.settings import Settings, kind_of, sentence_of, setting_names, variable_of


def show(settings: Settings, *, is_json: bool) -> None:
    """Print all settings; of secrets only whether they are set."""
    if is_json:
        print_json({variable_of(name): _described(settings, name) for name in setting_names()})
        return
    rows = [
        (variable_of(name), _shown(getattr(settings, name)), f"{sentence_of(name)} {allowed(name)}")
        for name in setting_names()
    ]
    print_table(("variable", "now", "what it is"), rows)


def allowed(name: str) -> str:
    """Return the sentence that says what a setting may be."""
    return f"Give {kind_of(name).allowed}."


def _described(settings: Settings, name: str) -> dict[str, Any]:
    return {
        "value": _shown(getattr(settings, name)),
        "allowed": kind_of(name).allowed,
        "meaning": sentence_of(name),
    }


def _shown(value: Any) -> Any:
    if isinstance(value, tuple):
        return ",".join(map(str, map(_shown, value))) or "not set"
    if isinstance(value, Secret):
        return "set" if value else "not set"
    if isinstance(value, Url):
        return repr(value).strip("'") or "not set"
    return "not set" if value in ("", None) else str(value)
