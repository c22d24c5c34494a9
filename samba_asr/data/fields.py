"""Names that other tools give to the fields of an utterance: Hugging Face, NeMo, lhotse, SpeechBrain, WeNet, Common Voice.

One table for every reader: columns of CSV and TSV, keys of JSON.  Case and blanks around a name do not matter.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from samba_asr.errors import UserError

# Field -> names, of which the first that is there and filled counts.
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
    """Field -> the places of its names in a header, the best first."""
    cells = [cell.strip().lower() for cell in header]
    found = {field: [cells.index(name) for name in names if name in cells] for field, names in NAMES.items()}
    return {field: places for field, places in found.items() if places}


def from_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a JSON object by our names; what is null or empty is left out, other keys are ignored."""
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
    elif audio is None and isinstance(lower.get("sources"), list):  # a lhotse recording itself
        files = (s for s in lower["sources"] if isinstance(s, Mapping) and s.get("type", "file") == "file")
        if source := next(files, {}).get("source"):
            fields["audio"] = source
    if isinstance(fields.get("speaker"), int):  # as Hugging Face's librispeech_asr has them
        fields["speaker"] = str(fields["speaker"])
    if isinstance(fields.get("id"), int) and not isinstance(fields["id"], bool):
        fields["id"] = str(fields["id"])
    if isinstance(fields.get("text"), list) and all(isinstance(word, str) for word in fields["text"]):
        fields["text"] = " ".join(fields["text"])
    return fields


def segment(fields: dict[str, Any], where: str) -> dict[str, Any]:
    """`fields` with start, duration and rate as numbers, from end where there is no duration, and without end.

    Numbers may be written as text.  UserError naming `where` and the value for one that is no time, and for an end
    that does not come after the start.
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
                f"{where}: a segment from {start:g} to {end:g} s: the end comes after the start, in seconds"
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
    """The supervisions of a lhotse cut, each a part of the cut's recording; the cut itself where it has none.

    Nothing for a record that is no cut.  A cut's start is in its recording, a supervision's in its cut.
    """
    if not isinstance(record.get("recording"), Mapping) or "start" not in record:
        return
    whole = from_record({key: value for key, value in record.items() if key != "supervisions"})
    parts = [part for part in record.get("supervisions") or () if isinstance(part, Mapping)]
    for part in parts:
        fields = from_record({key: part[key] for key in ("id", "text", "speaker", "duration") if key in part})
        start = (record["start"] or 0.0) + max(0.0, part.get("start") or 0.0)
        if len(parts) == 1:  # the cut's id is what other tools' scores name
            fields["id"] = whole.get("id", fields.get("id"))
        yield {
            **{key: whole[key] for key in ("audio", "rate", "split") if key in whole},
            **fields,
            "start": round(start, 6),
        }
    if not parts:
        yield whole


def located(audio: str, folder: str) -> str:
    """The path of `audio` as seen from the folder of its table, or from its clips/, wavs/ or audio/."""
    for place in ("", "clips", "wavs", "audio"):
        path = os.path.join(folder, place, audio)
        if os.path.exists(path):
            return path
    return os.path.join(folder, audio)
