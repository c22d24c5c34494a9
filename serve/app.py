"""The service as an ASGI application: `create_app(Settings(...))`; `samba-asr serve` runs it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles

import samba_asr
from samba_asr.engine import Engine
from samba_asr.recognizer import Recognizer
from samba_asr.serve import access, files, lines, stream, vosk
from samba_asr.serve.lobby import Lobby
from samba_asr.serve.models import Models, load
from samba_asr.serve.settings import Settings

STALE = 10.0  # seconds without a sign of an engine's thread

router = APIRouter()


def create_app(settings: Settings | None = None, recognizers: Mapping[str, Recognizer] | None = None) -> FastAPI:
    """recognizers: those of settings.models, where they are loaded already."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        nonlocal recognizers
        given, recognizers = recognizers, None  # so that models that were read anew can go
        app.state.models = Models(settings, given or await asyncio.to_thread(load, settings))
        app.state.lobby = Lobby(max(1, settings.max_connections // 2))
        app.state.uploads = files.Uploads(settings.max_uploads)
        del given
        yield
        await asyncio.to_thread(app.state.models.close)
        app.state.uploads.close()

    app = FastAPI(
        title="samba_asr",
        version=samba_asr.__version__,
        lifespan=lifespan,
        max_body_size=settings.max_upload_bytes + files.FORM_BYTES,
        form_limits=files.FORM,
    )
    app.state.settings = settings
    app.add_middleware(access.Door, settings=settings)
    app.include_router(router)
    app.include_router(stream.router)
    app.include_router(vosk.router)
    app.include_router(lines.router)
    app.include_router(files.router)
    app.mount("/", StaticFiles(directory=Path(__file__).parent / "static", html=True), name="page")
    return app


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "not ready, or going down"}})
async def readyz(request: Request) -> JSONResponse:
    """The models are loaded, and their threads run."""
    models: Models = request.app.state.models
    now = time.monotonic()
    engines = [models.engine(name) for name in models.names]
    ready = all(now - engine.counts.last < STALE and not engine.closing for engine in engines)
    return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)


@router.get("/v1/models")
async def models(request: Request) -> dict:
    """As OpenAI lists them; the first is that of those who name none."""
    names = request.app.state.models.names
    entries = [{"id": name, "object": "model", "owned_by": "samba_asr", "created": 0} for name in names]
    return {"object": "list", "data": entries}


METRICS: list[tuple[str, str, str, Callable[[list[Engine]], float]]] = [
    ("sessions_active", "gauge", "live sessions", lambda es: sum(len(e.sessions) for e in es)),
    ("sessions_total", "counter", "sessions opened", lambda es: es[0].counts.opened),
    ("sessions_failed_total", "counter", "sessions ended by an error of ours", lambda es: es[0].counts.failed),
    ("audio_seconds_total", "counter", "audio through the model", lambda es: round(es[0].counts.audio, 3)),
    ("steps_total", "counter", "steps of the model", lambda es: es[0].counts.ticks),
    ("step_rows_total", "counter", "sessions in those steps", lambda es: es[0].counts.rows),
    ("step_seconds_total", "counter", "time of those steps", lambda es: round(es[0].counts.busy, 3)),
    (
        "lag_seconds",
        "gauge",
        "most audio that waits in a session",
        lambda es: max((s.backlog for e in es for s in e.sessions[:]), default=0),
    ),
]
"""Name, type, help, and the value of a model's engines: those of old weights share the counts of the first."""


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """Prometheus' text format."""
    models: Models = request.app.state.models
    refused = models.refused + sum(models.engine(name).counts.refused for name in models.names)
    found = [
        "# HELP samba_asr_sessions_rejected_total sessions refused for want of room",
        "# TYPE samba_asr_sessions_rejected_total counter",
        f"samba_asr_sessions_rejected_total {refused}",
    ]
    for name, kind, told, value in METRICS:
        found += [f"# HELP samba_asr_{name} {told}", f"# TYPE samba_asr_{name} {kind}"]
        found += [f'samba_asr_{name}{{model="{model}"}} {value(models.engines(model))}' for model in models.names]
    return PlainTextResponse("\n".join(found) + "\n", media_type="text/plain; version=0.0.4")
