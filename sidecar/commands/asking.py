"""Asking before a command does what cannot be taken back."""

from __future__ import annotations

import sys

import click


def is_terminal() -> bool:
    """Tell whether a person can be asked."""
    return sys.stdin.isatty()


def require_consent(question: str, *, is_sure: bool) -> None:
    """Ask, unless `--yes` was given. Aborts on "no"; a program that cannot be asked is refused."""
    if is_sure:
        return
    if not is_terminal():
        raise click.UsageError("Nobody can be asked here: give --yes to do it all the same.")
    click.confirm(question, abort=True, err=True)
