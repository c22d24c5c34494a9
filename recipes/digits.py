"""Connected digits by synthetic voices, in the repository (egs/digits/data).  Sets: train, dev, test.

The test set is that of the corpus, with voices that are not in training.  The dev set has two voices held out of training.
"""

from __future__ import annotations

from pathlib import Path

from samba_asr.data.manifest import read_manifest
from samba_asr.data.prepare import DEFAULTS, PrepareOptions, write_splits
from samba_asr.data.validate import Splits
from samba_asr.errors import UserError

DEV_SPEAKERS = ("af_bella", "am_adam")


def prepare(source: Path | None, out: Path, options: PrepareOptions = DEFAULTS) -> dict[str, Path]:
    """Write the manifests.  source: folder of `manifest.jsonl`; None: egs/digits/data of the checkout."""
    source = Path(source) if source is not None else local_source()
    if source is None:
        raise UserError("egs/digits/data is not here: run this in a checkout, or give the corpus with --source")
    splits: Splits = {"train": [], "dev": [], "test": []}
    for utterance in read_manifest(source / "manifest.jsonl"):
        name = utterance.split
        if name not in splits:
            raise UserError(f"{source / 'manifest.jsonl'}: {utterance.id}: split {name!r}: give train, dev or test")
        if name == "train" and utterance.speaker in DEV_SPEAKERS:
            name = "dev"
        splits[name].append(utterance)
    return write_splits(splits, out, options)


def local_source() -> Path | None:
    """Find egs/digits/data in the checkout of this file or of the current folder; None without one."""
    roots = (Path(__file__).resolve().parents[1], Path.cwd(), *Path.cwd().parents)
    places = (root / "egs" / "digits" / "data" for root in roots)
    return next((place for place in places if (place / "manifest.jsonl").exists()), None)
