"""The door: who may come in, and how much they may carry; asked before anything of a request is read.

Bearer tokens are compared in constant time.  Pages of other sites are refused unless they are listed: they would use their
reader's browser as a way in.  A body has a deadline.
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
from samba_asr.serve.settings import Settings

logger = logging.getLogger(__name__)

OPEN = ("/healthz", "/readyz")  # what a load balancer asks
PAGE = ("/", "/page.js", "/capture.js", "/page.css")  # the page itself is no secret; it asks for the token
POLICY = "default-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'"
METRICS = "/metrics"
LIVE = "/v1/transcribe/stream"
LINGER = 2.0  # seconds that a refused client may go on sending


class Door:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: Settings):
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        status, why = problem(HTTPConnection(scope), self.settings)
        if scope["type"] == "websocket":
            if why:  # before accept: the client sees HTTP 403
                _write_down(scope, 403, 0.0)
                await receive()
                return await send({"type": "websocket.close", "code": 1008, "reason": why})
            return await self.app(scope, receive, send)
        if not why and scope["path"] != LIVE and _length(scope) > self.settings.max_body_bytes:
            status, why = 413, errors.TOO_LARGE  # Starlette would say so in a form that no client reads
        if why and (status == 413 or scope["path"] not in OPEN + PAGE):
            await drain(receive)
            headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
            _write_down(scope, status, 0.0)
            return await errors.answer(scope["path"], HTTPException(status, why, headers))(scope, receive, send)
        await self._served(scope, receive, send)

    async def _served(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), 499  # unless there is an answer
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
            if scope["path"] not in OPEN + PAGE + (METRICS,):
                _write_down(scope, status, time.monotonic() - began)


class Body:
    """A request's body, which must go on coming, and come to its end; else HTTP 408."""

    def __init__(self, receive: Receive, settings: Settings, *, endless: bool):
        """endless: live audio, which has a bound of its own, in seconds of audio."""
        self._receive, self._settings, self._more = receive, settings, True
        self._until = time.monotonic() + (math.inf if endless else settings.max_upload_seconds)

    async def receive(self) -> Message:
        if not self._more:  # what comes now is the client's leaving
            return await self._receive()
        seconds = min(self._settings.idle_seconds, self._until - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), max(seconds, 0.0))
        except TimeoutError:
            self._more = False
            raise HTTPException(408, "the body of the request did not come in time") from None
        self._more = message.get("more_body", False)
        return message


async def drain(receive: Receive) -> None:
    """Let a client that will be refused send what is on its way: a connection that is closed with bytes unread is reset, and the
    answer is lost to a client that was still writing."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER):
            while (message := await receive())["type"] == "http.request" and message.get("more_body"):
                pass


def _write_down(scope: Scope, status: int, seconds: float) -> None:
    """The path without its query, where a token may stand."""
    client = (scope.get("client") or ("",))[0]
    fields = {
        "method": scope.get("method", "WEBSOCKET"),
        "path": scope["path"][:200],
        "status": status,
        "client": client,
    }
    logger.info("request", extra={"fields": {**fields, "seconds": round(seconds, 3)}})


def problem(connection: HTTPConnection, settings: Settings) -> tuple[int, str]:
    """The HTTP status and the reason why this client may not come in; (200, "") if it may."""
    origin = connection.headers.get("origin")
    own = connection.headers.get("host", "")
    if settings.local and not _is_local(own):
        return 421, "this service is for this machine alone: call it localhost"
    if origin is not None and origin not in settings.origins and _netloc(origin) != own:
        return 403, "this origin is not allowed"
    if not settings.tokens:
        return 200, ""
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    given = given.strip() if scheme.lower() == "bearer" else ""
    given = given or connection.query_params.get("token", "")  # browsers cannot set headers on a WebSocket
    known = False
    for token in settings.tokens:  # all of them, so that the time does not tell which one begins alike
        known |= hmac.compare_digest(given.encode(), token.encode())
    return (200, "") if known else (401, "a bearer token is needed")


def _length(scope: Scope) -> int:
    """The length of the body, where the head says it."""
    text = dict(scope["headers"]).get(b"content-length", b"")
    return int(text) if text.isdigit() else 0


def _netloc(url: str) -> str | None:
    try:
        return urlsplit(url).netloc
    except ValueError:  # such as http://[
        return None


def _is_local(host: str) -> bool:
    """Whether a Host header names this machine: a page of another site whose name was made to lead here does not."""
    if not host:  # HTTP/1.0, which no browser speaks
        return True
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
