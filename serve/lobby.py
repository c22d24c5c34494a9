"""WebSockets that wait: how long one may bring nothing, and how many may be there without a session.

Audio and orders show that a client wants something; a ping does not.  When too many wait without a session, the one that has
waited longest is closed, so that those who do nothing keep nobody out.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from fastapi import WebSocket
from starlette.types import Message


class Lobby:
    """The WebSockets without a session; used in the event loop."""

    def __init__(self, most: int):
        self.most, self._waiting = most, {}

    def enter(self, patience: Patience) -> None:
        """Wait here; the longest one leaves if there are more than `most`."""
        self._waiting[patience] = None
        if len(self._waiting) > self.most:
            next(iter(self._waiting)).end()

    def leave(self, patience: Patience) -> None:
        self._waiting.pop(patience, None)


class Patience:
    """How long one WebSocket may go on; a context that it leaves the lobby with."""

    def __init__(self, seconds: float, lobby: Lobby):
        self.seconds, self.lobby = seconds, lobby
        self._loop = asyncio.get_running_loop()
        self._clock: asyncio.Timeout | None = None
        self.renew()

    def __enter__(self) -> Patience:
        self.lobby.enter(self)
        return self

    def __exit__(self, *_) -> None:
        self.lobby.leave(self)

    def renew(self, session: bool = False) -> None:
        """The client brought something; session: it has one now."""
        self._until = self._loop.time() + self.seconds
        if session:
            self.lobby.leave(self)

    def end(self) -> None:
        """Others want the place."""
        self.lobby.leave(self)
        self._until = self._loop.time()
        if self._clock is not None:
            with suppress(RuntimeError):  # nothing is awaited now; the next wait ends at once
                self._clock.reschedule(self._until)

    async def receive(self, socket: WebSocket) -> Message:
        """The next message; TimeoutError when nothing useful has come for too long."""
        async with asyncio.timeout_at(self._until) as self._clock:
            return await socket.receive()
