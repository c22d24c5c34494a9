"""Five hours of LibriSpeech, for a first model in an evening.  Sets: train, dev, test.

From OpenSLR's resource 31: test is dev-clean-2, dev has three speakers held out of train-clean-5, train has the others.
From a folder with train-5h, dev-5h and test-5h (another split of the same corpus): these.  Scores on the two splits cannot be
compared with each other, nor with scores on dev-clean or test-clean.
"""

from __future__ import annotations

from pathlib import Path

from samba_asr.data.prepare import DEFAULTS, PrepareOptions, write_splits
from samba_asr.data.readers import read_librispeech
from samba_asr.data.validate import Splits
from samba_asr.recipes.librispeech import find

HELD_OUT = ("1970", "3664", "6272")  # speakers of train-clean-5; in the other split they are dev-5h

_CUT = {"train": "train-5h", "dev": "dev-5h", "test": "test-5h"}


def prepare(source: Path | None, out: Path, options: PrepareOptions = DEFAULTS) -> dict[str, Path]:
    """Write the manifests.

    source: folder of train-clean-5 and dev-clean-2, or of train-5h, dev-5h and test-5h.  None: `local_source()` if there is
        one, else a download to `out/download` (460 MB).
    """
    source = source or local_source()
    if source is not None and all((Path(source) / folder).is_dir() for folder in _CUT.values()):
        splits: Splits = {name: read_librispeech(Path(source) / folder) for name, folder in _CUT.items()}
    else:
        folders = find(("train-clean-5", "dev-clean-2"), source, out, options.downloading)
        whole = read_librispeech(folders["train-clean-5"])
        splits = {
            "train": [utterance for utterance in whole if utterance.speaker not in HELD_OUT],
            "dev": [utterance for utterance in whole if utterance.speaker in HELD_OUT],
            "test": read_librispeech(folders["dev-clean-2"]),
        }
    return write_splits(splits, out, options)


def local_source() -> Path | None:
    """Find `shared/data/LibriSpeech` with this recipe's split in the current folder or one above it; None without one."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        place = folder / "shared" / "data" / "LibriSpeech"
        if all((place / name).is_dir() for name in _CUT.values()):
            return place
    return None
