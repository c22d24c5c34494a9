"""LibriSpeech (Panayotov et al. 2015): train on 100 to 960 hours, the official dev and test sets.

Sets: `train` (all chosen train subsets together), `dev-clean`, `dev-other`, `test-clean` and `test-other`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from samba_asr.data import download
from samba_asr.data.prepare import DEFAULTS, PrepareOptions, write_splits
from samba_asr.data.readers import read_librispeech
from samba_asr.data.validate import Splits
from samba_asr.errors import UserError

EVALUATION = ("dev-clean", "dev-other", "test-clean", "test-other")
TRAINING = ("train-clean-100", "train-clean-360", "train-other-500")
SUBSETS = ("train-clean-100", *EVALUATION)


def prepare(
    source: Path | None, out: Path, options: PrepareOptions = DEFAULTS, *, subsets: Sequence[str] = SUBSETS
) -> dict[str, Path]:
    """Write the manifests.

    source: folder of the subsets (LibriSpeech/); None: download to `out/download`.
    subsets: subsets to use, such as all three of TRAINING for 960 hours; the default trains on train-clean-100.
    """
    splits: Splits = {}
    for subset, folder in find(subsets, source, out, options.downloading).items():
        splits.setdefault("train" if subset.startswith("train") else subset, []).extend(read_librispeech(folder))
    return write_splits(splits, out, options)


def find(
    subsets: Sequence[str],
    source: Path | None,
    out: Path,
    downloading: Callable[[download.DownloadProgress], None] | None = None,
) -> dict[str, Path]:
    """Find the folder of each subset in `source` or source/LibriSpeech; download it if source is None."""
    unknown = [subset for subset in subsets if subset not in download.ARCHIVES]
    if unknown:
        raise UserError(f"LibriSpeech has no subset {unknown[0]!r}: choose from {', '.join(download.ARCHIVES)}")
    if source is None:
        return {name: download.librispeech(name, Path(out) / "download", progress=downloading) for name in subsets}
    found = {}
    for name in subsets:
        places = [Path(source) / name, Path(source) / "LibriSpeech" / name]
        found[name] = next((place for place in places if place.is_dir()), places[0])
        if not found[name].is_dir():
            raise UserError(
                f"{found[name]}: no such folder: give its parent folder with --source, or other subsets with --subset"
            )
    return found
