"""What clients were told, one JSON line each, so that it can be compared with the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

Key = tuple[str, str]
"""An account and a caller's id in it."""


class Receipt(msgspec.Struct, tag="receipt", omit_defaults=True, frozen=True):
    """A call that was acknowledged with 200.

    `charged` is the total of this hold or debit so far, `refunded` what this refund gave back,
    `status` the state that the answer named. Amounts are microcredits.
    """

    account: str
    id: str
    operation: str
    status: str
    charged: int = 0
    refunded: int = 0


class Unanswered(msgspec.Struct, tag="unanswered", omit_defaults=True, frozen=True):
    """A call whose outcome the client does not know: sent again when the load is over."""

    operation: str
    body: dict[str, Any]


class Finding(msgspec.Struct, tag="finding", frozen=True):
    """Something that the contract does not allow, seen by a client."""

    text: str


Line = Receipt | Unanswered | Finding

_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Line)


class ReceiptFile:
    """Appends lines. Each is with the kernel when `write` returns: a killed client loses none."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def write(self, line: Line) -> None:
        """Append one line."""
        self._file.write(_ENCODER.encode(line) + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read(path: Path) -> Iterator[Line]:
    """Return the lines of a file."""
    with path.open("rb") as lines:
        for line in lines:
            yield _DECODER.decode(line)


@dataclass(slots=True)
class Told:
    """The sum of all receipts: the last word about every id. Amounts are microcredits."""

    settled: dict[Key, int] = field(default_factory=dict)
    debited: dict[Key, int] = field(default_factory=dict)
    refunded: dict[Key, int] = field(default_factory=dict)
    ended: set[Key] = field(default_factory=set)
    unanswered: list[Unanswered] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def add(self, line: Line) -> None:
        """Take in one line."""
        match line:
            case Receipt():
                self._add_receipt(line)
            case Unanswered():
                self.unanswered.append(line)
            case Finding():
                self.findings.append(line.text)

    def _add_receipt(self, receipt: Receipt) -> None:
        key = (receipt.account, receipt.id)
        match receipt.operation:
            case "settle":
                # A settle names the total so far: the highest is the latest.
                self.settled[key] = max(self.settled.get(key, 0), receipt.charged)
                if receipt.status == "settled":
                    self.ended.add(key)
            case "debit":
                self.debited[key] = receipt.charged
            case "refund":
                self.refunded[key] = receipt.refunded

    def nets(self) -> dict[str, int]:
        """Return what each account was charged, less refunds."""
        nets: dict[str, int] = {}
        for amounts, sign in ((self.settled, 1), (self.debited, 1), (self.refunded, -1)):
            for (account, _), amount in amounts.items():
                nets[account] = nets.get(account, 0) + sign * amount
        return nets
