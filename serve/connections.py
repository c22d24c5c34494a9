"""Limits of connections, below HTTP: their number, and how long one may make the service wait.

Uvicorn limits neither.  A connection that sends half of a request's head, or never reads its answer, would stay open forever,
and a thousand of them would use up all file descriptors.  Here a request's head has a deadline, and so has an answer that is not
read.  At the limit, the connection that has waited longest without a request is closed, so that new requests are served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from samba_asr.errors import UserError
from samba_asr.serve.logs import RateLimit
from samba_asr.serve.settings import Settings

try:
    import resource
except ImportError:  # not on Windows
    resource = None

logger = logging.getLogger(__name__)

RESERVE = 96  # file descriptors for models, uploads, logs and libraries
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: %d\r\n"
    b"Content-Type: text/plain\r\nContent-Length: 29\r\n\r\nall connections are taken now"
)


def raise_file_limit() -> int | None:
    """Raise the process's limit of open files to its hard limit, and return it; None without a limit."""
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # macOS refuses "unlimited"
        return soft
    return None if hard == resource.RLIM_INFINITY else hard


def bound(wanted: int, file_limit: int | None) -> int:
    """Return the number of connections that the limit of open files allows, at most `wanted`; UserError if it is 0."""
    if file_limit is None or wanted <= file_limit - RESERVE:
        return wanted
    if file_limit <= RESERVE:
        raise UserError(f"{file_limit} open files are too few for a service: raise the limit (ulimit -n 1024)")
    logger.warning(
        "fewer connections because of the limit of open files",
        extra={"fields": {"wanted": wanted, "connections": file_limit - RESERVE, "open_files": file_limit}},
    )
    return file_limit - RESERVE


class Deadline:
    """Timer that can be started and stopped, and calls `act` when it expires."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, act: Callable[[], None]):
        self._loop, self._seconds, self._act = loop, seconds, act
        self._handle: asyncio.TimerHandle | None = None

    def run(self, whether: bool) -> None:
        """Start the timer if it does not run, or stop it."""
        if whether and self._handle is None:
            self._handle = self._loop.call_later(self._seconds, self._act)
        elif not whether and self._handle is not None:
            self._handle.cancel()
            self._handle = None


@dataclass
class Connections:
    """Limits and state shared by the connections of a server."""

    most: int
    head_seconds: float  # deadline of a request's head
    unread_seconds: float  # deadline for a client to read an answer
    retry_seconds: int
    waiting: dict[HttpConnection, None] = field(
        default_factory=dict
    )  # connections without a request, in the order in which they began to wait
    others: int = 0  # connections at other ports, which count too
    refused: int = 0
    rate_limit: RateLimit = field(default_factory=lambda: RateLimit(logger))

    def protocols(self) -> dict[str, Any]:
        """Return uvicorn's settings for these connections."""
        return {"http": partial(HttpConnection, self), "ws": partial(WebSocketConnection, self)}

    def make_room(self, new: HttpConnection) -> bool:
        """Close the connection that has waited longest without a request; False if only the new one waits."""
        oldest = next((one for one in self.waiting if one is not new), None)
        if oldest is None:
            return False
        self.waiting.pop(oldest)
        self.rate_limit.warning("too many connections: the longest without a request is closed", most=self.most)
        oldest.transport.abort()
        return True


class HttpConnection(H11Protocol):
    """HTTP connection, until it becomes a WebSocket."""

    def __init__(self, shared: Connections, **keywords: Any):
        super().__init__(**keywords)
        self._shared, self._upgraded = shared, False
        self._head = Deadline(self.loop, shared.head_seconds, self._late)
        self._unread = Deadline(self.loop, shared.unread_seconds, partial(_disconnect, self, shared))

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        taken = len(self.connections) + self._shared.others
        if taken > self._shared.most and not self._shared.make_room(self):
            self._shared.refused += 1
            self._shared.rate_limit.warning("too many connections: new ones are refused", most=self._shared.most)
            transport.write(FULL % self._shared.retry_seconds)
            transport.close()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._shared.waiting.pop(self, None)
        self._head.run(False)
        self._unread.run(False)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Become a WebSocket; what came with the handshake is its first messages, and uvicorn would drop it."""
        self._upgraded = True
        rest, _ = self.conn.trailing_data
        super().handle_websocket_upgrade(event)
        if rest and not self.transport.is_closing():
            self.transport.get_protocol().data_received(rest)

    def send_400_response(self, msg: str) -> None:
        """Answer malformed HTTP.  If it comes within a request, the handler sees that the client has disconnected."""
        if self.cycle is None or self.cycle.response_complete:
            return super().send_400_response(msg) if not self.transport.is_closing() else None
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        if self.cycle.response_started:  # a second answer is impossible
            self.transport.close()
        else:
            super().send_400_response(msg)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.run(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.run(False)

    def _watch(self) -> None:
        """Run the timer while no request is being served, whatever bytes arrive."""
        idle = self.cycle is None or self.cycle.response_complete
        waits = idle and not self._upgraded and not self.transport.is_closing()
        self._head.run(waits)
        if not waits:
            self._shared.waiting.pop(self, None)
        elif self not in self._shared.waiting:
            self._shared.waiting[self] = None

    def _late(self) -> None:
        self._shared.rate_limit.warning("a connection without a request is closed", seconds=self._shared.head_seconds)
        self.transport.abort()


class WebSocketConnection(WebSocketsSansIOProtocol):
    """WebSocket connection."""

    def __init__(self, shared: Connections, **keywords: Any):
        super().__init__(**keywords)
        self._shared = shared
        self._unread = Deadline(self.loop, shared.unread_seconds, partial(_disconnect, self, shared))
        self._early = b""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unread.run(False)

    def data_received(self, data: bytes) -> None:
        """Messages; those that come before the handshake is answered wait: uvicorn could not answer a bad one yet."""
        if self.handshake_initiated and not self.handshake_complete:
            self._early += data
            self.transport.pause_reading()
        else:
            super().data_received(data)

    async def send(self, message: Any) -> None:
        await super().send(message)
        if self._early and self.handshake_complete and not self.transport.is_closing():
            early, self._early = self._early, b""
            self.transport.resume_reading()
            self.data_received(early)

    def send_receive_event_to_app(self) -> None:
        """Pass a message on.  Text that is not UTF-8 closes the connection with 1007; uvicorn would log a traceback."""
        if self.curr_msg_data_type == "text" and not self.close_sent:
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self._shared.rate_limit.warning("a text message that is not UTF-8: its connection is closed")
                self.frames = []
                self.conn.send_close(1007, "a text message is UTF-8")
                return self.handle_parser_exception()
        super().send_receive_event_to_app()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread.run(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread.run(False)


def _disconnect(connection: HttpConnection | WebSocketConnection, shared: Connections) -> None:
    shared.rate_limit.warning("a client that does not read is disconnected", seconds=shared.unread_seconds)
    connection.transport.abort()


def connections(settings: Settings, file_limit: int | None) -> Connections:
    """Make the limits from settings."""
    return Connections(
        bound(settings.max_connections, file_limit),
        settings.head_seconds,
        settings.idle_seconds,
        settings.retry_seconds,
    )
