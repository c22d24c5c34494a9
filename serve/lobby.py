"""Idle live connections (WebSockets, Wyoming): how long one may send nothing, and how many may wait without a session.

Audio and commands keep a client's connection open; a ping does not.  If too many wait without a session, the one that has waited
longest is closed, so that idle clients do not block others.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Protocol, TypeVar

T = TypeVar("T", covariant=True)


class Source(Protocol[T]):
    """A connection that receives messages, such as a WebSocket."""

    async def receive(self) -> T: ...


class Lobby:
    """The live connections without a session; used in the event loop."""

    def __init__(self, most: int):
        self.most, self._waiting = most, {}

    def enter(self, idle_timer: IdleTimer) -> None:
        """Add a connection; if there are more than `most`, end the one that has waited longest."""
        self._waiting[idle_timer] = None
        if len(self._waiting) > self.most:
            next(iter(self._waiting)).end()

    def leave(self, idle_timer: IdleTimer) -> None:
        self._waiting.pop(idle_timer, None)


class IdleTimer:
    """Idle timer of one connection; as a context it enters and leaves the lobby."""

    def __init__(self, seconds: float, lobby: Lobby):
        self.seconds, self.lobby = seconds, lobby
        self._loop = asyncio.get_running_loop()
        self._clock: asyncio.Timeout | None = None
        self.renew()

    def __enter__(self) -> IdleTimer:
        self.lobby.enter(self)
        return self

    def __exit__(self, *_) -> None:
        self.lobby.leave(self)

    def renew(self, session: bool = False) -> None:
        """Restart the timer after audio or a command.  session: whether the client has a session now."""
        self._until = self._loop.time() + self.seconds
        if session:
            self.lobby.leave(self)

    def end(self) -> None:
        """Let the timer expire now, to make room for others."""
        self.lobby.leave(self)
        self._until = self._loop.time()
        if self._clock is not None:
            with suppress(RuntimeError):  # nothing is awaited now; the next wait ends at once
                self._clock.reschedule(self._until)

    async def receive(self, source: Source[T]) -> T:
        """Receive the next message; TimeoutError if no audio or command has come for too long."""
        async with asyncio.timeout_at(self._until) as self._clock:
            return await source.receive()
