"""Errors as the clients of each route read them: OpenAI's form where OpenAI's clients ask, `{"detail": ...}` elsewhere.

OpenAI's clients make an exception of an HTTP error with the `message` of `{"error": {"message", "type", "param", "code"}}`,
and in a stream of any event that holds `error`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

OPENAI = ("/v1/audio/", "/v1/models")  # the beginnings of the paths that their clients ask for

TYPES = {401: "authentication_error", 403: "permission_error", 503: "service_unavailable"}
CODES = {
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "file_too_large",
    421: "wrong_host",
    503: "no_room",
}
TOO_LARGE = "the body is larger than a file may be here"
MESSAGES = {"Content Too Large": TOO_LARGE, "Not Found": "there is nothing at this address"}  # for Starlette's


class Refusal(HTTPException):
    """An HTTP error with the parameter that is at fault, and OpenAI's code for it."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(status, message, headers)
        self.param, self.code = param, code


def content(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """The object that OpenAI's clients read."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code or CODES.get(status)}}


def answer(path: str, error: HTTPException) -> JSONResponse:
    """In the form that the clients of this path read."""
    status, told = error.status_code, MESSAGES.get(str(error.detail), str(error.detail))
    if path.startswith(OPENAI):
        found = content(status, told, getattr(error, "param", None), getattr(error, "code", None))
    else:
        found = {"detail": told}
    return JSONResponse(found, status, headers=error.headers)


def install(app: FastAPI) -> None:
    """Make the application answer so."""

    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return answer(request.scope["path"], error)

    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])  # the first part is body or query
        told = f"{where}: {first['msg']}" if where else first["msg"]
        return answer(request.scope["path"], Refusal(422, told, param=where or None))

    async def failed(request: Request, error: Exception) -> JSONResponse:  # Starlette raises it again, for the log
        return answer(request.scope["path"], Refusal(500, "internal error"))

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, failed)


def _schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT, _NULLABLE = {"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}
ASKED = (400, 401, 403, 408, 413, 421, 422, 503)  # what may come of audio that is sent
DETAIL = _schema({"detail": _TEXT})
OPENAI_ERROR = _schema({"error": _schema({"message": _TEXT, "type": _TEXT, "param": _NULLABLE, "code": _NULLABLE})})

_WHY = {
    400: "the audio cannot be read, or the service does not do that",
    401: "a bearer token is needed",
    403: "this page may not ask",
    404: "there is none of this name",
    408: "the body did not come in time",
    413: "the body is too large",
    421: "this service is asked for by this machine's names alone",
    422: "a parameter is not as it should be",
    503: "no room now; Retry-After says when to come again",
}


def documented(schema: dict[str, Any], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors of a route, for its documentation."""
    return {n: {"description": _WHY[n], "content": {"application/json": {"schema": schema}}} for n in statuses}
