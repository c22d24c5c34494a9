"""Input files that a user names, folders and patterns included, and the files that a command writes for them."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from samba_asr.audio.source import STDIN
from samba_asr.errors import UserError, printable
from samba_asr.formats import SUFFIXES

MEDIA = frozenset(
    f".{suffix}"
    for line in (
        "3gp aac ac3 aif aiff amr asf au avi caf flac flv m4a m4b m4v mka mkv mov mp2 mp3 mp4 mpeg mpg mts",
        "oga ogg opus ts w64 wav webm wma wmv wv",
    )
    for suffix in line.split()
)
"""Suffixes of files that are taken from a folder."""


def expand(names: Sequence[str]) -> list[str]:
    """Return the files of `names`: of a folder all audio and video in it, folders in it included, sorted; of a pattern what fits.

    Other names are returned as they are, also those of no file, whose error belongs to the command.  UserError for a folder
    without audio, and for a pattern that fits no file.
    """
    found: list[str] = []
    for name in names:
        if os.path.isdir(name):
            inside = [os.path.join(at, file) for at, _, files in os.walk(name) for file in files]
            media = sorted(path for path in inside if os.path.splitext(path)[1].lower() in MEDIA)
            if not media:
                raise UserError(f"{printable(name)}: no audio or video in this folder: name the files")
            found += media
        elif glob.has_magic(name) and not os.path.lexists(name):
            matching = sorted(path for path in glob.glob(name, recursive=True) if not os.path.isdir(path))
            if not matching:
                raise UserError(f"{printable(name)}: no file fits this pattern (now in {Path.cwd()})")
            found += matching
        else:
            found.append(name)
    return found


def outputs(files: Sequence[str], folder: Path, forms: Sequence[str]) -> list[dict[str, Path]]:
    """Return {format: path} in `folder` for each file: talk.srt for talk.mp3, talk.mp3.srt if there is also a talk.wav.

    UserError if two files would have one output.
    """
    stems = [Path(name).stem or name if name != STDIN else "stdin" for name in files]
    twice = {stem for stem, n in Counter(stems).items() if n > 1}
    bases = [os.path.basename(name) if stem in twice else stem for name, stem in zip(files, stems, strict=True)]
    base, n = Counter(bases).most_common(1)[0]
    if n > 1:
        raise UserError(f"{n} files are called {printable(base)}: write them to different folders")
    return [{form: folder / f"{base}.{SUFFIXES.get(form, form)}" for form in forms} for base in bases]
