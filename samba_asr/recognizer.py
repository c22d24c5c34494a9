"""Recognizer: from audio to text with times, of whole files and live.

    >>> recognizer = Recognizer.load("digits")          # nothing: the shipped English model; or a model folder
    >>> recognizer.transcribe("talk.wav")
    Result('ONE NINE FOUR', 1 segment, 3 words, 2.0 s)

    >>> from samba_asr.session import Final
    >>> for event in recognizer.listen("talk.wav"):     # or a microphone; events of `samba_asr.session`, as they come
    ...     if isinstance(event, Final):
    ...         print(event.segment.text)
    ONE NINE FOUR

    >>> for found in recognizer.transcribe_many(["talk.wav", "gone.wav"], jobs=2):
    ...     print(found.result.text if found.result else found.error)
    ONE NINE FOUR
    gone.wav: no such file: check the name and the folder ...

    >>> with recognizer.stream(rate=48000, latency_ms=640) as stream:
    ...     for samples in np.zeros((3, 4800), np.float32):  # float32 (s,), chunks of any length
    ...         stream.accept(samples)
    ...         print(repr(stream.partial))             # the text of the open segment; `segments` are the finished ones
    ''
    ''
    ''
    >>> stream.finish()                                 # the result; the end of the block has finished it already
    Result('', 0 segments, 0 words, 0.3 s)

A recognizer holds weights, tokenizer and search, and never changes.  A session (`samba_asr.session`) holds everything that
belongs to one stream of audio, its latency included.  Files, streams and the service all use sessions, so they give the same
text at the same latency.  Memory does not grow with the length of the audio (except for the text).
"""

from __future__ import annotations

import copy
import functools
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from samba_asr import config as configs
from samba_asr import hub
from samba_asr.audio.inputs import FILES, pieces
from samba_asr.audio.samples import as_rate
from samba_asr.audio.source import Truncated, size
from samba_asr.audio.vad import Gate
from samba_asr.config import DecodeConfig
from samba_asr.config.plain import overridden
from samba_asr.decoding.build import tokenizer_of, two_pass
from samba_asr.decoding.confidence import Calibration, Evidence, raw, ungated
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.known_text import place, spell
from samba_asr.decoding.larger_blocks import LargerBlocks
from samba_asr.decoding.searches import refusal, settings_for
from samba_asr.decoding.segmenter import Segmenter
from samba_asr.decoding.transcript import Graph, Segment
from samba_asr.decoding.turns import TurnRules
from samba_asr.decoding.written import Writer
from samba_asr.errors import UserError
from samba_asr.many import attempt, largest_first
from samba_asr.models import punctuator_numpy
from samba_asr.models.exported import is_exported, load_exported
from samba_asr.models.loaded import LoadedModel
from samba_asr.result import Result, Transcribed
from samba_asr.runtime.base import MAX_STEP, Latency
from samba_asr.runtime.choose import build, runtimes
from samba_asr.runtime.latency import blocks, final_blocks, larger_blocks
from samba_asr.runtime.whole import log_probs
from samba_asr.session import Event, Session
from samba_asr.steps import advanced, events, pipelined
from samba_asr.stream import Stream
from samba_asr.text.units import Tokenizer
from samba_asr.text.written import numbers
from samba_asr.text.written.form import AHEAD, TEXTS, writes_english
from samba_asr.threads import threads

logger = logging.getLogger(__name__)

Phrases = Mapping[str, float] | Sequence[str] | str | Hotwords | None
"""Hotwords: a phrase, or phrases with or without weights, or the result of `Recognizer.hotwords`, made once for many sessions."""


class Recognizer:
    """Weights, tokenizer and search; shared by any number of sessions."""

    def __init__(
        self, loaded: LoadedModel, decode: DecodeConfig | None = None, sure: Callable[[Evidence], float] | None = None
    ):
        """decode: search settings, default those of the model's own configuration.

        sure: maps evidence to confidence, default the model folder's calibration, if it has one, and its graph network.
            Without a calibration, or with `raw`, decode.endpoint.confidence is ignored: such confidences are no probabilities.
        """
        if isinstance(loaded, str | os.PathLike):
            raise UserError(f"Recognizer({str(loaded)!r}): to load a model by name or folder, call Recognizer.load")
        self.model, self.tokenizer, self.config, _ = loaded
        self.decode = decode or self.config.decode
        self.runtime = build(loaded, self.decode.runtime, gaps=bool(self.decode.vad.method))
        self.latency(None)  # reports wrong settings now
        search = two_pass(loaded, self.decode, self.runtime.second_pass)
        if self.decode.vad.method:
            Gate(self.decode.vad.method, self.rate)
        calibration = sure or (loaded.folder and Calibration.read(loaded.folder)) or None
        rules = self.decode.endpoint
        if rules.confidence and (calibration is None or calibration is raw):
            if calibration is None:
                logger.warning("%s", ungated(rules.confidence, loaded.folder))
            rules = replace(rules, confidence=0.0)
        graph = None if sure or calibration is None else _graph(loaded.folder, calibration)
        heard = calibration.heard if isinstance(calibration, Calibration) else None
        larger = larger_blocks(self.decode, self.runtime)
        self.segmenter = Segmenter(
            search,
            self.tokenizer,
            rules,
            self.frame,
            calibration or raw,
            graph,
            heard,
            larger and LargerBlocks(self.runtime, larger, search),
        )
        self._loaded = loaded

    @classmethod
    def load(
        cls,
        folder: Path | str | None = None,
        *,
        device: str = "auto",
        settings: Sequence[str] = (),
        sure: Callable[[Evidence], float] | None = None,
        needs: Collection[str] = (),
    ) -> Recognizer:
        """Load a model folder, or a shipped model by its name (default: english); or an exported model, which needs no torch.

        folder: also an address on the Hugging Face hub, hf:org/name or hf:org/name@revision (`samba_asr.hub`).

        device: auto (CUDA if available), cpu, cuda, cuda:1.
        settings: overrides of the model's search settings, such as "decode.search.beam=256"; UserError for other settings.
        sure: as for `Recognizer`.
        needs: features that the search must take, such as "hotwords" (`samba_asr.decoding.base.Search.takes`).  If the model's
            own search lacks them, another is chosen; `settings` are applied after that.
        """
        foreign = [text for text in settings if not text.startswith("decode.")]
        if foreign:
            raise UserError(f"--set {foreign[0]}: only decode.* can be set here")
        folder = hub.model_folder(folder)
        loaded = load_exported(folder) if is_exported(folder) else _load_model(folder, device)
        by_hand = any(text.startswith(("decode.search.method=", "decode.method=")) for text in settings)
        own = loaded.config.decode.search.method
        chosen = [] if by_hand else [text for need in needs for text in settings_for(need, own)]
        changes = [*chosen, *settings]
        if loaded.model is None:
            return cls(loaded, overridden(loaded.config.decode, changes), sure)
        decode = configs.load(overrides=changes, folder=folder).decode if changes else loaded.config.decode
        return cls(loaded, decode, sure)

    def __repr__(self) -> str:
        name = self.folder or "a model in memory"
        return f"Recognizer({str(name)!r}, {self.decode.search.method}, {self.runtime.device}, {self.rate} Hz)"

    @property
    def rate(self) -> int:
        """Sample rate of the model; sessions resample audio of other rates."""
        return self.runtime.rate

    @property
    def frame(self) -> float:
        """Seconds of an encoder frame."""
        return self.runtime.frame

    @property
    def folder(self) -> Path | None:
        """Folder of the model; None if it was not loaded from one."""
        return self._loaded.folder

    @functools.cached_property
    def _all_words(self) -> Tokenizer:
        """Tokenizer with all words of decode.lm.lexicon; it takes seconds to make, and only hotwords need it."""
        return tokenizer_of(self._loaded, self.decode)

    def latency(self, ms: float | None) -> Latency:
        """Return the encoder blocks for a latency in ms (None: decode.runtime.latency_ms).  UserError if no blocks fit."""
        return blocks(self.decode, self.runtime, ms)

    def final_latency(self, ms: float | None = None) -> Latency:
        """Return the encoder blocks that final texts come from: those of `ms`, or of decode.runtime.final_ms if larger."""
        return final_blocks(self.decode, self.runtime, ms)

    def warm(self) -> None:
        """Do what the first audio would wait for: compile the search, or load its compiled form, and run one larger block."""
        self.segmenter.search.warm()
        if larger := self.segmenter.larger:
            silence = np.zeros(larger.latency.block * self.runtime.stride, np.float32)
            self.runtime.step([silence], [self.runtime.start(larger.latency)])

    # ---- live --------------------------------------------------------------------------------------------------------

    def session(
        self,
        rate: int | None = None,
        *,
        latency_ms: float | None = None,
        hotwords: Phrases = None,
        partials: bool = True,
        text: str = "spoken",
        digits: bool = True,
        ahead: int = 0,
        turns: TurnRules | None = None,
    ) -> Session:
        """Open a session for audio of `rate` samples a second (default the model's), for `samba_asr.session.advance`.

        latency_ms: ms of audio in one encoder block, a multiple of the encoder frame.  The text lags by at most this.  None:
            decode.runtime.latency_ms, by default the largest block, for offline use.
        hotwords: phrases to expect, in place of those of decode.hotwords.
        partials: whether to emit `Partial` events; the session is a live one.
        text: "spoken" or "written".  Written: segments and partials also have their written form (`Segment.written`).
        digits: whether the written form has numbers in digits.
        ahead: words after a segment for which its written form waits, and with it the segment.
        turns: rules of turns, in seconds; the session then also emits the events of `samba_asr.decoding.turns`.
        """
        return Session(
            self,
            self.rate if rate is None else rate,
            self.latency(latency_ms),
            hotwords=self.hotwords(hotwords),
            vad=self.decode.vad.method,
            partials=partials,
            writer=self.writer(text, digits=digits, ahead=ahead),
            turns=turns,
            reread=self.decode.lm.neural_live or not partials,
            again=self.final_latency(latency_ms) != self.latency(latency_ms),
        )

    def writer(self, text: str = "written", *, digits: bool = True, ahead: int = 0) -> Writer | None:
        """Make the writer of one session's written form, or None for the spoken form; arguments as for `session`.

        A model that cannot write the most frequent English words has no other form than the spoken one.
        UserError for another `text`.
        """
        if text not in TEXTS:
            raise UserError(f"text={text!r}: it must be {' or '.join(TEXTS)}")
        if text == "spoken" or not self._writes_english:
            return None
        return Writer(punctuator_numpy.load(), digits=digits and numbers.available(), ahead=ahead)

    @functools.cached_property
    def _writes_english(self) -> bool:
        return writes_english(self.tokenizer)

    def stream(
        self,
        rate: int | None = None,
        *,
        latency_ms: float | None = None,
        hotwords: Phrases = None,
        text: str = "spoken",
        digits: bool = True,
    ) -> Stream:
        """Open a session that computes as it receives audio; arguments as for `session`."""
        session = self.session(rate, latency_ms=latency_ms, hotwords=hotwords, partials=False, text=text, digits=digits)
        return Stream(self, session)

    def listen(
        self,
        source: Any,
        *,
        rate: int | None = None,
        latency_ms: float | None = None,
        chunk_ms: float | None = None,
        hotwords: Phrases = None,
        partials: bool = True,
        on_block: Callable[[float], None] = lambda seconds: None,
        longest: float | None = None,
        channel: int | None = None,
        text: str = "spoken",
        digits: bool = True,
        ahead: int = 0,
        turns: TurnRules | None = None,
    ) -> Iterator[Event]:
        """Yield the events of audio as they come; the last one is `Done`.

        source: path, bytes or file object of any container, rate and number of channels; or an array (s,), or an iterable of
            arrays such as `samba_asr.audio.microphone.Microphone`.
        rate: samples a second of arrays; default that of the iterable, or else the model's.
        chunk_ms: ms of a file that are read at a time, default 10 s, or for partials the latency; it never changes the result.
        on_block: called after every chunk with the seconds received so far; an error in it ends the work.
        longest: seconds.  UserError as soon as more are decoded.
        channel: channel of a file, 1 is the first (default: the mix of all).
        text, digits, ahead: the written form, as for `session`.
        turns: rules of turns, as for `session`.
        AudioError (a UserError) if a file cannot be read.  Truncated for a cut or damaged file, after the events of the part
        before the damage.
        """
        if partials and chunk_ms is None:
            chunk_ms = latency_ms
        options: dict[str, Any] = {"latency_ms": latency_ms, "hotwords": hotwords, "turns": turns, "partials": partials}
        options |= {"text": text, "digits": digits, "ahead": ahead}
        return advanced(self, self._fed(source, rate, chunk_ms, channel, longest, on_block, options))

    def events(self, session: Session) -> Iterator[Event]:
        """Advance one session as long as it is due, and yield its events as they come."""
        return events(self, session)

    def _fed(
        self,
        source: Any,
        rate: int | None,
        chunk_ms: float | None,
        channel: int | None,
        longest: float | None,
        on_block: Callable[[float], None],
        options: dict[str, Any],
    ) -> Iterator[Session]:
        """Open a session, and yield it after each chunk that it received, and after its end; arguments as for `listen`."""
        seconds = MAX_STEP if chunk_ms is None else chunk_ms / 1000
        if not seconds > 0:
            raise UserError(f"a chunk of {chunk_ms:g} ms holds no audio: it must be positive")
        session: Session | None = None
        broken: Truncated | None = None
        try:
            default = self.rate if rate is None else as_rate(rate)
            for given, samples in pieces(source, default, min(seconds, MAX_STEP), channel):
                session = session or self.session(given, **options)
                session.feed(samples)
                if longest is not None and session.seconds > longest:
                    raise UserError(
                        f"the file has more than {longest:g} s of audio, which is the limit here: send it in parts"
                    )
                on_block(session.seconds)
                yield session
        except Truncated as error:
            if session is None:
                raise
            broken = error
        session = session or self.session(rate, **options)
        session.end()
        yield session
        if broken:
            raise broken

    # ---- whole files -------------------------------------------------------------------------------------------------

    def transcribe(
        self,
        source: Any,
        *,
        rate: int | None = None,
        latency_ms: float | None = None,
        chunk_ms: float | None = None,
        hotwords: Phrases = None,
        on_segment: Callable[[Segment], None] = lambda segment: None,
        on_block: Callable[[float], None] = lambda seconds: None,
        longest: float | None = None,
        channel: int | None = None,
        text: str = "spoken",
        digits: bool = True,
        ahead: int = AHEAD,
    ) -> Result:
        """Recognize a file, or any other source that `listen` takes, with the arguments of `listen`.

        on_segment: called with each finished segment, some steps after `listen` would yield it, as others are encoded meanwhile.
        """
        options: dict[str, Any] = {"latency_ms": latency_ms, "hotwords": hotwords, "partials": False}
        options |= {"text": text, "digits": digits, "ahead": ahead}
        fed = self._fed(source, rate, chunk_ms, channel, longest, on_block, options)
        return Result.of(self._events_of_file(fed), on_segment)

    def _events_of_file(self, fed: Iterable[Session]) -> Iterator[Event]:
        """Yield the events of a file, with its encoder in a thread of its own where there may be two."""
        return pipelined(self, fed) if threads() > 1 else advanced(self, fed)

    def transcribe_many(
        self,
        files: Sequence[Path | str | bytes],
        *,
        jobs: int = 1,
        latency_ms: float | None = None,
        hotwords: Phrases = None,
        channel: int | None = None,
        text: str = "spoken",
        digits: bool = True,
    ) -> Iterator[Transcribed]:
        """Recognize many files, `jobs` at a time in threads, and yield each one's result or error, in the order of `files`.

        The largest files begin first.  A file that cannot be read ends nothing: its error is in its place.  The other arguments
        are those of `listen`.  UserError for jobs below 1, and for one file in place of a list.
        """
        if isinstance(files, FILES):
            raise UserError(f"files={str(files)[:80]!r}: give a list of files, or call transcribe")
        self.latency(latency_ms)  # reports a wrong latency once, not once a file
        options: dict[str, Any] = {"latency_ms": latency_ms, "hotwords": self.hotwords(hotwords), "partials": False}
        options |= {"text": text, "digits": digits, "ahead": AHEAD}
        run = self._events_of_file if jobs == 1 else functools.partial(advanced, self)

        def work(file: Path | str | bytes) -> Transcribed:
            name = str(file) if isinstance(file, str | os.PathLike) else ""
            fed = self._fed(file, None, None, channel, None, lambda seconds: None, options)
            return Transcribed(file, *attempt(name, lambda: Result.of(run(fed))))

        return largest_first(work, files, jobs, size)

    def recognize(self, samples: np.ndarray, *, rate: int | None = None, latency_ms: float | None = None) -> Result:
        """Recognize audio in memory: float32 (s,) in [-1, 1].  rate: samples a second, default the model's."""
        stream = self.stream(rate, latency_ms=latency_ms)
        stream.accept(samples)
        return stream.finish()

    recognise = recognize  # the old spelling, for one version

    def align(self, source: Any, text: str, *, latency_ms: float | None = None) -> Result:
        """Find the time of each word of a known text in a file, and its confidence by the CTC head.

        The words are those given.  Their case and marks do not matter, and a pronunciation is guessed where the model has none.
        A text that is much shorter than what is said gets a warning.  UserError for a text that is empty, or holds a word that
        the model cannot write, or is too long for the audio; AudioError as from `transcribe`.
        """
        words = spell(text, self._all_words)
        rate, found = self.rate, []
        for given, samples in pieces(source, self.rate, MAX_STEP):
            rate = given
            found.append(samples)
        scores, seconds = self.log_probs(found, rate, latency_ms)
        placed = place(words, scores, self.tokenizer, self.frame)
        said = " ".join(word.text for word in placed)
        return Result((Segment(said, placed[0].start, placed[-1].end, placed, seconds),), seconds)

    def log_probs(
        self, pieces: Iterable[np.ndarray], rate: int, latency_ms: float | None = None
    ) -> tuple[np.ndarray, float]:
        """Compute the CTC head's log-probabilities (t, v), and the seconds of audio.  pieces: float32 (s,), any lengths."""
        return log_probs(self.runtime, pieces, rate, self.latency(latency_ms))

    # ---- settings ----------------------------------------------------------------------------------------------------

    def hotwords(self, phrases: Phrases) -> Hotwords | None:
        """Prepare one or more phrases for sessions, each with its weight in nats a unit, or with decode.hotwords.weight.

        Phrases that the model cannot write are ignored, with a warning.  UserError if the search takes no hotwords.
        """
        if phrases is None or isinstance(phrases, Hotwords):
            return phrases
        if "hotwords" not in self.segmenter.search.takes:
            raise UserError(refusal("hotwords need", "hotwords", self.decode.search.method))
        if isinstance(phrases, str):
            phrases = [phrases]
        if isinstance(phrases, Iterable) and not isinstance(phrases, Mapping):
            phrases = list(phrases)
        if not isinstance(phrases, Iterable) or not all(isinstance(phrase, str) for phrase in phrases):
            raise UserError(
                f"hotwords={phrases!r}: give a phrase, a list of phrases, or phrases with weights, {{'ANNE BRONTE': 3}}"
            )
        if not isinstance(phrases, Mapping):
            phrases = dict.fromkeys(phrases, self.decode.hotwords.weight)
        return Hotwords(self._all_words, phrases)

    def without_endpoints(self) -> Recognizer:
        """Return a recognizer for which all audio of a session is one segment, and no segment is dropped."""
        other = copy.copy(self)
        other.segmenter = self.segmenter.without_endpoints()
        return other

    def in_float64(self) -> Recognizer:
        """Return a recognizer in float64, for checks in which rounding must not matter; slow."""
        other = copy.copy(self)
        other.runtime = runtimes.build("torch", self._loaded, self.decode.runtime).in_float64()
        other.segmenter = self.segmenter.over(self.segmenter.search.over(other.runtime.second_pass), other.runtime)
        return other


def _graph(folder: Path | None, calibration: Callable[[Evidence], float]) -> Graph | None:
    """Load the graph network of a calibrated model's folder; None if it has none, or one of another model, with a warning."""
    if folder is None or not (folder / "lattice.safetensors").is_file():
        return None
    try:
        from samba_asr.decoding.graph import GraphJudge
        from samba_asr.models.graph import load_graph

        network = load_graph(folder)
    except ModuleNotFoundError:  # an exported model, without torch
        return None
    except UserError as error:
        logger.warning("%s (confidences are those of confidence.json)", error)
        return None
    return None if network is None else GraphJudge(network, calibration)


def _load_model(folder: Path, device: str) -> LoadedModel:
    from samba_asr.device import choose_device
    from samba_asr.models.folder import load_model

    return load_model(folder, choose_device(device))
