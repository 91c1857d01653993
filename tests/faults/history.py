"""What the clients asked and were told, attempt by attempt, in memory and in a file."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

NO_ANSWER: Final = 0
RETRIED_HTTP: Final = frozenset({NO_ANSWER, 500, 502, 503, 504})

_encode: Final = msgspec.json.Encoder().encode


class Attempt(msgspec.Struct):
    """One request to one sidecar. Instants are seconds of the monotonic clock of this process.

    `http` is 0 when there was no answer; then `fields` has an `error` that says why. `answered` is
    when the wait for it ended. `is_noise`: the client hung up by itself, and learns nothing.
    """

    sidecar: int
    sent: float
    answered: float = 0.0
    http: int = NO_ANSWER
    fields: dict[str, Any] = {}
    is_noise: bool = False

    @property
    def is_done(self) -> bool:
        """Whether it was acknowledged."""
        return self.http == 200

    @property
    def is_fresh(self) -> bool:
        """Whether it was acknowledged as done by this very request, in Redis."""
        return self.is_done and not self.fields["replayed"] and not self.is_degraded

    @property
    def is_degraded(self) -> bool:
        """Whether it was acknowledged without Redis."""
        return bool(self.fields.get("degraded"))

    @property
    def is_bad(self) -> bool:
        """Whether it says nothing about the outcome, through no fault of the client."""
        return self.http in RETRIED_HTTP and not self.is_noise

    @property
    def code(self) -> str:
        """`status` of an answer, `code` of an error, or why there was none."""
        error = self.fields.get("error")
        if isinstance(error, dict):
            return str(error["code"])
        return str(error or self.fields.get("status"))


class Call(msgspec.Struct):
    """One call with its id and all attempts at it."""

    number: int
    account: str
    operation: str
    id: str
    body: dict[str, Any]
    home: int
    attempts: list[Attempt] = []

    @property
    def sent(self) -> float:
        """When it was sent first."""
        return self.attempts[0].sent

    @property
    def done(self) -> Attempt | None:
        """The first attempt that was acknowledged."""
        done = [attempt for attempt in self.attempts if attempt.is_done]
        return min(done, key=lambda attempt: attempt.answered, default=None)

    @property
    def is_in_doubt(self) -> bool:
        """Whether some attempt may have been carried out without a word."""
        return any(attempt.http in RETRIED_HTTP for attempt in self.attempts)

    @property
    def refusal(self) -> Attempt | None:
        """The last attempt that was refused for good, if none was acknowledged."""
        refused = [attempt for attempt in self.attempts if attempt.http not in RETRIED_HTTP]
        return None if self.done or not refused else refused[-1]

    @property
    def amount(self) -> int:
        """What it asked for, in microcredits."""
        return int(self.body.get("amount", 0))

    def __str__(self) -> str:
        return f"{self.operation} {self.id} of {self.account}"


class Line(msgspec.Struct):
    """A line of the file: an attempt and its call."""

    number: int
    operation: str
    body: dict[str, Any]
    attempt: Attempt


class History:
    """All calls of some accounts. Written by the clients' thread, read by any."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()
        self._calls: list[Call] = []
        self._notes: list[str] = []

    def begin(self, account: str, operation: str, body: dict[str, Any], home: int) -> Call:
        """Enter a call that is about to be made."""
        with self._lock:
            number = len(self._calls)
            call = Call(number, account, operation, body["id"], body, home, [])
            self._calls.append(call)
        return call

    def attempt(self, call: Call, sidecar: int, now: float, *, is_noise: bool = False) -> Attempt:
        """Enter an attempt that is about to be made."""
        attempt = Attempt(sidecar, now, is_noise=is_noise)
        call.attempts.append(attempt)
        return attempt

    def write(self, call: Call, attempt: Attempt) -> None:
        """Write down an attempt that has ended."""
        line = Line(call.number, call.operation, call.body, attempt)
        self._file.write(_encode(line) + b"\n")

    def note(self, text: str) -> None:
        """Write down something that no client may be told."""
        self._notes.append(text)
        self._file.write(_encode({"note": text}) + b"\n")

    def notes(self) -> list[str]:
        """Return what no client may be told and was."""
        return list(self._notes)

    def calls(self) -> list[Call]:
        """Return all calls at which there was an attempt, in the order in which they began."""
        with self._lock:
            return [call for call in self._calls if call.attempts]

    def attempts(self, since: float = 0.0) -> Iterator[tuple[Call, Attempt]]:
        """Yield the attempts that ended and were sent after an instant."""
        for call in self.calls():
            for attempt in list(call.attempts):
                if attempt.sent >= since and attempt.answered:
                    yield call, attempt

    def close(self) -> None:
        """Close the file."""
        self._file.close()
