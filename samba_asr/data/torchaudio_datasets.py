"""The data sets that torchaudio knows, as utterances.  The one file that imports torchaudio; nothing else needs it.

Only its file lists are used: reading audio through torchaudio needs torchcodec and FFmpeg since its version 2.9.
"""

from __future__ import annotations

import os
from pathlib import Path

from samba_asr.data.manifest import Utterance
from samba_asr.errors import UserError, missing_extra

# name -> (name of its argument that chooses the part, folder that its paths are relative to)
_DATASETS = {"LIBRISPEECH": ("url", "LibriSpeech"), "SPEECHCOMMANDS": ("subset", "SpeechCommands")}


def read_torchaudio(
    name: str, root: str | os.PathLike, part: str | None = None, *, download: bool = False
) -> list[Utterance]:
    """The utterances of `torchaudio.datasets.<name>` at `root`.

    name: LIBRISPEECH (part: train-clean-100, dev-clean, ...) or SPEECHCOMMANDS (part: training, validation, testing,
    None for all).  download: fetch it if it is not there.  Raises UserError: torchaudio is not installed or does not
    load (its wheels need CUDA's libraries), no such data set, data not found.
    """
    if name not in _DATASETS:
        raise UserError(f"torchaudio's {name!r} is not read here: there are {', '.join(_DATASETS)}")
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
        # A spoken command's file name occurs once for every word: only with its folder, the word, it is an id.
        id = Path(path).stem if name == "LIBRISPEECH" else "-".join(Path(path).with_suffix("").parts[-2:])
        utterances.append(Utterance(id, audio, text, str(speaker), rate=rate, split=part or ""))
    return utterances
