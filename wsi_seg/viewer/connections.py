"""Connections that cost the server little: none may wait for ever, and idle ones make room for others.

uvicorn closes a connection that was idle for five seconds after an answer, but not one on which no whole
request ever comes, nor one whose client does not read.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

# Connections at a time. A browser opens six. A new one takes the place of the one that has been idle longest;
# where all are in use it is answered 503.
MOST_CONNECTIONS = 256
# A request has to come whole within so many seconds, from the connection or the answer before it.
REQUEST_SECONDS = 15.0
# A client that reads nothing of what waits for it is given up after so many seconds.
STALL_SECONDS = 60.0


class BoundedConnection(H11Protocol):
    """uvicorn's own connection with time limits, for `uvicorn.Config(http=…)`."""

    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _idle_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Make room for it, and wait for its first request."""
        others = [one for one in self.connections if isinstance(one, BoundedConnection)]
        super().connection_made(transport)
        surplus = len(self.connections) - MOST_CONNECTIONS
        if surplus > 0:
            idle = sorted((one for one in others if one.idle), key=lambda one: one._idle_since)
            for one in idle[:surplus]:
                one.drop()
        self._await_request()

    @property
    def idle(self) -> bool:
        """True while no whole request of it is being answered."""
        return self._timer is not None

    def _await_request(self) -> None:
        self._idle_since = self.loop.time()
        self._timer = self.loop.call_later(REQUEST_SECONDS, self.drop)

    def drop(self) -> None:
        """Close it at once, whatever is under way."""
        self.connections.discard(self)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take what comes; the time limit ends with the last byte of a request."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it is there already."""
        self._stop_timer()
        self._await_request()
        super().on_response_complete()
        self._look()

    def _look(self) -> None:
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete and not cycle.more_body:
            self._stop_timer()

    def pause_writing(self) -> None:
        """Give the client time to read."""
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL_SECONDS, self.drop)

    def resume_writing(self) -> None:
        """Take note that it reads."""
        super().resume_writing()
        self._stop_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timers."""
        self._stop_timer()
        self._stop_stall()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
