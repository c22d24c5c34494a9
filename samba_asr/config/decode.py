"""Configuration of recognition: `decode.*`, one section per component, each with its checks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from samba_asr.errors import UserError

SEARCH_FILES = {
    "lm.path": "lm",
    "lm.words": "words",
    "lm.lexicon": "lexicon",
    "lm.neural": "neural_lm",
    "hotwords.path": "hotwords",
}
"""Keys of `DecodeConfig` that name a file or a language model's folder, and the name of its copy in a model folder."""


@dataclass(frozen=True)
class RuntimeConfig:
    """How the model runs (samba_asr.runtime), and the blocks of its encoder."""

    backend: str = "auto"  # auto | torch | onnx; auto: onnx on a CPU if samba-asr export has written graphs, else torch
    graphs: str = ""  # folder that samba-asr export wrote; "": the user's cache

    latency_ms: float | None = (
        None  # audio per block, a whole number of encoder frames; null: the largest block, offline
    )
    overlap: float = 0.0  # share of a live block that the next block computes again: each frame sees that much ahead
    final_ms: float | None = (
        None  # audio per block in which a live session's final texts are read again; null: they are not
    )

    def __post_init__(self):
        if not 0 <= self.overlap < 1:
            raise UserError(
                f"decode.runtime.overlap={self.overlap:g}: give the share of a block that is computed again, "
                "from 0 to less than 1"
            )
        if self.latency_ms is not None and not self.latency_ms > 0:
            raise UserError(
                f"decode.runtime.latency_ms={self.latency_ms:g}: give milliseconds above 0, or null for offline"
            )
        if self.final_ms is not None and not self.final_ms > 0:
            raise UserError(
                f"decode.runtime.final_ms={self.final_ms:g}: give milliseconds above 0, or null: final texts are not read again"
            )


@dataclass(frozen=True)
class SearchConfig:
    """First and second pass (samba_asr.decoding)."""

    method: str = "greedy"  # greedy | beam | decoder: the Mamba decoder writes each segment when it has ended
    beam: int = 8  # prefixes kept
    prune: float = 10.0  # nats; a prefix this far below the best is not extended; less is faster and less exact
    nbest: int = 1  # hypotheses per utterance
    rescore: float = 0.0  # weight of the decoder in the second pass, 0 to 1; 0: CTC alone
    ctc: float = 0.3  # CTC's share of the score where the decoder writes (method=decoder), 0 to 1
    unit_bonus: float = 0.0  # nats for each unit that the decoder writes: by itself it prefers short texts
    lattice: float = 8.0  # nats; words dropped in search that were so near the best are kept as alternatives; 0: none
    backend: str = "auto"  # auto | compiled | numpy: the same beam search, ten times as fast where numba is installed
    threads: int = 0  # for the sessions of a step, in the compiled search; 0: one for each core

    def __post_init__(self):
        if self.backend not in ("auto", "compiled", "numpy"):
            raise UserError(f"decode.search.backend={self.backend}: must be 'auto', 'compiled' or 'numpy'")
        if self.threads < 0:
            raise UserError(f"decode.search.threads={self.threads}: give 0 (one for each core) or more")
        if self.beam < 1:
            raise UserError(f"decode.search.beam={self.beam}: give 1 or more")
        if not self.prune > 0:
            raise UserError(f"decode.search.prune={self.prune:g}: give nats, more than 0")
        if self.nbest < 1 or (self.method == "beam" and self.nbest > self.beam):
            raise UserError(f"decode.search.nbest={self.nbest} must be 1 .. decode.search.beam={self.beam}")
        if not 0 <= self.ctc <= 1:
            raise UserError(
                f"decode.search.ctc={self.ctc:g}: give CTC's share of the score, 0 (the decoder alone) to 1"
            )
        if not 0 <= self.unit_bonus <= 10:
            raise UserError(f"decode.search.unit_bonus={self.unit_bonus:g}: give nats from 0 to 10")
        if not 0 <= self.lattice <= 100:
            raise UserError(f"decode.search.lattice={self.lattice:g}: give nats, from 0 (no lattice) to 100")
        if not 0 <= self.rescore <= 1:
            raise UserError(
                f"decode.search.rescore={self.rescore:g}: give the decoder's share of the score, 0 (CTC alone) to 1"
            )


@dataclass(frozen=True)
class SearchLmConfig:
    """Language models of the search (samba_asr.decoding.ngram, .neural).  `decode.lm=FILE` sets its path."""

    path: str = ""  # word n-gram for the beam (ARPA, packed or KenLM's binary): a path, or a name in the model's folder
    weight: float = 0.5  # of its log-probabilities
    word_bonus: float = 2.0  # nats per word: a language model alone prefers few words
    words: str = ""  # file of the words that may be recognized, one per line; "": all words of the language model
    lexicon: str = ""  # more pronunciations, for a model of phones: Kaldi's lexicon.txt
    neural: str = ""  # folder of a Mamba language model: scores the beam if it has the model's units, else the lattice
    neural_weight: float = 0.3  # of its log-probabilities; over a lattice it is taken from `weight`
    neural_live: bool = (
        True  # whether it reads lattices of live sessions too: some 90 ms of a core for 12 s; not in `serve`
    )

    def __post_init__(self):
        for key in ("words", "lexicon"):
            if (value := getattr(self, key)) and not self.path:
                raise UserError(f"decode.lm.{key}={value} needs a language model: set decode.lm.path")
        if not 0 <= self.neural_weight <= 10:
            raise UserError(f"decode.lm.neural_weight={self.neural_weight:g}: give a weight from 0 to 10")


@dataclass(frozen=True)
class HotwordsConfig:
    """Expected phrases (samba_asr.decoding.hotwords).  `decode.hotwords=FILE` sets its path."""

    path: str = ""  # one phrase per line, optionally a colon and its own weight
    weight: float = 1.5  # nats per unit of a phrase


@dataclass(frozen=True)
class EndpointConfig:
    """Rules that end a segment of a session (samba_asr.decoding.segmenter), in seconds, and that withhold it.

    Used live and in transcribe.  `samba-asr decode` reads utterances that are cut already.
    """

    silence: float = 2.4  # seconds of silence that end a segment without words
    pause: float = 1.2  # seconds of silence that end a segment after words
    longest: float = 20.0  # seconds; a longer segment is cut between two words
    confidence: float = 0.0  # words of less mean confidence are withheld (x 1.3 for one alone), in a calibrated model

    def __post_init__(self):
        if not 2 <= self.longest <= 120:
            raise UserError(f"decode.endpoint.longest={self.longest}: give seconds, from 2 to 120")
        if not 0 <= self.confidence <= 1:
            raise UserError(
                f"decode.endpoint.confidence={self.confidence}: give a value from 0 (none is withheld) to 1"
            )


@dataclass(frozen=True)
class VadConfig:
    """Voice activity detection (samba_asr.audio.vad), live and in transcribe.  `decode.vad=NAME` sets its method."""

    method: str = ""  # energy | silero: the model skips audio without speech; "": it reads all audio


@dataclass(frozen=True)
class DecodeConfig:
    """All settings of recognition."""

    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    lm: SearchLmConfig = field(default_factory=SearchLmConfig)
    hotwords: HotwordsConfig = field(default_factory=HotwordsConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    vad: VadConfig = field(default_factory=VadConfig)

    def file(self, key: str) -> str:
        """Return the file name under a key of `SEARCH_FILES`."""
        section, name = key.split(".")
        return getattr(getattr(self, section), name)

    def with_files(self, names: dict[str, str]) -> DecodeConfig:
        """Return a copy with these file names, given by keys of `SEARCH_FILES`."""
        sections: dict[str, dict[str, str]] = {}
        for key, value in names.items():
            section, name = key.split(".")
            sections.setdefault(section, {})[name] = value
        return replace(self, **{name: replace(getattr(self, name), **values) for name, values in sections.items()})


def is_search_file(path: Path, key: str) -> bool:
    """Return whether `path` exists and fits a key of `SEARCH_FILES`: a folder for a neural language model, else a file."""
    return path.exists() and path.is_dir() == (key == "lm.neural")
