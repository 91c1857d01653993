"""How the journal's disk is doing, and the alarm when it is not well."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from sidecar.errors import JournalError
from sidecar.metrics import JournalMetrics

log: Final = logging.getLogger(__name__)


class Health:
    """Remembers what failed last; a broken journal stays broken until the process ends.

    A disk that refuses a write may take the next one. But after a failed `fdatasync` nobody can
    say what is on the disk (Linux forgets the failure, and the pages), and after a failed cut what
    was reported as not written may be in the file: a later start may then read records that
    nobody was told of. So nothing is written after either.
    """

    def __init__(self, path: Path, metrics: JournalMetrics) -> None:
        self._path = path
        self._metrics = metrics
        self._trouble: str | None = None
        self.broken: str | None = None

    @property
    def problem(self) -> str | None:
        """A sentence about what is wrong now, or None."""
        return self.broken or self._trouble

    def failed(self, kind: str, error: OSError) -> None:
        """Count and tell of a failure that may pass."""
        self._metrics.errors.labels(kind).inc()
        trouble = f"The journal in {self._path} failed to {kind}: {error}."
        if trouble != self._trouble:
            log.error("the journal's disk fails", extra={"kind": kind, "error": str(error)})
        self._trouble = trouble

    def broke(self, kind: str, error: BaseException) -> None:
        """Count and tell of a failure after which nothing may be written any more."""
        self._metrics.errors.labels(kind).inc()
        if self.broken is None:
            log.critical("the journal is broken", extra={"kind": kind, "error": str(error)})
            self.broken = (
                f"The journal in {self._path} is broken: it failed to {kind}: {error}. "
                "Look after the disk, then start the sidecar again."
            )

    def wrote(self) -> None:
        """Forget the trouble: the disk takes records again."""
        self._trouble = None

    def require_whole(self) -> None:
        """Raise `JournalError` when the journal is broken."""
        if self.broken is not None:
            raise JournalError(self.broken)
