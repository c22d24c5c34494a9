"""`/docs`: a reference of all calls and messages with their types, made from the code; `/v1/protocol`: their JSON schemas.

FastAPI's own pages load scripts from other hosts, so they are blank without the internet.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from samba_asr.serve import protocol
from samba_asr.serve.pages import PAGE

router = APIRouter()

STYLE = (
    "html{background:Canvas;color:CanvasText}"
    "body{background:Canvas;font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}td,th{border:1px solid #8888;padding:.3rem .5rem;"
    "text-align:left;vertical-align:top}code{font-family:ui-monospace,monospace}:root{color-scheme:light dark}"
)


@router.get("/v1/protocol")
async def schemas() -> dict[str, Any]:
    """Describe the messages of `WS /v1/stream` as JSON schemas, of the client (up) and of the service (down)."""
    return {"up": protocol.UP.json_schema(), "down": protocol.DOWN.json_schema()}


@router.get("/docs", response_class=HTMLResponse, include_in_schema=False)
async def reference(request: Request) -> HTMLResponse:
    """Show the reference of this service."""
    return HTMLResponse("\n".join(_page(request.app.openapi())))


def _page(openapi: dict[str, Any]) -> Iterator[str]:
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>samba_asr: reference</title><style>{STYLE}</style>"
    yield "<main><h1>samba_asr: reference</h1>"
    yield "<p>Schemas: <a href=/openapi.json>/openapi.json</a> for HTTP, <a href=/v1/protocol>/v1/protocol</a> for messages.</p>"
    if "/docs/try" in PAGE:
        yield "<p><a href=/docs/try>Try the calls of HTTP</a> in Swagger's page.</p>"
    yield "<h2><code>WS /v1/stream</code></h2><p>Audio goes up as binary messages. All else is JSON with a <code>type</code>.</p>"
    for title, adapter in (("From the client", protocol.UP), ("From the service", protocol.DOWN)):
        yield f"<h3>{title}</h3>"
        schema = adapter.json_schema()
        for name in schema["discriminator"]["mapping"]:
            message = _resolved({"$ref": schema["discriminator"]["mapping"][name]}, schema["$defs"])
            yield f"<h4><code>{escape(name)}</code></h4><p>{_text(message.get('description', ''))}</p>"
            yield from _table(message, schema["$defs"], leave_out=("type",))
    yield "<h2>HTTP</h2>"
    defs = openapi.get("components", {}).get("schemas", {})
    for path, methods in openapi["paths"].items():
        for method, call in methods.items():
            yield f"<h3><code>{method.upper()} {escape(path)}</code></h3><p>{_text(call.get('description', ''))}</p>"
            fields = {
                p["name"]: {**p["schema"], "description": p.get("description", "")} for p in call.get("parameters", ())
            }
            needed = [p["name"] for p in call.get("parameters", ()) if p.get("required")]
            yield from _table({"properties": fields, "required": needed}, defs)
            for content in call.get("requestBody", {}).get("content", {}).values():
                yield from _table(_resolved(content["schema"], defs), defs)
    yield "</main>"


def _table(schema: dict[str, Any], defs: dict[str, Any], leave_out: tuple[str, ...] = ()) -> Iterator[str]:
    fields = {name: field for name, field in schema.get("properties", {}).items() if name not in leave_out}
    if not fields:
        return
    yield "<table><tr><th>field</th><th>type</th><th>default</th><th>meaning</th></tr>"
    for name, field in fields.items():
        default = "needed" if name in schema.get("required", ()) else repr(field.get("default"))
        cells = (
            f"<code>{escape(name)}</code>",
            escape(_type(field, defs)),
            escape(default),
            _text(field.get("description", "")),
        )
        yield f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    yield "</table>"


def _type(field: dict[str, Any], defs: dict[str, Any]) -> str:
    """Return the type of a field in words: `number, 0 to 3600`, `list of {word, start, end}`."""
    field = _resolved(field, defs)
    if kinds := field.get("anyOf") or field.get("oneOf"):
        return " or ".join(_type(kind, defs) for kind in kinds)
    if values := field.get("enum") or ([field["const"]] if "const" in field else []):
        return " or ".join(repr(value) for value in values)
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}), defs)}"
    if field.get("type") == "object":
        inner = field.get("properties")
        return (
            "{" + ", ".join(inner) + "}" if inner else f"{{name: {_type(field.get('additionalProperties', {}), defs)}}}"
        )
    low, high = (
        next((field[key] for key in keys if key in field), None)
        for keys in (("minimum", "exclusiveMinimum"), ("maximum",))
    )
    bounds = f", {low:g} to {high:g}" if low is not None and high is not None else ""
    return f"{field.get('type', 'any')}{bounds}"


def _resolved(field: dict[str, Any], defs: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that a reference names."""
    name = field.get("$ref", "").rpartition("/")[2]
    return {**defs.get(name, {}), **{key: value for key, value in field.items() if key != "$ref"}} if name else field


def _text(text: str) -> str:
    """Return the first paragraph as HTML; text between backticks is code."""
    parts = escape(text.split("\n\n")[0]).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))
