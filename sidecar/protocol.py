"""HTTP as uvicorn reads it, with the bounds that it lacks: on the head of a request.

Without them a client that never ends its headers is given memory for as long as it sends, and one
that stops in the middle keeps its connection for ever. (Bodies are bounded in `sidecar.web`.)
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES: Final = 65_536
HEAD_SECONDS: Final = 10.0


class BoundedProtocol(HttpToolsProtocol):
    """Closes a connection whose request line and headers grow too long or take too long.

    A request that arrives in one piece costs nothing here. The first piece of a head is not
    counted: it may have come in one read with the request before.
    """

    _is_in_head = False
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request as for the next one: not for ever."""
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        """Read what came, and check the head that it may have left unfinished."""
        self._head_bytes += len(data)
        super().data_received(data)
        if not self._is_in_head:
            self._stop_timer()
        elif self._head_bytes > HEAD_BYTES:
            self.send_400_response("The head of the request is too long.")
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Note that a head has begun."""
        self._is_in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Note that the head is there."""
        self._is_in_head = False
        super().on_headers_complete()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
