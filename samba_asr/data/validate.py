"""Validation of a corpus: all problems of all sets at once, a report, and a repair that drops bad utterances."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from samba_asr.audio.archive import container
from samba_asr.audio.read import AudioError, AudioInfo
from samba_asr.data.durations import Headers, read_headers
from samba_asr.data.manifest import Utterance
from samba_asr.errors import UserError

Splits = dict[str, list[Utterance]]  # set name ("train", "dev-clean") -> its utterances

_EXAMPLES = 5
_SLACK_SECONDS = 0.1  # that a segment may reach past the end of its file


@dataclass(frozen=True)
class Problem:
    """A problem of type `kind` with utterance number `index` of set `split`; `detail` describes it."""

    kind: str
    split: str
    index: int
    id: str
    detail: str


@dataclass(frozen=True)
class Report:
    """Result of `validate`.  hours: set -> (utterances, speakers, hours)."""

    problems: list[Problem]
    hours: dict[str, tuple[int, int, float]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.problems

    def counts(self) -> dict[str, int]:
        """Return kind -> count, most frequent first."""
        return dict(Counter(problem.kind for problem in self.problems).most_common())

    def text(self) -> str:
        """Return one line per set, then for each kind of problem its count and first examples."""
        lines = [
            f"{split}: {utterances} utterances, {speakers} speakers, {hours:.2f} hours"
            for split, (utterances, speakers, hours) in self.hours.items()
        ]
        for kind, count in self.counts().items():
            lines.append(f"{kind}: {count}")
            examples = [problem for problem in self.problems if problem.kind == kind][:_EXAMPLES]
            lines += [f"    {problem.split} {problem.id}: {problem.detail}" for problem in examples]
            if count > len(examples):
                lines.append(f"    and {count - len(examples)} more")
        return "\n".join([*lines, "no problems" if self.ok else f"{len(self.problems)} problems"])


def validate(
    splits: Splits,
    *,
    headers: Headers | None = None,
    shortest: float = 0.1,
    longest: float = 40.0,
    overlap: bool = False,
    texts: bool = True,
) -> Report:
    """Find all problems of these sets.

    Kinds: missing file, unreadable audio, zero duration, too short, too long (`shortest`, `longest` in seconds), past the end
    (a segment beyond its file), empty text (unless texts is False), bad id (an id or speaker with blanks), duplicate id (in
    one set or two), speaker overlap (between two sets; overlap=True allows it).
    headers: from `durations.read_headers`, which is called if they are not given.
    If two sets share a speaker or id, the problem is assigned to the training set, whose name starts with `train`, or else
    to the longer list.
    """
    if headers is None:
        headers = read_headers(utterance for utterances in splits.values() for utterance in utterances)
    problems: list[Problem] = []
    names = sorted(splits, key=lambda name: (name.startswith("train"), len(splits[name])))  # evaluation sets first
    first_with: dict[str, str] = {}  # id -> the set that has it
    set_of_speaker: dict[str, str] = {}
    for name in names:
        for index, utterance in enumerate(splits[name]):
            found = list(_audio_problems(utterance, headers.get(utterance.audio), shortest, longest))
            if texts and not utterance.text.strip():
                found.append(("empty text", "no transcript"))
            if any(len(word.split()) != 1 for word in (utterance.id, utterance.speaker or utterance.id)):
                found.append(("bad id", f"id {utterance.id!r}, speaker {utterance.speaker!r}: use single words"))
            if utterance.id in first_with:
                found.append(("duplicate id", f"also in {first_with[utterance.id]}"))
            first_with.setdefault(utterance.id, name)
            other = set_of_speaker.get(utterance.speaker, name)
            if utterance.speaker and other != name and not overlap:
                found.append(("speaker overlap", f"speaker {utterance.speaker} is also in {other}"))
            problems += [Problem(kind, name, index, utterance.id, detail) for kind, detail in found]
        for speaker in {utterance.speaker for utterance in splits[name]}:
            set_of_speaker.setdefault(speaker, name)
    return Report(problems, {name: _size(utterances, headers) for name, utterances in splits.items()})


def fix(splits: Splits, report: Report) -> tuple[Splits, list[tuple[str, str]]]:
    """Drop the utterances with problems in `report`; return the sets and (id, problem) of the dropped ones.

    A speaker or id in two sets is dropped from the training set (see `validate`), so that evaluation sets do not change.
    UserError if a set would become empty.
    """
    faults: dict[tuple[str, int], list[str]] = {}
    for problem in report.problems:
        faults.setdefault((problem.split, problem.index), []).append(f"{problem.kind}: {problem.detail}")
    fixed = {
        name: [utterance for index, utterance in enumerate(utterances) if (name, index) not in faults]
        for name, utterances in splits.items()
    }
    for name, utterances in fixed.items():
        if not utterances and splits[name]:
            raise UserError(
                f"every utterance of {name} has a problem, none would be left: correct the corpus "
                f"(first: {next('; '.join(text) for (split, _), text in faults.items() if split == name)})"
            )
    return fixed, [(splits[name][index].id, "; ".join(text)) for (name, index), text in faults.items()]


def _audio_problems(
    utterance: Utterance, header: AudioInfo | AudioError | None, shortest: float, longest: float
) -> Iterable[tuple[str, str]]:
    if header is None or isinstance(header, AudioError):
        missing = header is None or not os.path.exists(container(utterance.audio))
        return [("missing file", utterance.audio) if missing else ("unreadable audio", str(header))]
    rest = header.duration - utterance.start
    duration = rest if utterance.duration is None else utterance.duration
    if header.duration == 0 or duration <= 0:
        return [("zero duration", utterance.audio)]
    if duration > rest + _SLACK_SECONDS:
        end = utterance.start + duration
        return [("past the end", f"up to {end:.2f} s of {utterance.audio}, which has {header.duration:.2f} s")]
    if duration < shortest:
        return [("too short", f"{duration:.3f} s, under {shortest:g}")]
    if duration > longest:
        return [("too long", f"{duration:.1f} s, over {longest:g}")]
    return []


def _size(utterances: list[Utterance], headers: Headers) -> tuple[int, int, float]:
    seconds = 0.0
    for utterance in utterances:
        header = headers.get(utterance.audio)
        if utterance.duration is not None:
            seconds += utterance.duration
        elif header is not None and not isinstance(header, AudioError):
            seconds += max(0.0, header.duration - utterance.start)
    return len(utterances), len({utterance.speaker for utterance in utterances} - {""}), seconds / 3600
