"""Readers of corpora in the usual layouts, as lists of utterances.

format         recognized by
jsonl          a file `.jsonl`, `.jsonl.gz` or `.json` (ours, or other tools' keys), or a folder with one called
               `manifest.jsonl` or `metadata.jsonl`
table          a file `.csv`, `.tsv` or `.txt`, or a folder with one of `metadata.csv`, `*.csv`, `*.tsv`
ljspeech       a folder with `metadata.csv` and `wavs/` (or `wav/`): id|text, or id|raw text|text
kaldi          a folder with `wav.scp`
librispeech    a folder with `speaker/chapter/speaker-chapter.trans.txt`, or with such folders (splits)
fsdd           a folder (or its `recordings/`) of `{digit}_{speaker}_{n}.wav|flac`
shards         a file `.tar` or `.parquet`, or a folder with such files (`shards.py`)
pairs          a folder of audio files with a text beside each: a.wav and a.txt (or a.lab), folders in it included

Texts are unchanged.  Durations are left open unless the corpus states them; `with_durations` (durations.py) reads them
from the headers.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from samba_asr.data.manifest import Utterance, read_manifest
from samba_asr.data.shards import is_shards, read_shards
from samba_asr.data.tables import is_ljspeech, numbered_lines, read_ljspeech, read_table
from samba_asr.errors import UserError

log = logging.getLogger(__name__)

AUDIO = (
    ".flac",
    ".opus",
    ".wav",
    ".ogg",
    ".mp3",
    ".m4a",
    ".webm",
    ".aac",
    ".mp4",
)  # in order of preference, if a corpus has an utterance twice
TEXTS = (".txt", ".lab")  # beside an audio file
DIGITS = ("ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE")

_FSDD = re.compile(r"(\d)_([^_]+)_(\d+)")
_CHAPTER = re.compile(r"\d+-\d+")


def read_corpus(path: str | os.PathLike, *, format: str = "auto") -> list[Utterance]:
    """Read the utterances at `path`, in the corpus's order (sorted if only the file system orders them).

    format: a name in `FORMATS`, or "auto" to detect it from the layout.  UserError for a missing path, an unknown layout, or
    a violation of the format (with file:line).
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder: check the name (now in {Path.cwd()})")
    if format == "auto":
        format = detect_format(path)
    if format not in FORMATS:
        raise UserError(f"format {format!r}: give one of auto, {', '.join(FORMATS)}")
    utterances = FORMATS[format](path)
    if not utterances:
        raise UserError(f"{path}: read as {format}, this holds no utterances: check the place and the format")
    log.info("%s: %d utterances (%s)", path, len(utterances), format)
    return utterances


def detect_format(path: Path) -> str:
    """Return the name of the format of `path`, detected from its layout."""
    if path.is_file():
        name = path.name.lower()
        if name == "wav.scp":
            return "kaldi"
        if name.endswith((".jsonl", ".jsonl.gz", ".json")):
            return "jsonl"
        if name.endswith((".csv", ".tsv", ".txt")):
            return "table"
        if is_shards(path):
            return "shards"
    elif (path / "wav.scp").exists():
        return "kaldi"
    elif is_ljspeech(path):
        return "ljspeech"
    elif next(_manifests(path), None):
        return "jsonl"
    elif next(_chapters(path), None):
        return "librispeech"
    elif any(True for _ in _digit_files(path)):
        return "fsdd"
    elif len([*path.glob("*.csv"), *path.glob("*.tsv")]) == 1:
        return "table"
    elif is_shards(path):
        return "shards"
    elif any(True for _ in _pairs(path)):
        return "pairs"
    raise UserError(f"{path}: the format of this corpus is not recognized: name it ({', '.join(FORMATS)})")


def read_librispeech(path: Path) -> list[Utterance]:
    """Read `speaker/chapter/speaker-chapter-number.flac|opus|wav` and `speaker-chapter.trans.txt` with lines `id TEXT`.

    path: one split (train-clean-5, test-5h), or the folder of the splits, which are named by their folders.
    A file without a transcript is an utterance without text.  A transcript without a file is an utterance with missing
    audio, which `validate` reports.
    """
    utterances: dict[str, Utterance] = {}
    for chapter in _chapters(path):
        split = chapter.parent.parent.name
        speaker = chapter.parent.name
        texts = _transcripts(chapter / f"{speaker}-{chapter.name}.trans.txt")
        files = _audio_files(chapter)
        for id in sorted({*files, *texts}):
            audio = files.get(id, chapter / f"{id}.flac")
            if id in utterances:
                other = Path(utterances[id].audio).parent
                raise UserError(f"{audio}: {id} is also in {other}: read one split at a time")
            utterances[id] = Utterance(id, os.path.abspath(audio), texts.get(id, ""), speaker, split=split)
    return list(utterances.values())


def _chapters(path: Path) -> Iterator[Path]:
    """Yield the folders `speaker/chapter` of a split, or of the splits in `path`, sorted by speaker, then chapter."""
    for pattern in ("*/*", "*/*/*"):
        found = [
            folder
            for folder in path.glob(pattern)
            if folder.is_dir() and _CHAPTER.fullmatch(f"{folder.parent.name}-{folder.name}")
        ]
        if found:
            yield from sorted(found, key=lambda f: (f.parent.parent.name, int(f.parent.name), int(f.name)))
            return


def _transcripts(path: Path) -> dict[str, str]:
    """Read `id TEXT` lines.  A missing file counts as empty."""
    if not path.exists():
        return {}
    texts: dict[str, str] = {}
    for number, line in numbered_lines(path):
        id, *text = line.split(maxsplit=1)
        if id in texts:
            raise UserError(f"{path}:{number}: {id} has a second transcript: keep one")
        texts[id] = text[0] if text else ""
    return texts


def _audio_files(folder: Path) -> dict[str, Path]:
    """Return id -> audio file, the first type of `AUDIO` if there are several."""
    files: dict[str, Path] = {}
    for file in sorted(folder.iterdir(), key=lambda f: f.suffix.lower() in AUDIO and AUDIO.index(f.suffix.lower())):
        if file.suffix.lower() in AUDIO:
            files.setdefault(file.stem, file)
    return files


def read_fsdd(path: Path) -> list[Utterance]:
    """Read the Free Spoken Digit Dataset: `{digit}_{speaker}_{n}.wav`; text ZERO to NINE, split test for n < 5 (its rule)."""
    utterances = []
    for file in _digit_files(path):
        if (named := _FSDD.fullmatch(file.stem)) is None:
            continue
        digit, speaker, n = named.groups()
        split = "test" if int(n) < 5 else "train"
        utterances.append(Utterance(file.stem, os.path.abspath(file), DIGITS[int(digit)], speaker, split=split))
    return utterances


def _digit_files(path: Path) -> Iterator[Path]:
    folder = path / "recordings" if (path / "recordings").is_dir() else path
    for _, file in sorted(_audio_files(folder).items()):
        if _FSDD.fullmatch(file.stem):
            yield file


def read_pairs(path: Path) -> list[Utterance]:
    """Read audio files with a text beside each, `a.wav` and `a.txt` (or `a.lab`), in any folders.

    The speaker is the folder that holds the files, seen from `path`; files in `path` itself have none.  An audio file without
    a text is an utterance without text.  Texts without audio are counted in a warning.
    """
    audio: set[Path] = set()
    utterances = []
    for folder in sorted({folder for folder, _ in _pairs(path)}):
        speaker = folder.relative_to(path).as_posix().replace("/", "-").strip(".")
        for stem, file in sorted(_audio_files(folder).items()):
            audio.add(file.with_suffix(""))
            text = next((t for t in (file.with_suffix(suffix) for suffix in TEXTS) if t.is_file()), None)
            words = " ".join(line for _, line in numbered_lines(text)) if text else ""
            id = f"{speaker}-{stem}" if speaker else stem
            utterances.append(Utterance(id, os.path.abspath(file), words, speaker))
    alone = sorted(t for suffix in TEXTS for t in path.rglob(f"*{suffix}") if t.with_suffix("") not in audio)
    if alone:
        log.warning("%s: %d texts have no audio beside them, such as %s", path, len(alone), alone[0].name)
    return utterances


def _pairs(path: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the folder and the text of each pair in `path`."""
    for suffix in TEXTS:
        for text in path.rglob(f"*{suffix}"):
            if any(text.with_suffix(kind).is_file() for kind in AUDIO):
                yield text.parent, text


def read_kaldi(path: Path) -> list[Utterance]:
    """Read Kaldi's data folder: wav.scp, and text, utt2spk and segments if present.

    In Kaldi, a relative path in wav.scp is relative to the folder of the recipe.  Here it is looked up in the current folder,
    then in the data folder.  UserError for a command (`... |`), which is never run, and for an archive (`file.ark:123`).
    """
    folder = path.parent if path.is_file() else path
    recordings = {}
    for id, (value, where) in _columns(folder / "wav.scp").items():
        if value.startswith("|") or value.endswith("|"):
            raise UserError(
                f"{where}: {value!r} is a command, and commands in data are never run: write the audio to files"
            )
        if re.search(r"\.ark:\d+$", value):
            raise UserError(f"{where}: {value!r} is in an archive, which is not read: write the audio to files")
        recordings[id] = value if os.path.exists(value) else os.path.join(folder, value)
    texts, speakers = (_columns(folder / name, optional=True) for name in ("text", "utt2spk"))

    def utterance(id: str, recording: str, start: float, duration: float | None) -> Utterance:
        text, speaker = (table.get(id, ("",))[0] for table in (texts, speakers))
        audio = os.path.abspath(recordings[recording])
        return Utterance(id, audio, text, speaker, duration, start)

    def silent(known: dict[str, object]) -> list[Utterance]:
        """Return utterances with missing audio for the ids of text without audio, so that `validate` reports them."""
        lost = [id for id in texts if id not in known]
        if lost:
            table = "segments" if (folder / "segments").exists() else "wav.scp"
            log.warning("%s: %d ids have no audio in %s, such as %s", folder / "text", len(lost), table, lost[0])
        return [Utterance(id, os.path.abspath(folder / id), texts[id][0], speakers.get(id, ("",))[0]) for id in lost]

    if not (folder / "segments").exists():
        return [*(utterance(id, id, 0.0, None) for id in recordings), *silent(recordings)]
    utterances = []
    for id, (value, where) in _columns(folder / "segments").items():
        try:
            recording, start, end = value.split()[:3]
            start, end = float(start), float(end)
        except ValueError:
            raise UserError(
                f"{where}: {value!r} is not a segment: write `id recording start end`, in seconds"
            ) from None
        if recording not in recordings:
            raise UserError(f"{where}: the recording {recording!r} is not in wav.scp: add it, or drop the segment")
        if end == -1:  # Kaldi: up to the end
            utterances.append(utterance(id, recording, start, None))
        elif 0 <= start < end:
            utterances.append(utterance(id, recording, start, round(end - start, 6)))
        else:
            raise UserError(f"{where}: a segment from {start} to {end} s: the end must come after the start")
    return utterances + silent({u.id: u for u in utterances})


def _columns(path: Path, *, optional: bool = False) -> dict[str, tuple[str, str]]:
    """Read `key value` lines; return key -> (value, file:line)."""
    if not path.exists():
        if optional:
            return {}
        raise UserError(f"{path}: no such file: a Kaldi data folder has one")
    table: dict[str, tuple[str, str]] = {}
    for number, line in numbered_lines(path):
        key, *value = line.split(maxsplit=1)
        if key in table:
            raise UserError(f"{path}:{number}: {key!r} occurs twice: keep one")
        table[key] = (value[0] if value else "", f"{path}:{number}")
    return table


def _read_jsonl(path: Path) -> list[Utterance]:
    return read_manifest(next(_manifests(path)) if path.is_dir() else path)


def _manifests(folder: Path) -> Iterator[Path]:
    """Yield the existing manifests of a folder: ours, then Hugging Face's."""
    return (folder / name for name in ("manifest.jsonl", "metadata.jsonl") if (folder / name).exists())


FORMATS: dict[str, Callable[[Path], list[Utterance]]] = {
    "jsonl": _read_jsonl,
    "table": read_table,
    "ljspeech": read_ljspeech,
    "kaldi": read_kaldi,
    "librispeech": read_librispeech,
    "fsdd": read_fsdd,
    "shards": read_shards,
    "pairs": read_pairs,
}
