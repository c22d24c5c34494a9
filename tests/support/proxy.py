"""A small proxy of TCP connections, as nginx's with `least_conn` and health checks; each connection stays with one replica."""

from __future__ import annotations

import http.client
import socket
import threading
from contextlib import suppress


class Proxy:
    """Passes each connection to the ready replica that has the fewest."""

    def __init__(self, ports: list[int]):
        self.open = dict.fromkeys(ports, 0)  # connections of each replica
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"ws://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.socket.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self.socket.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        for port in sorted(self.open, key=lambda port: self.open[port]):
            if not ready(port):
                continue
            self.open[port] += 1
            with client, socket.create_connection(("127.0.0.1", port)) as replica:
                back = threading.Thread(target=copy, args=(replica, client), daemon=True)
                back.start()
                copy(client, replica)
                back.join()
            self.open[port] -= 1
            return
        client.close()


def ready(port: int) -> bool:
    """Ask a replica's readiness probe."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def copy(source: socket.socket, target: socket.socket) -> None:
    """Copy bytes until one of the two closes, then close both ways."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
