"""Errors in the form that each route's clients read: OpenAI's form on OpenAI's routes, `{"detail": ...}` elsewhere.

OpenAI's clients raise an exception for an HTTP error, with the `message` of `{"error": {"message", "type", "param", "code"}}`;
in a stream they raise one for any event with `error`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

OPENAI = ("/v1/audio/", "/v1/models")  # prefixes of the paths that their clients use

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
TOO_LARGE = "the body is larger than the limit for files"
MESSAGES = {"Content Too Large": TOO_LARGE, "Not Found": "there is nothing at this address"}  # for Starlette's


class Refusal(HTTPException):
    """HTTP error with the wrong parameter, and OpenAI's code for it."""

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
    """Make the error object that OpenAI's clients read."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code or CODES.get(status)}}


def unknown_model(name: str, known: Sequence[str]) -> Refusal:
    """Make the error for a model that the service does not have."""
    message = f"model {name[:100]}: this service has {', '.join(known)}"
    return Refusal(404, message, param="model", code="model_not_found")


def answer(path: str, error: HTTPException) -> JSONResponse:
    """Make the response in the form that the clients of this path read."""
    status, message = error.status_code, MESSAGES.get(str(error.detail), str(error.detail))
    if path.startswith(OPENAI):
        found = content(status, message, getattr(error, "param", None), getattr(error, "code", None))
    else:
        found = {"detail": message}
    return JSONResponse(found, status, headers=error.headers)


def install(app: FastAPI) -> None:
    """Install these forms as the application's error handlers."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return answer(request.scope["path"], error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])  # the first part is body or query
        message = f"{where}: {first['msg']}" if where else first["msg"]
        return answer(request.scope["path"], Refusal(422, message, param=where or None))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:  # Starlette raises it again, for the log
        return answer(request.scope["path"], Refusal(500, "internal error"))


def _schema(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


_TEXT, _NULLABLE = {"type": "string"}, {"anyOf": [{"type": "string"}, {"type": "null"}]}
ASKED = (400, 401, 403, 408, 413, 421, 422, 503)  # possible errors of a route that receives audio
DETAIL = _schema({"detail": _TEXT})
OPENAI_ERROR = _schema({"error": _schema({"message": _TEXT, "type": _TEXT, "param": _NULLABLE, "code": _NULLABLE})})

_WHY = {
    400: "the audio cannot be read, or a setting is not supported",
    401: "a bearer token is needed",
    403: "this page's origin is not allowed",
    404: "there is no model of this name",
    408: "the body did not arrive in time",
    413: "the body is too large",
    421: "this service accepts only host names of its own machine",
    422: "a parameter is invalid",
    503: "the service is full; Retry-After has the seconds to wait",
}


def documented(schema: dict[str, Any], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route for its documentation."""
    return {n: {"description": _WHY[n], "content": {"application/json": {"schema": schema}}} for n in statuses}
