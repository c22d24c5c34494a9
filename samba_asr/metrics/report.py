"""Report files of a score: readable alignments, `.trn` pairs for other scorers, the most common errors, a plot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from samba_asr import plot
from samba_asr.errors import UserError
from samba_asr.metrics.wer import Aligned, WerReport

GAP = "***"  # shown for an absent word, as in sclite


@dataclass(frozen=True)
class Confusions:
    """Edits with their counts, most common first (ties in alphabetical order)."""

    substitutions: tuple[tuple[tuple[str, str], int], ...]  # ((reference, hypothesis), count)
    deletions: tuple[tuple[str, int], ...]
    insertions: tuple[tuple[str, int], ...]


def confusions(report: WerReport, most: int | None = None) -> Confusions:
    """Return the `most` frequent edits of each type, or all."""
    pairs = [pair for u in report.utterances for pair in u.pairs]
    substituted = Counter((r, h) for r, h in pairs if r is not None and h is not None and r != h)
    deleted = Counter(r for r, h in pairs if r is not None and h is None)
    inserted = Counter(h for r, h in pairs if r is None and h is not None)

    def ranked(counter: Counter) -> tuple:
        return tuple(sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:most])

    return Confusions(ranked(substituted), ranked(deleted), ranked(inserted))


def write_report(report: WerReport, folder: Path | str) -> list[Path]:
    """Write `wer.txt`, `alignments.txt`, `confusions.txt`, `ref.trn` and `hyp.trn` into `folder`; return the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = {
        "wer.txt": [*report.kaldi_lines(), *_speaker_lines(report)],
        "alignments.txt": [line for u in report.utterances for line in alignment_lines(u)],
        "confusions.txt": _confusion_lines(confusions(report)),
        "ref.trn": [_trn(u, u.reference, report) for u in report.utterances],
        "hyp.trn": [_trn(u, u.hypothesis, report) for u in report.utterances],
    }
    for name, content in lines.items():
        (folder / name).write_text("".join(f"{line}\n" for line in content), encoding="utf-8")
    return [folder / name for name in lines]


def alignment_lines(u: Aligned) -> list[str]:
    """Return a line of counts, then reference, hypothesis and edits aligned in columns (S, D, I; blank if correct).

    1089-134686-0000  3 words, 0 ins, 1 del, 1 sub
    REF: HE   HOPED THERE
    HYP: SHE  HOPED ***
    OPS: S          D
    """
    c = u.counts
    edits = f"{c.insertions} ins, {c.deletions} del, {c.substitutions} sub"
    head = f"{u.id}  {c.words} words, {edits}" + ("  (not present in hyp)" if u.missing else "")
    columns = []
    for ref, hyp in u.pairs:
        op = "I" if ref is None else "D" if hyp is None else "" if ref == hyp else "S"
        shown = [_shown(ref), _shown(hyp), op]
        width = max(map(len, shown))
        columns.append([cell.ljust(width) for cell in shown])
    rows = zip(*columns, strict=True) if columns else [(), (), ()]
    body = [f"{label} {' '.join(row)}".rstrip() for label, row in zip(("REF:", "HYP:", "OPS:"), rows, strict=True)]
    return [head, *body, ""]


def plot_breakdown(report: WerReport, path: Path | str, *, most: int = 40) -> Path:
    """Plot the error rate by type for the whole set and, stacked, for the `most` worst speakers, if known."""
    speakers = sorted(report.by_speaker().items(), key=lambda item: -item[1].wer)[:most]
    figure = plot.figure(4 + 0.25 * len(speakers) + bool(speakers), 4)
    axes = figure.subplots(1, 1 + bool(speakers), squeeze=False, width_ratios=[1, 3][: 1 + bool(speakers)])[0]
    kinds = ("substitutions", "deletions", "insertions")
    values = [100 * getattr(report.counts, kind) / max(report.counts.words, 1) for kind in kinds]
    axes[0].bar_label(axes[0].bar([kind[:3] for kind in kinds], values, color=["C0", "C1", "C2"]), fmt="%.2f")
    axes[0].set(title=report.kaldi_lines()[0].split(" [")[0], ylabel=f"errors, % of {report.unit}s")
    if speakers:
        names = [name for name, _ in speakers]
        floor = [0.0] * len(names)
        for kind in kinds:
            heights = [100 * getattr(c, kind) / max(c.words, 1) for _, c in speakers]
            axes[1].bar(names, heights, bottom=floor, label=kind)
            floor = [low + height for low, height in zip(floor, heights, strict=True)]
        axes[1].legend()
        axes[1].tick_params(axis="x", rotation=90)
        axes[1].set(title="by speaker, worst first" + (f" ({most} worst)" if len(speakers) == most else ""))
    return plot.save(figure, Path(path))


def _speaker_lines(report: WerReport) -> list[str]:
    lines = []
    for name, c in report.by_speaker().items():
        edits = f"{c.insertions} ins, {c.deletions} del, {c.substitutions} sub"
        lines.append(f"{name} {100 * c.wer:.2f} [ {c.errors} / {c.words}, {edits} ]")
    return lines


def _confusion_lines(found: Confusions) -> list[str]:
    def block(title: str, items: Iterable[tuple[str, int]]) -> list[str]:
        return [title, *(f"{count:6d}  {what}" for what, count in items), ""]

    return [
        *block("SUBSTITUTIONS", ((f"{_shown(r)} -> {_shown(h)}", n) for (r, h), n in found.substitutions)),
        *block("DELETIONS", ((_shown(word), n) for word, n in found.deletions)),
        *block("INSERTIONS", ((_shown(word), n) for word, n in found.insertions)),
    ]


def _trn(u: Aligned, units: tuple[str, ...], report: WerReport) -> str:
    """Return `words (speaker-utterance)`, the line format of NIST's sclite."""
    name = u.id if not u.speaker or u.id.startswith(f"{u.speaker}-") else f"{u.speaker}-{u.id}"
    if set(name) & set("() \t"):
        raise UserError(f"utterance id {name!r}: ids in a .trn file cannot have parentheses or spaces: rename it")
    text = (" " if report.unit == "word" else "").join(units)
    return f"{text} ({name})".lstrip()


def _shown(unit: str | None) -> str:
    return GAP if unit is None else "▁" if unit == " " else unit
