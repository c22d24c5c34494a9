"""The model card, README.md in a model folder: data, error rates, language, date and license of a model.

A card that ends with `NOTE` is written anew by `samba-asr average`, and `samba-asr decode --record` puts error rates into it.
Any other README.md is somebody's own text and stays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from samba_asr.models.box import is_boxed

if TYPE_CHECKING:
    from samba_asr.config import Config
    from samba_asr.models.asr import AsrModel

NOTE = "<!-- samba-asr average and samba-asr decode --record write this file anew; without this line they leave it alone -->"
RATES = "## Error rates\n"
ORIGIN = "origin.json"  # in the folder of a run: the model it started with
UNKNOWN = ("not stated", "not recorded")


@dataclass(frozen=True)
class Card:
    """Content of a model card.

    trained_on  data, with its amount if known
    made_from   model whose weights training started with
    scores      error rates, with their test sets
    calibrated  whether the confidences are probabilities; None if that is not known yet
    """

    trained_on: str = ""
    made_from: str = ""
    scores: str = ""
    language: str = ""
    license: str = ""
    date: str = ""
    calibrated: bool | None = None

    def text(self, model: AsrModel, config: Config) -> str:
        """Return the card in Markdown, with what the model itself says."""
        parameters, m = sum(p.numel() for p in model.parameters()), config.model
        confidences = {
            True: "calibrated on held-out speech",
            False: "not calibrated (`samba-asr calibrate`)",
            None: "calibrated if the folder has a confidence.json",
        }
        return f"""# A samba_asr model

{parameters:,} parameters; {m.layers} layers of d_model {m.d_model}, mixer {m.mixer.name}, decoder layers {m.decoder.layers};
{m.features.sample_rate} Hz audio; tokenizer {config.tokenizer.kind} of {m.vocab_size} units.

- Date: {self.date or "not recorded"}
- Language: {self.language or "not recorded"}
- Trained on: {self.trained_on or "not recorded"}
- Made from: {self.made_from or "nothing, or not recorded"}
- Confidences: {confidences[self.calibrated]}
- License of the weights: {self.license or "not stated; those of its data and of its old model bind it"}

Use: `samba-asr transcribe --model FOLDER FILE...`

{RATES}
{self.scores or rates({})}
"""


@dataclass(frozen=True)
class Origin:
    """Name, language and license of a model by its card, for the cards of models made from it; "" where it has none."""

    name: str = ""
    language: str = ""
    license: str = ""


def origin(folder: Path) -> Origin:
    """Read the card of a model folder: its lines `- Language:` and `- License of the weights:`, or the head for a hub."""
    path = Path(folder) / "README.md"
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    name = folder.resolve().name if is_boxed(folder) else Path(folder).name
    return Origin(name, _stated(text, "Language", "language"), _stated(text, "License of the weights", "license"))


def _stated(text: str, line: str, key: str) -> str:
    head = text[4:].partition("\n---")[0] if text.startswith("---\n") else ""
    found = re.search(rf"^- {line}: (.+)$", text, re.M) or re.search(rf"^{key}: ([\w.-]+)\s*$", head, re.M)
    return "" if found is None or found[1].startswith(UNKNOWN) else found[1].strip()


def write_origin(run: Path, init: Path) -> None:
    """Note in the folder of a run what it started with, for the card of its average."""
    (run / ORIGIN).write_text(json.dumps(asdict(origin(init)), indent=2) + "\n", encoding="utf-8")


def read_origin(run: Path) -> Origin | None:
    """Return what a run started with; None for one from nothing, or an older one."""
    try:
        found = json.loads((run / ORIGIN).read_text(encoding="utf-8"))
        return Origin(**{key: str(found[key]) for key in ("name", "language", "license")})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def inherited_license(origins: Sequence[Origin]) -> str:
    """Return the line about the license of a model that is made from these; "" if they state none."""
    stated = dict.fromkeys((o.license.partition(",")[0], o.name) for o in origins if o.license)
    if not stated:
        return ""
    of = "; ".join(f"{license}, as {name}, from which it was made" for license, name in stated)
    return f"{of}; its data may add conditions"


def rates(results: dict[str, Any]) -> str:
    """Return the error rates of a results.json as a table."""
    rows = [
        f"| {name} | {found.get('data', '')} | {found['wer']:.2f} % | {_interval(found.get('interval'))} |"
        for name, found in results.items()
        if "wer" in found
    ]
    if not rows:
        return "None were measured (`samba-asr decode --record NAME`)."
    return "\n".join(("| name in results.json | test set | WER | 95 % interval |", "|---|---|---|---|", *rows))


def _interval(bounds: Sequence[float] | None) -> str:
    return f"{bounds[0]:.2f} to {bounds[1]:.2f}" if bounds else ""


def write_card(folder: Path, text: str) -> None:
    """Write the card, unless README.md is somebody's own."""
    path = folder / "README.md"
    if not path.exists() or is_ours(path):
        path.write_text(f"{text.rstrip()}\n\n{NOTE}\n", encoding="utf-8")


def update_rates(folder: Path, results: dict[str, Any]) -> None:
    """Put the error rates of results.json into the card, unless README.md is somebody's own."""
    path = folder / "README.md"
    if path.is_file() and is_ours(path):
        write_card(folder, f"{path.read_text(encoding='utf-8').partition(RATES)[0]}{RATES}\n{rates(results)}")


def is_ours(path: Path) -> bool:
    """Return whether a README.md may be replaced."""
    return path.read_text(encoding="utf-8", errors="replace").rstrip().endswith(NOTE)
