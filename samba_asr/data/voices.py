"""Voices for Kokoro: weights over its styles, a speed, and a warp of pitch and formants.

A voice is a sum of all n styles with Gaussian weights, w = 1/n + (z - mean z) / sqrt(n - 1), z ~ N(0, 1).  It is about as far
from the mean of the styles as each style is, but in new directions, so negative weights are intended.  Diversity by speaker
embeddings (effective number of voices among 24, Vendi score): blends of up to three styles 4.0, the styles themselves 4.7,
these voices 5.7, with the warp 6.0; real speakers 6.5.  Larger weights (z * 1.15) make the speech unintelligible.

n styles, k voices
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samba_asr.data.bucketing import derive_seed
from samba_asr.errors import UserError

SPEEDS = (0.85, 1.2)  # relative to Kokoro's
WARPS = (0.86, 1.16)  # factors of all frequencies, in the range of adults' larynx and vocal tract sizes
SENTENCES = (  # Whisper tiny.en recognizes them without error when af_heart, am_michael or bf_emma speaks
    "It is easy to tell the depth of a well.",
    "The boy was there when the sun rose.",
    "She had your dark suit in greasy wash water all year.",
)


@dataclass(frozen=True)
class Voice:
    """One synthetic voice."""

    weights: np.ndarray  # (n,) float32, of the styles in the order of their names; they add up to 1
    speed: float
    warp: float  # speech is generated at speed / warp, then played warp times as fast


def draw(n: int, seed: int, number: int) -> Voice:
    """Draw voice `number` of the sequence of `seed`, over n styles."""
    rng = np.random.default_rng(derive_seed("voice", seed, number))
    z = rng.standard_normal(n)
    weights = 1 / n + (z - z.mean()) / math.sqrt(max(n - 1, 1))
    return Voice(weights.astype(np.float32), float(rng.uniform(*SPEEDS)), float(rng.uniform(*WARPS)))


def read(path: Path, names: Sequence[str], seed: int) -> list[Voice]:
    """Read the voices of a file that `write` wrote, over styles of these names.  Missing warps are drawn from the seed.

    UserError if it is not such a file, or is of other styles.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            own, weights, speeds = (file[key] for key in ("names", "weights", "speed"))
            warps = file["warp"] if "warp" in file.files else None
    except (OSError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a file of voices ({error}): write one with samba-asr augment voices") from None
    order = {str(name): i for i, name in enumerate(own)}
    if set(order) != set(names) or weights.ndim != 2 or weights.shape != (len(speeds), len(own)) or not len(speeds):
        raise UserError(
            f"{path}: its {weights.shape} weights are of other styles than these {len(names)}: draw it again"
        )
    if not (np.isfinite(weights).all() and np.isfinite(speeds).all() and (speeds > 0).all()):
        raise UserError(f"{path}: its weights and speeds are not all finite: draw it again")
    weights = weights[:, [order[name] for name in names]].astype(np.float32)
    if warps is None:
        warps = [draw(len(names), seed, number).warp for number in range(len(speeds))]
    return [Voice(w, float(s), float(a)) for w, s, a in zip(weights, speeds, warps, strict=True)]


def write(path: Path, names: Sequence[str], voices: Sequence[Voice]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(
            file,
            names=np.array(names),
            weights=np.stack([voice.weights for voice in voices]),
            speed=np.array([voice.speed for voice in voices], np.float32),
            warp=np.array([voice.warp for voice in voices], np.float32),
        )


def choose(
    names: Sequence[str],
    wanted: int,
    seed: int,
    errors: Callable[[Voice], float],
    most: float,
    log: Path,
    report: Callable[[int], None] = lambda n: None,
) -> tuple[list[Voice], int]:
    """Return the first `wanted` voices of the seed whose `errors`, 0 to 1, are at most `most`, and how many were tried.

    Results are appended to `log` (JSONL) and reused.  report: called with the number of voices found.
    UserError if nine of ten voices fail, or if the log is of another seed or other styles.
    """
    header = {"seed": seed, "styles": list(names)}
    known = _read_log(log, header)
    voices: list[Voice] = []
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        if not known and file.tell() == 0:
            file.write(json.dumps(header) + "\n")
        number = 0
        while len(voices) < wanted:
            voice = draw(len(names), seed, number)
            if number not in known:
                known[number] = round(errors(voice), 4)
                file.write(json.dumps({"voice": number, "errors": known[number]}) + "\n")
                file.flush()
            if known[number] <= most:
                voices.append(voice)
                report(len(voices))
            number += 1
            if number >= 50 and len(voices) < number / 10:
                raise UserError(f"{number - len(voices)} of {number} voices have more errors than {most:g}: allow more")
    return voices, number


def _read_log(path: Path, header: dict) -> dict[int, float]:
    """Return the errors by the number of the voice."""
    if not path.exists() or path.stat().st_size == 0:
        return {}
    try:
        first, *rest = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
        known = {entry["voice"]: entry["errors"] for entry in rest}
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not a log of voices: delete it") from None
    if first != header:
        raise UserError(f"{path} is of another seed or of other styles: give another --out, or delete it")
    return known
