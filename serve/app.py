"""The service as an ASGI application: `create_app(Settings(...))`; `samba-asr serve` runs it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

import samba_asr
from samba_asr.recognizer import Recognizer
from samba_asr.serve import access, errors, files, lines, realtime, reference, stream, subtitles, vosk
from samba_asr.serve.lobby import Lobby
from samba_asr.serve.models import Models, load
from samba_asr.serve.pages import PAGE
from samba_asr.serve.settings import Settings

FRESH = {"Cache-Control": "no-cache"}  # browsers ask for changes: files of two versions do not fit together
STALE = 10.0  # seconds after which a silent engine thread counts as dead

router = APIRouter()


def create_app(settings: Settings | None = None, recognizers: Mapping[str, Recognizer] | None = None) -> FastAPI:
    """Make the application.  recognizers: those of settings.models, if they are already loaded."""
    settings = settings or Settings()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        nonlocal recognizers
        given, recognizers = recognizers, None  # no reference, so that replaced models are freed
        app.state.models = Models(settings, given or await asyncio.to_thread(load, settings))
        app.state.lobby = Lobby(max(1, settings.max_connections // 2))
        app.state.uploads = uploads = files.Uploads(settings.max_uploads)
        app.state.models.metrics.watch_uploads(lambda: uploads.taken)
        del given
        yield
        await asyncio.to_thread(app.state.models.close)
        app.state.uploads.close()

    app = FastAPI(title="samba_asr", version=samba_asr.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.settings = settings
    errors.install(app)
    app.add_middleware(access.AccessControl, settings=settings)
    app.include_router(router)
    app.include_router(reference.router)
    app.include_router(stream.router)
    app.include_router(vosk.router)
    app.include_router(realtime.router)
    app.include_router(lines.router)
    app.include_router(subtitles.router, max_body_size=subtitles.MOST_BYTES)
    app.include_router(files.router, max_body_size=settings.max_body_bytes, form_limits=files.FORM)
    return app


async def page(request: Request) -> FileResponse:
    """Serve the page and its parts.  A mount would also answer wrong methods of other routes."""
    return FileResponse(PAGE[request.scope["path"]], headers=FRESH)


for path in PAGE:
    router.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """Report that the process is alive."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: {"description": "not ready, or going down"}})
async def readyz(request: Request) -> JSONResponse:
    """Report whether the models are loaded and their threads run."""
    models: Models = request.app.state.models
    now = time.monotonic()
    engines = [models.engine(name) for name in models.names]
    ready = all(now - engine.responsive < STALE and not engine.closing for engine in engines)
    return JSONResponse({"status": "ready" if ready else "not ready"}, 200 if ready else 503)


@router.get("/v1/models")
async def models(request: Request) -> dict:
    """List the models in OpenAI's format; the first is the default."""
    return {"object": "list", "data": [_model(name) for name in request.app.state.models.names]}


@router.get("/v1/models/{model}", responses=errors.documented(errors.OPENAI_ERROR, 401, 403, 404, 421))
async def model(request: Request, model: str) -> dict:
    """Describe one model."""
    names = request.app.state.models.names
    if model not in names:
        raise errors.unknown_model(model, names)
    return _model(model)


def _model(name: str) -> dict:
    return {"id": name, "object": "model", "owned_by": "samba_asr", "created": 0}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Export metrics in Prometheus' text format."""
    return Response(request.app.state.models.metrics.text(), media_type=CONTENT_TYPE_LATEST)
