"""One client's calls: retried with the same id until answered, repeated on purpose, checked.

Knows no HTTP library: locust's clients and the clean-up after a run bring their own transport.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from loadtests.receipts import Finding, Receipt, ReceiptFile, Unanswered

RETRIED_HTTP: Final = (500, 502, 503, 504)
_FIRST_PAUSE_SECONDS: Final = 0.05
_LONGEST_PAUSE_SECONDS: Final = 1.0
# Money moves with these: only here does a lost answer leave a doubt.
_CHARGING: Final = ("hold", "debit", "settle", "refund")


class NoAnswer(Exception):
    """Raised when a call got no answer: refused, reset, or out of time. It may have been done."""


class GaveUp(Exception):
    """Raised when retries did not help; the call is among the unanswered now."""


class Broken(Exception):
    """Raised when an answer breaks the contract; it is among the findings now."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, by its HTTP status."""

    http: int
    fields: dict[str, Any]

    @property
    def code(self) -> str:
        """`status` of an answer, `code` of an error."""
        error = self.fields.get("error")
        return str(error["code"] if error else self.fields["status"])


class Transport(Protocol):
    """How calls get to the sidecars."""

    def send(self, operation: str, body: dict[str, Any]) -> Answer:
        """Send a call to one of the sidecars and return its answer. Raises `NoAnswer`."""

    def send_twice(self, operation: str, body: dict[str, Any]) -> Sequence[Answer | NoAnswer]:
        """Send the same call to two sidecars at the same time."""

    def hang_up(self, operation: str, body: dict[str, Any]) -> None:
        """Send a call and close the connection without waiting for the answer."""


class Caller:
    """Makes calls as a careful client would, and keeps the receipts."""

    def __init__(
        self,
        transport: Transport,
        receipts: ReceiptFile,
        *,
        repeats: float = 0.0,
        patience_seconds: float = 20.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = transport
        self._receipts = receipts
        self._repeats = repeats
        self._patience_seconds = patience_seconds
        self._sleep = sleep
        self._random = random.Random()

    def call(self, operation: str, body: dict[str, Any], *expected: str) -> Answer:
        """Make a call that must end with one of the `expected` statuses or error codes.

        Raises `GaveUp` when nothing answers for long, and `Broken` for another answer.
        """
        try:
            answers, is_in_doubt = self._answers(operation, body)
        except BaseException:
            # Also when locust kills the client: what is in the air must be known of.
            self._receipts.write(Unanswered(operation, body))
            raise
        answer = self._agreed(operation, body, answers)
        if answer.http == 200:
            self._keep(operation, body, answer)
        elif is_in_doubt and operation in _CHARGING:
            # Refused in the end, but an attempt without an answer may be carried out yet.
            self._receipts.write(Unanswered(operation, body))
        if answer.code not in expected:
            raise self._broken(f"{operation} {body} answered {answer}, expected {expected}")
        return answer

    def find(self, text: str) -> None:
        """Write down something that the contract does not allow."""
        self._receipts.write(Finding(text))

    def _broken(self, text: str) -> Broken:
        self.find(text)
        return Broken(text)

    def _answers(self, operation: str, body: dict[str, Any]) -> tuple[list[Answer], bool]:
        """Return at least one answer, and whether some attempt had none."""
        answers: list[Answer] = []
        is_in_doubt = self._is_chosen(0.1)
        if is_in_doubt:
            self._transport.hang_up(operation, body)
        if self._is_chosen(0.5):
            for answer in self._transport.send_twice(operation, body):
                if isinstance(answer, Answer) and answer.http not in RETRIED_HTTP:
                    answers.append(answer)
                else:
                    is_in_doubt = True
        if not answers:
            answer, is_retried = self._retried(operation, body)
            answers.append(answer)
            is_in_doubt |= is_retried
        if self._is_chosen(0.5):
            answers.append(self._retried(operation, body)[0])
        return answers, is_in_doubt

    def _is_chosen(self, share: float) -> bool:
        return self._random.random() < self._repeats * share

    def _retried(self, operation: str, body: dict[str, Any]) -> tuple[Answer, bool]:
        """Return the first answer that is one, and whether there were attempts without."""
        deadline = time.monotonic() + self._patience_seconds
        pause = _FIRST_PAUSE_SECONDS
        is_retried = False
        while True:
            try:
                answer = self._transport.send(operation, body)
                if answer.http not in RETRIED_HTTP:
                    return answer, is_retried
                if answer.http == 500:
                    self.find(f"{operation} {body} answered {answer}")
            except NoAnswer:
                pass
            if time.monotonic() > deadline:
                raise GaveUp(operation)
            is_retried = True
            self._sleep(pause * self._random.uniform(0.5, 1.5))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _agreed(self, operation: str, body: dict[str, Any], answers: list[Answer]) -> Answer:
        """Return the answer that counts: any 200, and all of those must be the same."""
        done = [answer for answer in answers if answer.http == 200]
        if not done:
            return answers[-1]
        # Credits may come and go between two attempts; nothing else may refuse what was done.
        if any(answer.code not in (done[0].code, "insufficient_credits") for answer in answers):
            self.find(f"{operation} {body} was done and refused: {answers}")
        if sum(not answer.fields["replayed"] for answer in done) > 1:
            self.find(f"{operation} {body} was carried out twice: {done}")
        if any(_figures(answer) != _figures(done[0]) for answer in done):
            self.find(f"{operation} {body} was answered in two ways: {done}")
        return done[0]

    def _keep(self, operation: str, body: dict[str, Any], answer: Answer) -> None:
        fields = answer.fields
        receipt = Receipt(
            account=body["account"],
            id=body["id"],
            operation=operation,
            status=fields["status"],
            charged=fields.get("charged", 0),
            refunded=fields.get("refunded", 0),
        )
        self._receipts.write(receipt)
        asked = body.get("amount")
        told = {"settle": receipt.charged, "debit": receipt.charged, "refund": receipt.refunded}
        if asked is not None and told.get(operation, asked) != asked:
            self.find(f"{operation} {body} answered other figures: {fields}")
        if operation in ("hold", "debit") and fields["available"] < 0:
            self.find(f"{operation} {body} was granted beyond what was available: {fields}")


def _figures(answer: Answer) -> dict[str, Any]:
    return {name: value for name, value in answer.fields.items() if name != "replayed"}
