"""Clients that send bad HTTP to a service on this machine, and the answers that they must receive.

    half-open      request heads that never end
    chunks         a malformed chunked body, at once or after good audio
    gone upload    a file whose client disconnects while it is sent or processed
    unread         answers that the client does not read
    not UTF-8      a text message that is not UTF-8
    origin         a page of another site, a malformed origin, another host's name
    rubbish        bytes that are not HTTP
    not audio      a file without audio
    wyoming        bytes that are no event of the Wyoming protocol, or too many of them, if the service speaks it

Each uses at most `HELD` connections and `HOLD` seconds, plus the time that the service takes to answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import ipaddress
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import urlsplit

import numpy as np

from samba_asr.errors import UserError

HELD = 6  # connections of one act
HOLD = 6.0  # seconds that one act waits
ANSWER = 60.0  # seconds that the service may take to answer
MOST = 1 << 20  # bytes of an answer that are read

LIVE = b"POST /v1/transcribe/stream HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
UPGRADE += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
NOT_UTF8 = b"\x81\x82\x00\x00\x00\x00\xff\xfe"  # a frame of text
CLOSE_1007 = b"\x03\xef"  # the code in its close frame
STRANGERS = (
    (b"Host: localhost\r\nOrigin: http://strangers.example\r\n", b"403"),
    (b"Host: localhost\r\nOrigin: http://[\r\n", b"403"),
    (b"Host: strangers.example\r\n", b"421"),
)
EVENTS = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"[" * 100_000,
    b'{"type": "audio-chunk", "payload_length": 1000000000000}\n',
    b'{"type": "ping", "data_length": 3}\n[1]',
    b'{"type": "audio-chunk", "data": {"rate": 1, "width": 9, "channels": 0}, "payload_length": 3}\nabc',
)


def form(data: bytes, **fields: str) -> tuple[str, bytes]:
    """Make the content type and the body of an upload."""
    parts = [f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n' for key, value in fields.items()]
    head = '--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return "multipart/form-data; boundary=b", "".join(parts).encode() + head.encode() + data + b"\r\n--b--\r\n"


class Hostile:
    """Hostile clients of a service on a loopback address; no other service is allowed."""

    def __init__(self, url: str, wyoming: int | None = None):
        """url: of the service.  wyoming: port of that protocol, if the service speaks it.

        UserError for an address of another machine.
        """
        parts, self.wyoming = urlsplit(url), wyoming
        self.host, self.port = parts.hostname or "", parts.port or 80
        if not _is_loopback(self.host):
            raise UserError(f"{url}: bad HTTP is only for a service on this machine: give ws://127.0.0.1:PORT")
        self._silence = _flac(np.zeros(8000 * 1800, np.int16), 8000)  # half an hour, in some 40 kB

    async def act(self, name: str, draw: random.Random) -> bool:
        """Run one of `ACTS`; return whether the answer was right."""
        try:
            async with asyncio.timeout(ANSWER + HOLD):
                return await ACTS[name](self, draw)
        except TimeoutError:
            return False
        except OSError:  # a reset is allowed; other clients show whether the service still runs
            return True

    @contextlib.asynccontextmanager
    async def connected(
        self, data: bytes, buffer: int | None = None, port: int | None = None
    ) -> AsyncIterator[_Connection]:
        """Connect and send `data`; abort the connection at the end.

        buffer: size of the receive buffer in bytes.  port: default that of HTTP.
        """
        own = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
        own.setblocking(False)
        if buffer:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        try:
            await asyncio.get_running_loop().sock_connect(own, (self.host, port or self.port))
        except BaseException:
            own.close()
            raise
        reader, writer = await asyncio.open_connection(sock=own)
        try:
            writer.write(data)
            yield _Connection(reader, writer)
        finally:
            writer.transport.abort()

    async def ask(self, data: bytes, port: int | None = None) -> bytes:
        """Send `data`; return the answer up to the end of the connection."""
        async with self.connected(data, port=port) as connection:
            return await connection.answer()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer

    async def answer(self) -> bytes:
        found = b""
        with contextlib.suppress(ConnectionError):  # closed with bytes of ours unread
            while len(found) < MOST and (part := await self.reader.read(1 << 16)):
                found += part
        return found


async def half_open(service: Hostile, draw: random.Random) -> bool:
    """Hold connections for a while, or until the service closes them at its deadline."""
    head = LIVE[: draw.randrange(1, len(LIVE) - 4)]
    async with contextlib.AsyncExitStack() as stack:
        held = [await stack.enter_async_context(service.connected(head)) for _ in range(HELD)]
        if draw.random() < 0.5:
            await asyncio.sleep(draw.uniform(0, HOLD))
            return True
        return not any(await asyncio.gather(*(one.answer() for one in held)))


async def chunks(service: Hostile, draw: random.Random) -> bool:
    good = b"".join(b"%x\r\n%s\r\n" % (size, bytes(size)) for size in draw.choices((4, 3200), k=draw.randrange(3)))
    found = await service.ask(LIVE + good + draw.choice((b"zz\r\n\r\n", b"-4\r\n\r\n", b"4\r\nabcdefgh\r\n")))
    return _status(found) in (b"200", b"400", b"503")


async def gone_upload(service: Hostile, draw: random.Random) -> bool:
    request = _upload(service._silence, b"")
    async with service.connected(request[: draw.choice((300, len(request) // 2, len(request)))]) as connection:
        await connection.writer.drain()
        await asyncio.sleep(draw.uniform(0, HOLD))
    return True


async def unread(service: Hostile, draw: random.Random) -> bool:
    """Ask for many answers, or a live session's messages, and read nothing."""
    second = b"%x\r\n%s\r\n" % (32000, draw.randbytes(32000))
    data = draw.choice((b"GET /page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500, LIVE + second * 3))
    async with service.connected(data, buffer=4096):
        await asyncio.sleep(draw.uniform(1, HOLD))
    return True


async def not_utf8(service: Hostile, draw: random.Random) -> bool:
    path = draw.choice((b"/v1/stream", b"/vosk"))
    found = await service.ask(b"GET %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n%s" % (path, UPGRADE, NOT_UTF8))
    return _status(found) == b"101" and CLOSE_1007 in found


async def origin(service: Hostile, draw: random.Random) -> bool:
    (head, status), live = draw.choice(STRANGERS), draw.random() < 0.5
    if live:  # a handshake is refused with 403 whatever the reason
        found = await service.ask(b"GET /v1/stream HTTP/1.1\r\n%s%s\r\n" % (head, UPGRADE))
    else:
        found = await service.ask(b"GET /v1/models HTTP/1.1\r\n%sConnection: close\r\n\r\n" % head)
    return _status(found) == (b"403" if live else status)


async def rubbish(service: Hostile, draw: random.Random) -> bool:
    found = await service.ask(draw.choice((b"rubbish\r\n\r\n", b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET\r\n\r\n")))
    return _status(found) == b"400"


async def not_audio(service: Hostile, draw: random.Random) -> bool:
    found = await service.ask(_upload(draw.randbytes(draw.choice((1, 5000, 300_000))), b"Connection: close\r\n"))
    return _status(found) in (b"400", b"503")


async def wyoming(service: Hostile, draw: random.Random) -> bool:
    if service.wyoming is None:
        return True
    start = b'{"type": "audio-start", "data": {"rate": 16000, "width": 2, "channels": 1}}\n'
    found = await service.ask(draw.choice((b"", start)) + draw.choice(EVENTS), service.wyoming)
    return found.count(b'{"type": "error"') == 1


ACTS: dict[str, Callable[[Hostile, random.Random], Awaitable[bool]]] = {
    "half-open": half_open,
    "chunks": chunks,
    "gone upload": gone_upload,
    "unread": unread,
    "not UTF-8": not_utf8,
    "origin": origin,
    "rubbish": rubbish,
    "not audio": not_audio,
    "wyoming": wyoming,
}


def _upload(data: bytes, headers: bytes) -> bytes:
    kind, body = form(data)
    head = (
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n%s\r\n"
    )
    return head % (kind.encode(), len(body), headers) + body


def _status(answer: bytes) -> bytes:
    return answer[9:12] if answer.startswith(b"HTTP/1.1 ") else b""


def _flac(samples: np.ndarray, rate: int) -> bytes:
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC")
    return file.getvalue()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
