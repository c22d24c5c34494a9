"""The service as an ASGI application: `create_app(Settings(...))`; `samba-asr serve` runs it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles

import samba_asr
from samba_asr.engine import Engine
from samba_asr.recognizer import Recognizer
from samba_asr.serve import access, files, lines, stream, vosk
from samba_asr.serve.settings import Settings

STALE = 10.0  # seconds without a sign of the engine's thread
UPLOADS = 2  # files that are transcribed at a time

router = APIRouter()


def create_app(settings: Settings | None = None, recognizer: Recognizer | None = None) -> FastAPI:
    """recognizer: one that is loaded already; default that of settings.model."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loaded = recognizer or await asyncio.to_thread(Recognizer.load, settings.model, device=settings.device)
        loaded.block(settings.latency_ms)  # a wrong one is told now
        app.state.engine = Engine(loaded, max_sessions=settings.max_sessions)
        app.state.uploads = asyncio.Semaphore(UPLOADS)
        yield
        await asyncio.to_thread(app.state.engine.close, settings.grace_seconds)

    app = FastAPI(title="samba_asr", version=samba_asr.__version__, lifespan=lifespan)
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
    """The model is loaded, and its thread runs."""
    engine: Engine = request.app.state.engine
    silent = time.monotonic() - engine.counts.last
    ready = silent < STALE and not engine.closing
    return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)


@router.get("/v1/models")
async def models(request: Request) -> dict:
    """As OpenAI lists them."""
    settings: Settings = request.app.state.settings
    return {"object": "list", "data": [{"id": settings.name, "object": "model", "owned_by": "samba_asr", "created": 0}]}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> PlainTextResponse:
    """Prometheus' text format."""
    engine: Engine = request.app.state.engine
    c = engine.counts
    rows = [
        ("sessions_active", "gauge", "live sessions", len(engine.sessions)),
        ("sessions_total", "counter", "sessions opened", c.opened),
        ("sessions_rejected_total", "counter", "sessions refused for want of room", c.refused),
        ("sessions_failed_total", "counter", "sessions ended by an error of ours", c.failed),
        ("audio_seconds_total", "counter", "audio through the model", round(c.audio, 3)),
        ("steps_total", "counter", "steps of the model", c.ticks),
        ("step_rows_total", "counter", "sessions in those steps", c.rows),
        ("step_seconds_total", "counter", "time of those steps", round(c.busy, 3)),
        ("lag_seconds", "gauge", "most audio that waits in a session", max((s.backlog for s in engine.sessions[:]), default=0)),
    ]
    lines = [f"# HELP samba_asr_{n} {h}\n# TYPE samba_asr_{n} {t}\nsamba_asr_{n} {v}\n" for n, t, h, v in rows]
    return PlainTextResponse("".join(lines), media_type="text/plain; version=0.0.4")

