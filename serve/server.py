"""The service on a socket: uvicorn with limits of connections and a clean shutdown."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI

from samba_asr.serve.connections import connections, raise_file_limit
from samba_asr.serve.models import Models
from samba_asr.serve.settings import Settings
from samba_asr.serve.wyoming import Door

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Uvicorn's server for the application."""

    def __init__(self, app: FastAPI, *, wyoming: socket.socket | None = None, **changes: Any):
        """wyoming: listening socket for the Wyoming protocol.  changes: of uvicorn's settings, such as host and port."""
        settings: Settings = app.state.settings
        self.bounds = connections(settings, raise_file_limit())
        config = {
            **self.bounds.protocols(),
            "ws_max_size": settings.max_message_bytes,
            "ws_per_message_deflate": False,
            "timeout_graceful_shutdown": 5,
            "log_config": None,
            "access_log": False,
        }
        super().__init__(uvicorn.Config(app, **{**config, **changes}))
        self.app = app
        self._wyoming, self._door = wyoming, Door(app, self.bounds, lambda: len(self.server_state.connections))

    @property
    def models(self) -> Models:
        return self.app.state.models

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        for server in self.servers:
            for host, port, *_ in (one.getsockname() for one in server.sockets):
                fields = {"url": _url(host, port), "host": host, "port": port, "models": self.models.names}
                logger.info("ready", extra={"fields": fields})
        if self._wyoming is not None:
            await self._door.start(self._wyoming)
        if hasattr(signal, "SIGHUP") and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self.models.ask_reload)

    async def shutdown(self, sockets=None) -> None:
        """Finish live sessions and send their last results before uvicorn closes connections."""
        await asyncio.to_thread(self.models.close)
        await asyncio.sleep(0.2)  # for the last messages to be sent
        await self._door.close()
        await super().shutdown(sockets)
        logger.info("ended")


def _url(host: str, port: int) -> str:
    """Return an address that a browser on this machine can open."""
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
