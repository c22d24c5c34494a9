"""Data sets of torchaudio as utterances.  Only this file imports torchaudio.

It uses only torchaudio's file lists: since version 2.9, reading audio through torchaudio needs torchcodec and FFmpeg.
"""

from __future__ import annotations

import os
from pathlib import Path

from samba_asr.data.manifest import Utterance
from samba_asr.errors import UserError, missing_extra

# name -> (argument that selects the part, base folder of its paths)
_DATASETS = {"LIBRISPEECH": ("url", "LibriSpeech"), "SPEECHCOMMANDS": ("subset", "SpeechCommands")}


def read_torchaudio(
    name: str, root: str | os.PathLike, part: str | None = None, *, download: bool = False
) -> list[Utterance]:
    """Read the utterances of `torchaudio.datasets.<name>` at `root`.

    name: LIBRISPEECH (part: train-clean-100, dev-clean, ...) or SPEECHCOMMANDS (part: training, validation, testing,
    None for all).  download: fetch the data if missing.  UserError if torchaudio is not installed or does not load (its
    wheels need CUDA's libraries), for an unknown data set, and for missing data.
    """
    if name not in _DATASETS:
        raise UserError(f"torchaudio's {name!r} is not supported: use one of {', '.join(_DATASETS)}")
    try:
        from torchaudio import datasets
    except ModuleNotFoundError:
        raise missing_extra("torchaudio", "torchaudio") from None
    except OSError as error:
        raise UserError(
            f"torchaudio is installed but does not load here ({error}): use samba_asr.data.readers"
        ) from None
    argument, folder = _DATASETS[name]
    try:
        dataset = getattr(datasets, name)(os.fspath(root), download=download, **({argument: part} if part else {}))
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"{root}: torchaudio finds no {name} there ({error}): check the folder, or download it"
        ) from None
    utterances = []
    for index in range(len(dataset)):
        path, rate, text, speaker, *_ = dataset.get_metadata(index)
        audio = os.path.abspath(Path(root) / folder / path)
        # File names of spoken commands are unique only together with their folder, the word.
        id = Path(path).stem if name == "LIBRISPEECH" else "-".join(Path(path).with_suffix("").parts[-2:])
        utterances.append(Utterance(id, audio, text, str(speaker), rate=rate, split=part or ""))
    return utterances
