"""Access control: which clients are served, and how large their requests may be; checked before a request is read.

Bearer tokens are compared in constant time.  Pages of other sites are refused unless they are listed, because they could call
the service through a visitor's browser.  A request's body has a deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import math
import time
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from samba_asr.serve import errors
from samba_asr.serve.pages import PAGE
from samba_asr.serve.settings import Settings

logger = logging.getLogger(__name__)

OPEN = ("/healthz", "/readyz")  # for load balancers
PUBLIC = (*OPEN, *PAGE)
POLICY = "default-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'"
METRICS = "/metrics"
LIVE = "/v1/transcribe/stream"
LINGER = 2.0  # seconds that a refused client may continue to send


class AccessControl:
    """ASGI middleware that checks and logs every request."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        status, why = problem(HTTPConnection(scope), self.settings)
        if scope["type"] == "websocket":
            if why:  # before accept: the client sees HTTP 403
                _log_request(scope, 403, 0.0)
                await receive()
                return await send({"type": "websocket.close", "code": 1008, "reason": why})
            return await self.app(scope, receive, send)
        if not why and scope["path"] != LIVE and _length(scope) > self.settings.max_body_bytes:
            status, why = 413, errors.TOO_LARGE  # Starlette's own answer has a form that no client reads
        if why and (status == 413 or scope["path"] not in PUBLIC):
            await drain(receive)
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
            _log_request(scope, status, 0.0)
            return await errors.answer(scope["path"], HTTPException(status, why, headers))(scope, receive, send)
        await self._served(scope, receive, send)

    async def _served(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), 499  # until there is an answer
        body = Body(receive, self.settings, endless=scope["path"] == LIVE)

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if scope["path"] in PAGE:
                    message.setdefault("headers", []).append((b"content-security-policy", POLICY.encode()))
            await send(message)

        try:
            await self.app(scope, body.receive, answered)
        finally:
            if scope["path"] not in (*PUBLIC, METRICS):
                _log_request(scope, status, time.monotonic() - began)


class Body:
    """A request's body with deadlines, for the next part and for all of it; HTTP 408 if one passes."""

    def __init__(self, receive: Receive, settings: Settings, *, endless: bool):
        """endless: live audio, whose limit is in seconds of audio instead."""
        self._receive, self._settings, self._more = receive, settings, True
        self._until = time.monotonic() + (math.inf if endless else settings.max_upload_seconds)

    async def receive(self) -> Message:
        if not self._more:  # the next message is the client's disconnect
            return await self._receive()
        seconds = min(self._settings.idle_seconds, self._until - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), max(seconds, 0.0))
        except TimeoutError:
            self._more = False
            raise HTTPException(408, "the body of the request did not arrive in time") from None
        self._more = message.get("more_body", False)
        return message


async def drain(receive: Receive) -> None:
    """Read what a client still sends before it is refused.

    A connection that is closed with unread bytes is reset, and a client that is still writing would lose the answer.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    """Log a request, without its query, which may have a token."""
    client = (scope.get("client") or ("",))[0]
    fields = {
        "method": scope.get("method", "WEBSOCKET"),
        "path": scope["path"][:200],
        "status": status,
        "client": client,
    }
    logger.info("request", extra={"fields": {**fields, "seconds": round(seconds, 3)}})


def problem(connection: HTTPConnection, settings: Settings) -> tuple[int, str]:
    """Return the HTTP status and the reason why this client is refused; (200, "") if it is accepted."""
    origin = connection.headers.get("origin")
    own = connection.headers.get("host", "")
    if settings.local and not _is_local(own):
        return 421, "this service is only for this machine: use the host name localhost"
    if origin is not None and origin not in settings.origins and _netloc(origin) != own:
        return 403, "this origin is not allowed"
    if not settings.tokens:
        return 200, ""
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    given = given.strip() if scheme.lower() == "bearer" else ""
    given = given or connection.query_params.get("token", "")  # browsers cannot set headers on a WebSocket
    known = False
    for token in settings.tokens:  # all of them, so that the time reveals nothing about a token
        known |= hmac.compare_digest(given.encode(), token.encode())
    return (200, "") if known else (401, "a bearer token is needed")


def _length(scope: Scope) -> int:
    """Return the length of the body from the header; 0 if it is not given."""
    text = dict(scope["headers"]).get(b"content-length", b"")
    return int(text) if text.isdigit() else 0


def _netloc(url: str) -> str | None:
    try:
        return urlsplit(url).netloc
    except ValueError:  # such as http://[
        return None


def _is_local(host: str) -> bool:
    """Return whether a Host header names this machine; that of a page whose name was rebound to it does not."""
    if not host:  # HTTP/1.0, which no browser uses
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
