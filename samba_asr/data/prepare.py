"""Preparation of a corpus: validated manifests `<out>/<set>.jsonl` and Kaldi folders `<out>/<set>/`."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from samba_asr.data import download
from samba_asr.data.durations import Progress, read_headers, with_durations
from samba_asr.data.manifest import Utterance, write_kaldi, write_manifest
from samba_asr.data.validate import Splits, fix, validate
from samba_asr.errors import UserError
from samba_asr.text.normalize import upper
from samba_asr.text.numbers import spoken

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PrepareOptions:
    """Options for the checks and the output.

    fix       drop utterances with problems and list them in `<out>/dropped.tsv`; otherwise problems are an error
    decode    read all audio to its end, not only the headers
    shortest, longest   limits of the duration, seconds
    texts     an utterance without text is a problem
    upper     write texts in LibriSpeech's alphabet (samba_asr.text.normalize.upper), with whole numbers in words
    kaldi     write Kaldi's folders too
    workers   threads (None: one per processor)
    progress, downloading   callbacks for reading headers and for downloads
    """

    fix: bool = False
    decode: bool = False
    shortest: float = 0.1
    longest: float = 40.0
    texts: bool = True
    upper: bool = False
    kaldi: bool = True
    workers: int | None = None
    progress: Progress | None = None
    downloading: Callable[[download.DownloadProgress], None] | None = None


DEFAULTS = PrepareOptions()


def write_splits(
    splits: Splits, out: str | Path, options: PrepareOptions = DEFAULTS, *, overlap: bool = False
) -> dict[str, Path]:
    """Measure, validate and write the sets; return set name -> manifest.

    In the manifests, `split` is the name of the set.  `<out>/report.txt` has the result of the validation.
    overlap: the corpus's own sets share speakers.
    UserError if there are problems and `options.fix` is off; then only the report is written.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if options.upper:
        splits = {
            name: [replace(u, text=upper(spoken(u.text))) for u in utterances] for name, utterances in splits.items()
        }
    headers = read_headers(
        (utterance for utterances in splits.values() for utterance in utterances),
        decode=options.decode,
        workers=options.workers,
        progress=options.progress,
    )
    splits = {name: with_durations(utterances, headers=headers) for name, utterances in splits.items()}
    limits = {"shortest": options.shortest, "longest": options.longest, "overlap": overlap, "texts": options.texts}
    report = validate(splits, headers=headers, **limits)
    (out / "report.txt").write_text(report.text() + "\n", encoding="utf-8")
    (out / "dropped.tsv").unlink(missing_ok=True)
    log.debug("%s", report.text())  # the command prints it
    if not report.ok:
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.counts().items())
        if not options.fix:
            raise UserError(
                f"problems in the corpus ({kinds}): read {out / 'report.txt'}, correct them, or give --fix "
                "to leave those utterances out"
            )
        splits, dropped = fix(splits, report)
        lines = [f"{id}\t{problem}\n" for id, problem in dropped]
        (out / "dropped.tsv").write_text("".join(["id\tproblem\n", *lines]), encoding="utf-8")
        after = validate(splits, headers=headers, **limits)
        with open(out / "report.txt", "a", encoding="utf-8") as file:
            file.write(f"\nafter the fix ({len(dropped)} utterances left out, see dropped.tsv)\n{after.text()}\n")
        log.warning("%d utterances left out (%s): %s", len(dropped), kinds, out / "dropped.tsv")
    manifests = {}
    for name, utterances in splits.items():
        manifests[name] = out / f"{name}.jsonl"
        write_manifest(manifests[name], (replace(utterance, split=name) for utterance in utterances))
        if options.kaldi:
            write_kaldi(out / name, utterances)
    return manifests


def by_split(utterances: list[Utterance]) -> Splits:
    """Return the corpus's own sets.  Utterances without a set are in `train`."""
    splits: Splits = {}
    for utterance in utterances:
        splits.setdefault(utterance.split or "train", []).append(utterance)
    return splits


def split_by_speaker(utterances: list[Utterance], shares: Mapping[str, float], *, seed: int = 0) -> Splits:
    """Split utterances into sets without common speakers.

    Each set of `shares` (such as {"dev": 0.1, "test": 0.1}) gets whole speakers until it has its share of the utterances.
    The rest is `train`.  The choice depends only on the seed and the speakers' names.  UserError if there are too few
    speakers, or utterances without one.
    """
    if not shares or "train" in shares or any(share <= 0 for share in shares.values()) or sum(shares.values()) >= 1:
        raise UserError(f"shares {dict(shares)}: name the sets besides train, with shares above 0 and in all below 1")
    if any(not utterance.speaker for utterance in utterances):
        raise UserError("some utterances have no speaker, so the sets cannot be kept apart: add the speakers")
    of_speaker: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        of_speaker.setdefault(utterance.speaker, []).append(utterance)
    if len(of_speaker) <= len(shares):
        raise UserError(f"{len(of_speaker)} speakers cannot be divided into {len(shares) + 1} sets: use fewer sets")
    speakers = sorted(of_speaker, key=lambda speaker: hashlib.sha256(f"{seed} {speaker}".encode()).digest())
    owner: dict[str, str] = {}
    for name, share in shares.items():
        size = 0
        while not size or (size < share * len(utterances) and len(speakers) > len(shares)):
            speaker = speakers.pop()
            owner[speaker] = name
            size += len(of_speaker[speaker])
    splits: Splits = {name: [] for name in ("train", *shares)}
    for utterance in utterances:
        splits[owner.get(utterance.speaker, "train")].append(utterance)
    if not splits["train"]:
        raise UserError("no speaker is left for train: use smaller shares")
    return splits
