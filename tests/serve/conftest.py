"""A service with a toy recogniser, and clients of its front door."""

from __future__ import annotations

import pytest
import torch

from tests.serve.front import LATENCY


@pytest.fixture
def start(recognizer):
    """Starts it with other settings, or another model, and gives the client."""
    testclient = pytest.importorskip("fastapi.testclient", reason="the extra serve")
    from samba_asr.serve.app import create_app
    from samba_asr.serve.settings import Settings

    torch.set_num_threads(1)
    clients = []

    def start(model=recognizer, **changes):
        settings = Settings(**{"latency_ms": LATENCY, "grace_seconds": 0.2, **changes})
        client = testclient.TestClient(create_app(settings, {"toy": model}))
        client.__enter__()
        clients.append(client)
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)
