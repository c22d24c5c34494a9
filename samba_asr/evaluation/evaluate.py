"""Evaluation of a model on a test set: hypotheses, word error rate with its interval, speed.

>>> found = evaluate("digits", [Utterance("a", "talk.wav", "ONE NINE FIVE")])      # or a manifest, data/test.jsonl
>>> print(f"{found.wer:.2f} %, interval {found.interval}, {found.audio_seconds:.1f} s")
33.33 %, interval (33.33333333333333, 33.33333333333333), 2.0 s
>>> found.texts["a"]
'ONE NINE FOUR'
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from samba_asr.data.manifest import Utterance
from samba_asr.decoding.base import Hypothesis, text_of
from samba_asr.decoding.lattice import Lattice
from samba_asr.decoding.posteriors import oracle
from samba_asr.errors import UserError
from samba_asr.evaluation.streaming_check import ChunkDifference, differences
from samba_asr.evaluation.testset import frames, read_testset, with_lattices
from samba_asr.metrics.wer import WerReport, bootstrap, score
from samba_asr.recognizer import Recognizer
from samba_asr.text.normalize import normalizer

logger = logging.getLogger(__name__)

REPORT_EVERY = 30.0  # seconds between two lines of the log


@dataclass(frozen=True)
class Recognized:
    """An utterance's text, and its n-best hypotheses."""

    id: str
    text: str
    nbest: tuple[Hypothesis, ...]  # best first
    lattice: Lattice | None = None  # times in frames; only if asked for


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`."""

    utterances: tuple[Utterance, ...]  # the test set
    recognized: Mapping[str, Recognized]  # by id, in the order of the test set, without unreadable utterances
    report: WerReport | None  # None if the test set has no texts
    interval: tuple[float, float] | None  # 95 % interval of the WER, in percent; None without a report
    normalize: str  # rules for both texts in scoring
    audio_seconds: float  # duration of the utterances
    seconds: float  # time of recognition, without the streaming check
    streaming: tuple[ChunkDifference, ...] | None  # utterances whose texts from chunks differ; None: not checked

    @property
    def wer(self) -> float:
        """Word error rate in percent; NaN without a report."""
        return 100 * self.report.wer if self.report else float("nan")

    @property
    def rtf(self) -> float:
        """Real-time factor: seconds of work for a second of audio."""
        return self.seconds / max(self.audio_seconds, 1e-9)

    @property
    def oracle(self) -> float:
        """Word error rate in percent of the best path of each lattice; NaN without texts or lattices.  Texts as they are."""
        graphs = {u.id: self.recognized[u.id].lattice for u in self.utterances if u.id in self.recognized}
        words = {u.id: u.text.split() for u in self.utterances}
        errors = sum(
            len(words[name]) if graph is None else oracle(graph, words[name]) for name, graph in graphs.items()
        )
        errors += sum(len(words[name]) for name in self.unreadable)
        total = sum(map(len, words.values()))
        return 100 * errors / total if total and any(graphs.values()) else float("nan")

    @property
    def texts(self) -> dict[str, str]:
        """Hypotheses by id."""
        return {name: found.text for name, found in self.recognized.items()}

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Ids of the utterances that cannot be read; all their words count as deleted."""
        return tuple(u.id for u in self.utterances if u.id not in self.recognized)

    @property
    def differing(self) -> tuple[ChunkDifference, ...]:
        """Differences of the streaming check that rounding does not explain."""
        return tuple(d for d in self.streaming or () if not d.tie)

    @property
    def ties(self) -> tuple[ChunkDifference, ...]:
        """Differences of the streaming check that vanish in float64."""
        return tuple(d for d in self.streaming or () if d.tie)

    def scores(self) -> dict[str, Any]:
        """Return the error rates, in percent, and the counts, as in `results.json`; {} without a report."""
        if self.report is None or self.interval is None:
            return {}
        return {
            "wer": self.wer,
            "interval": list(self.interval),
            "ser": 100 * self.report.ser,
            "errors": self.report.counts.errors,
            **asdict(self.report.counts),
            "normalize": self.normalize,
        }


def evaluate(
    model: Recognizer | Path | str | None,
    data: Path | str | Sequence[Utterance],
    *,
    settings: Sequence[str] = (),
    device: str = "auto",
    normalize: str = "none",
    batch_seconds: float | None = None,
    streaming_check: bool = False,
    lattices: bool = False,
    name: str = "",
) -> Evaluation:
    """Recognize every utterance of a test set, whole and in batches, and score the texts.

    model: a recognizer, or an argument of `Recognizer.load`, with `settings` and `device`.
    data: a manifest, or utterances with distinct ids.  Utterances have known ends, so endpoints and VAD are not used.
        The encoder's blocks are those from which final texts come (`Recognizer.final_latency`).
    normalize: rules for both texts in scoring (`samba_asr.text.normalize.NAMES`).
    batch_seconds: seconds of padded audio in a batch, default the model's own data.batch_seconds.
    streaming_check: also recognize every utterance in chunks of random sizes and compare the texts.
    lattices: whether to keep the word lattices; UserError if the search has none.
    name: of the test set in errors, default the manifest.
    UserError if no utterance can be read.
    """
    rules = normalizer(normalize)
    if isinstance(data, Path | str):
        name, data = name or str(data), read_testset(Path(data))
    if not isinstance(model, Recognizer):
        model = Recognizer.load(model, device=device, settings=settings)
    elif settings:
        raise UserError(f"{settings[0]}: a recognizer already has settings; give a model folder to change them")
    if batch_seconds is None:
        batch_seconds = model.config.data.batch_seconds
    found: dict[str, Recognized] = {}
    audio = busy = 0.0
    differing: list[ChunkDifference] = []
    reported, began = time.monotonic(), time.perf_counter()
    batches = frames(model.runtime, model.tokenizer, data, model.final_latency(), batch_seconds=batch_seconds)
    for batch, some in batches:
        nbest, graphs = with_lattices(model, some, model.decode.search.nbest, lattices=lattices)
        busy += time.perf_counter() - began
        audio += float(batch.lengths.sum()) / model.rate
        texts = [text_of(best[0], model.tokenizer) for best in nbest]
        rows = zip(batch.ids, texts, nbest, graphs, strict=True)
        found |= {id: Recognized(id, text, tuple(n), graph) for id, text, n, graph in rows}
        if lattices and None in graphs:
            raise UserError(
                "this search keeps no word lattices: they need decode.search.method=beam, a language model (decode.lm.path) and "
                "decode.search.lattice above 0"
            )
        if streaming_check:
            differing += differences(model, batch, texts)
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            logger.info("%d of %d utterances", len(found), len(data))
        began = time.perf_counter()
    if not found:
        raise UserError(
            f"{name or 'the test set'}: none of its {len(data)} utterances can be read; the reasons are above"
        )
    report = interval = None
    if any(u.text for u in data):
        texts = {name: rules(r.text) for name, r in found.items()}
        speakers = {u.id: u.speaker for u in data if u.speaker}
        report = score({u.id: rules(u.text) for u in data}, texts, speakers=speakers)
        low, high = bootstrap(report)
        interval = (100 * low, 100 * high)
    return Evaluation(
        utterances=tuple(data),
        recognized={u.id: found[u.id] for u in data if u.id in found},
        report=report,
        interval=interval,
        normalize=normalize,
        audio_seconds=audio,
        seconds=busy,
        streaming=tuple(differing) if streaming_check else None,
    )
