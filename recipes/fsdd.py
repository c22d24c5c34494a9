"""Free Spoken Digit Dataset (Jackson et al.): one digit a recording, 8 kHz.  Sets: train, dev, test.

By its authors' rule the recordings n < 5 of each speaker and digit are the test set.  All sets have the same speakers.
"""

from __future__ import annotations

from pathlib import Path

from samba_asr.data.prepare import DEFAULTS, PrepareOptions, write_splits
from samba_asr.data.readers import read_corpus
from samba_asr.data.validate import Splits
from samba_asr.errors import UserError

TEST = 5  # n below this: test
DEV = 10  # n below this, and not test: dev


def prepare(source: Path | None, out: Path, options: PrepareOptions = DEFAULTS, *, dev: bool = True) -> dict[str, Path]:
    """Write the manifests.

    source: folder of the recordings `{digit}_{speaker}_{n}.wav`, or its parent; None: `local_source()`.
    dev: hold out 5 <= n < 10 as `dev`; otherwise they are in training.
    """
    source = source or local_source()
    if source is None:
        raise UserError(
            "the recordings of the Free Spoken Digit Dataset are needed: get the folder `recordings` of the repository "
            "Jakobovski/free-spoken-digit-dataset, and give it with --source"
        )
    splits: Splits = {"train": [], "dev": [], "test": []} if dev else {"train": [], "test": []}
    for utterance in read_corpus(source, format="fsdd"):
        n = int(utterance.id.rpartition("_")[2])
        splits["test" if n < TEST else "dev" if dev and n < DEV else "train"].append(utterance)
    return write_splits(splits, out, options, overlap=True)


def local_source() -> Path | None:
    """Find `shared/data/fsdd` in the current folder or one above it; None without one."""
    here = Path.cwd()
    places = (folder / "shared" / "data" / "fsdd" for folder in (here, *here.parents))
    return next((place for place in places if place.is_dir()), None)
