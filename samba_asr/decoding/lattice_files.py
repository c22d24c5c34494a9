"""Word lattices as files: JSON, and HTK's standard lattice format (SLF), which other tools read.

SLF: The HTK Book 3.4, chapter 20.  One line a node (`I=`, its time) and one an arc (`J=`, from, to, word, acoustic and language
model score in nats).  Words are quoted where they need it; an arc without a word is `!NULL`.
"""

from __future__ import annotations

import json
from typing import Any

from samba_asr.decoding.lattice import Lattice
from samba_asr.decoding.posteriors import posteriors

FORMATS = ("json", "htk")
SUFFIXES = {"json": "json", "htk": "slf"}


def render(lattice: Lattice, name: str, form: str, frame: float) -> str:
    """Return the text of a file in one of FORMATS.  name: of the utterance.  frame: seconds of an encoder frame."""
    return (
        to_htk(lattice, name, frame) if form == "htk" else json.dumps(to_json(lattice, name, frame), ensure_ascii=False)
    )


def to_json(lattice: Lattice, name: str, frame: float) -> dict[str, Any]:
    """Return the JSON object: times of the nodes in seconds, and the arcs in the order of their nodes."""
    shares = posteriors(lattice, [0.5])[0].tolist()
    rows = zip(
        lattice.start.tolist(), lattice.end.tolist(), lattice.texts, lattice.acoustic.tolist(), lattice.lm.tolist(), shares,
        strict=True,
    )  # fmt: skip
    return {
        "id": name,
        "times": [round(time * frame, 3) for time in lattice.times.tolist()],
        "arcs": [
            {
                "from": start,
                "to": end,
                "word": word,
                "acoustic": round(acoustic, 4),
                "lm": round(lm, 4),
                "posterior": round(share, 4),
            }
            for start, end, word, acoustic, lm, share in rows
        ],
    }


def to_htk(lattice: Lattice, name: str, frame: float) -> str:
    """Return the lattice in SLF, words on arcs."""
    quoted = [_quoted(word) for word in lattice.words]
    lines = [
        "VERSION=1.0",
        f"UTTERANCE={_quoted(name)}",
        "base=2.718281828",
        f"start=0 end={len(lattice.times) - 1}",
        f"N={len(lattice.times)} L={len(lattice.start)}",
        *(f"I={n} t={time * frame:.3f}" for n, time in enumerate(lattice.times.tolist())),
    ]
    rows = zip(
        lattice.start.tolist(), lattice.end.tolist(), lattice.word.tolist(), lattice.acoustic.tolist(), lattice.lm.tolist(),
        strict=True,
    )  # fmt: skip
    lines += [
        f"J={arc} S={start} E={end} W={quoted[word]} a={acoustic:.4f} l={lm:.4f}"
        for arc, (start, end, word, acoustic, lm) in enumerate(rows)
    ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a name as HTK writes it: in quotes if a blank or a quote is in it."""
    if not text:
        return "!NULL"
    if not set(text) & set(" \t\"'\\"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
