"""Names of an utterance's fields in other tools: Hugging Face, NeMo, lhotse, SpeechBrain, WeNet, Common Voice.

All readers share one table: columns of CSV and TSV, keys of JSON.  Case and surrounding blanks are ignored.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from samba_asr.errors import UserError

# Field -> its names.  The first one with a value is used.
NAMES: dict[str, tuple[str, ...]] = {
    "id": ("id", "utt_id", "utt", "uttid", "utterance_id", "segment_id", "key"),
    "audio": (
        *(
            "audio",
            "path",
            "file",
            "filename",
            "file_name",
            "audio_path",
            "audio_filepath",
            "audio_file",
            "audio_filename",
        ),
        *("wav", "wav_path", "wav_file", "wav_filename", "recording"),
    ),
    "text": (
        *("text", "sentence", "transcript", "transcription", "normalized_text", "txt", "words"),
        *("raw_text", "normalized_transcription", "raw_transcription"),
    ),
    "speaker": ("speaker", "speaker_id", "client_id", "spk", "spk_id", "speaker_name"),
    "split": ("split", "set", "subset"),
    "start": ("start", "offset", "start_time", "begin", "begin_time", "onset"),
    "end": ("end", "end_time", "stop"),
    "duration": ("duration", "dur", "length", "duration_seconds"),
    "rate": ("rate", "sampling_rate", "sample_rate", "samplerate"),
}
NUMBERS = ("start", "end", "duration", "rate")


def columns(header: Iterable[str]) -> dict[str, list[int]]:
    """Return, for each field, the positions of its names in a header, the preferred name first."""
    cells = [cell.strip().lower() for cell in header]
    found = {field: [cells.index(name) for name in names if name in cells] for field, names in NAMES.items()}
    return {field: places for field, places in found.items() if places}


def from_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a JSON object by our names.  Null and empty values are left out, other keys ignored."""
    lower = {str(key).strip().lower(): value for key, value in record.items()}
    fields = {}
    for field, names in NAMES.items():
        filled = (lower[name] for name in names if lower.get(name) is not None and lower[name] != "")
        value = next(filled, None)
        if value is not None:
            fields[field] = value
    audio = fields.get("audio")
    if isinstance(audio, Mapping):  # Hugging Face's {"path": ..., "array": ...}; the recording of a lhotse cut
        inner = from_record(audio)
        fields["audio"] = inner.get("audio")
        if inner.get("rate") is not None:
            fields.setdefault("rate", inner["rate"])
    elif audio is None and isinstance(lower.get("sources"), list):  # a lhotse recording
        files = (s for s in lower["sources"] if isinstance(s, Mapping) and s.get("type", "file") == "file")
        if source := next(files, {}).get("source"):
            fields["audio"] = source
    if isinstance(fields.get("speaker"), int):  # as in Hugging Face's librispeech_asr
        fields["speaker"] = str(fields["speaker"])
    if isinstance(fields.get("id"), int) and not isinstance(fields["id"], bool):
        fields["id"] = str(fields["id"])
    if isinstance(fields.get("text"), list) and all(isinstance(word, str) for word in fields["text"]):
        fields["text"] = " ".join(fields["text"])
    return fields


def segment(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """Convert start, duration and rate in `fields` to numbers, and replace end by the duration.

    Numbers may be written as text.  UserError, with `where` and the value, for one that is not a time, and for an end
    that is not after the start.
    """
    fields = {key: value for key, value in fields.items() if value not in ("", None)}
    for key in NUMBERS:
        if key in fields:
            fields[key] = _number(fields[key], key, where)
    end = fields.pop("end", None)
    if end is not None and end != -1 and "duration" not in fields:  # Kaldi's -1: up to the end of the file
        start = fields.get("start", 0.0)
        if not end > start:
            raise UserError(
                f"{where}: a segment from {start:g} to {end:g} s: the end must come after the start, in seconds"
            )
        fields["duration"] = round(end - start, 6)
    if "rate" in fields:
        fields["rate"] = int(fields["rate"])
    return fields


def _number(value: Any, key: str, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and (number >= 0 or (key == "end" and number == -1))):
        raise UserError(f'{where}: "{key}" is {json.dumps(value)}: give a number, not negative')
    return number


def from_lhotse(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the supervisions of a lhotse cut, each a part of the cut's recording, or the cut itself if it has none.

    A record that is not a cut yields nothing.  A cut's start is relative to its recording, a supervision's to its cut.
    """
    if not isinstance(record.get("recording"), Mapping) or "start" not in record:
        return
    whole = from_record({key: value for key, value in record.items() if key != "supervisions"})
    parts = [part for part in record.get("supervisions") or () if isinstance(part, Mapping)]
    for part in parts:
        fields = from_record({key: part[key] for key in ("id", "text", "speaker", "duration") if key in part})
        start = (record["start"] or 0.0) + max(0.0, part.get("start") or 0.0)
        if len(parts) == 1:  # other tools report scores by the cut's id
            fields["id"] = whole.get("id", fields.get("id"))
        yield {
            **{key: whole[key] for key in ("audio", "rate", "split") if key in whole},
            **fields,
            "start": round(start, 6),
        }
    if not parts:
        yield whole


def located(audio: str, folder: str) -> str:
    """Return the path of `audio`, relative to the folder of its table, or to clips/, wavs/ or audio/ in it."""
    for place in ("", "clips", "wavs", "audio"):
        path = os.path.join(folder, place, audio)
        if os.path.exists(path):
            return path
    return os.path.join(folder, audio)
