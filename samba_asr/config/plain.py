"""Settings of recognition as JSON, for exported models: no package is needed to read them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any, TypeVar

from samba_asr.config.decode import DecodeConfig
from samba_asr.errors import UserError

T = TypeVar("T")

SHORT = {"lm": "path", "hotwords": "path", "vad": "method"}
"""Sections that a value can be given to, as in `decode.vad=energy`, and the field that takes it."""


def to_json(decode: DecodeConfig) -> str:
    """Write settings as JSON."""
    return json.dumps(asdict(decode), indent=2)


def from_json(text: str) -> DecodeConfig:
    """Read settings; those that are missing have their default.  UserError for unknown ones, or wrong values."""
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise UserError(f"the settings are no JSON: {error}") from None
    return _filled(DecodeConfig(), tree, "decode")


def overridden(decode: DecodeConfig, settings: Sequence[str]) -> DecodeConfig:
    """Return the settings with overrides such as "decode.search.beam=256"."""
    for text in settings:
        key, _, value = text.partition("=")
        names = key.split(".")[1:]
        if len(names) == 1 and names[0] in SHORT:
            names.append(SHORT[names[0]])
        tree: Any = _value(value)
        for name in reversed(names):
            tree = {name: tree}
        decode = _filled(decode, tree, "decode")
    return decode


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _filled(config: T, tree: Any, name: str) -> T:
    given: Any = config
    known = {f.name: getattr(given, f.name) for f in fields(given)}
    if not isinstance(tree, dict):
        raise UserError(f"{name} is a section: set one of {', '.join(known)}")
    values = {}
    for key, value in tree.items():
        if key not in known:
            raise UserError(f"unknown key {name}.{key}; there are: {', '.join(known)}")
        before = known[key]
        if is_dataclass(before):
            value = _filled(before, value, f"{name}.{key}")
        elif isinstance(before, str):
            value = str(value)
        elif isinstance(before, float) and isinstance(value, int):
            value = float(value)
        elif before is not None and (type(value) is not type(before)):
            raise UserError(f"{name}.{key}={value!r}: give a {type(before).__name__}")
        values[key] = value
    return replace(given, **values)
