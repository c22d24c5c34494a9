"""Keys of version 1 and their names in version 2.  Old keys work for one version; a warning names the new ones."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from samba_asr.errors import UserError

logger = logging.getLogger(__name__)

RENAMED = {
    "decode.method": "decode.search.method",
    "decode.beam": "decode.search.beam",
    "decode.prune": "decode.search.prune",
    "decode.nbest": "decode.search.nbest",
    "decode.rescore": "decode.search.rescore",
    "decode.block": "decode.runtime.latency_ms",
    "decode.overlap": "decode.runtime.overlap",
    "decode.lm_weight": "decode.lm.weight",
    "decode.word_bonus": "decode.lm.word_bonus",
    "decode.words": "decode.lm.words",
    "decode.lexicon": "decode.lm.lexicon",
    "decode.neural_lm": "decode.lm.neural",
    "decode.neural_weight": "decode.lm.neural_weight",
    "decode.hotword_weight": "decode.hotwords.weight",
    "pretrain.name": "pretrain.objective",
}
"""A test compares it with the table in conf/README.md.  `decode.block` counted encoder frames, -1 for the largest block."""

SHORT = {"lm": "path", "hotwords": "path", "vad": "method"}
"""Sections of `decode` that accept a plain text, and the key that the text sets."""

OFF: dict[str, dict[str, str]] = {
    "lm": {"path": "", "words": "", "lexicon": "", "neural": ""},
    "hotwords": {"path": ""},
    "vad": {"method": ""},
}
"""Values that "none", or an empty text, sets in these sections."""


def modern(tree: dict[str, Any], source: str, frame_ms: float) -> tuple[dict[str, Any], list[str]]:
    """Replace old keys in a tree by those of version 2.  Return the new tree and the old keys.

    source: origin of the tree, for messages.  frame_ms: duration of an encoder frame, to convert `decode.block`.
    UserError if an old key and its new one are both given.
    """
    used: list[str] = []
    pretrain = tree.get("pretrain")
    if isinstance(pretrain, dict) and "name" in pretrain:
        if "objective" in pretrain:
            raise UserError(f"{source}: pretrain.name is the old name of pretrain.objective: give one of them")
        used.append("pretrain.name")
        tree = {**tree, "pretrain": {("objective" if key == "name" else key): v for key, v in pretrain.items()}}
    decode = tree.get("decode")
    if not isinstance(decode, dict):
        return tree, used
    new: dict[str, Any] = {}
    for key, value in decode.items():
        old = f"decode.{key}"
        if key in SHORT and not isinstance(value, dict) and value is not None:
            text = str(value)
            _put(new, {key: dict(OFF[key]) if text in ("", "none") else {SHORT[key]: text}}, source)
        elif old in RENAMED:
            used.append(old)
            if key == "block" and isinstance(value, int):
                if value < -1:
                    raise UserError(f"{source}: decode.block={value}: give encoder frames, or -1 for the largest block")
                value = None if value < 0 else max(1, value) * frame_ms
            _, section, name = RENAMED[old].split(".")
            _put(new, {section: {name: value}}, source, old)
        else:
            _put(new, {key: value}, source)
    return {**tree, "decode": new}, used


def warn(used: Iterable[str]) -> None:
    """Log one warning that names the new keys for the old ones in `used`."""
    if names := ", ".join(f"{old} is {RENAMED[old]}" for old in dict.fromkeys(used)):
        logger.warning("settings have new names: %s (the next version removes the old ones)", names)


def check_both(keys: Collection[str]) -> None:
    """Raise UserError if `keys` has both an old key and its new one."""
    for old, new in RENAMED.items():
        if old in keys and new in keys:
            raise UserError(f"{old} is the old name of {new}: give one of them")
    for section, name in SHORT.items():
        if f"decode.{section}" in keys and f"decode.{section}.{name}" in keys:
            raise UserError(f"decode.{section} is short for decode.{section}.{name}: give one of them")


def _put(tree: dict[str, Any], more: dict[str, Any], source: str, old: str = "") -> None:
    """Add sections to a tree; UserError for a key that is already there under its other name."""
    for section, values in more.items():
        there = tree.get(section)
        if not isinstance(values, dict) or not isinstance(there, dict):
            if section in tree:
                raise UserError(f"{source}: decode.{section} is given twice")
            tree[section] = values
            continue
        for name in values:
            if name in there and values[name] != there[name] and (old or _old_name(section, name)):
                raise UserError(
                    f"{source}: decode.{section}.{name} and its old name {old or _old_name(section, name)} are both given: "
                    "leave the old one out"
                )
        there.update(values)


def _old_name(section: str, name: str) -> str:
    return next((old for old, new in RENAMED.items() if new == f"decode.{section}.{name}"), "")


def table() -> Iterator[str]:
    """Yield the rows of RENAMED in Markdown."""
    yield "| old | new |"
    yield "|---|---|"
    for old, new in RENAMED.items():
        yield f"| `{old}` | `{new}` |"
