"""Recognizer: from audio to text with times, of whole files and live.

    recognizer = Recognizer.load()                      # the model in the box, or Recognizer.load("folder")
    print(recognizer.transcribe("speech.flac").text)

    for event in recognizer.listen(microphone):         # events of `samba_asr.session`, as they come
        if isinstance(event, Final):
            print(event.segment.text)

    stream = recognizer.stream(rate=48000, latency_ms=640)
    for samples in microphone:                          # float32 (s,), chunks of any length
        stream.accept(samples)
        print(stream.segments, stream.partial)          # what is over, and what is being said
    print(stream.finish().text)

A recognizer holds weights, tokenizer and search and never changes; a session (`samba_asr.session`) holds everything that
belongs to one stream of audio, its latency included.  All ways in stand on it, so a file, a stream and the service give the
same text at the same latency, and memory does not grow with the file (but for the text).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samba_asr import config as configs
from samba_asr.audio.inputs import pieces
from samba_asr.audio.source import Truncated
from samba_asr.audio.vad import Gate
from samba_asr.config import DecodeConfig
from samba_asr.decoding.build import tokenizer_of, two_pass
from samba_asr.decoding.confidence import Calibration, Evidence, raw
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.known_text import place, spell
from samba_asr.decoding.searches import refusal, settings_for
from samba_asr.decoding.segmenter import Segmenter
from samba_asr.decoding.transcript import Segment, Word
from samba_asr.device import choose_device
from samba_asr.errors import UserError
from samba_asr.models.box import box_folder
from samba_asr.models.folder import LoadedModel, load_model
from samba_asr.runtime.base import MAX_STEP, AcousticRuntime, Latency, latency_of
from samba_asr.runtime.torch import TorchRuntime
from samba_asr.runtime.whole import log_probs
from samba_asr.session import Done, Event, Final, Session, advance
from samba_asr.text.units import Tokenizer

Phrases = Mapping[str, float] | Sequence[str] | Hotwords | None
"""Hotwords: phrases with their weights, or without, or as `Recognizer.hotwords` makes them once for many sessions."""


@dataclass(frozen=True)
class Result:
    """segments: what was said between two pauses; the text and the words are theirs, one after another."""

    segments: tuple[Segment, ...]
    duration: float  # seconds of audio received

    @classmethod
    def of(cls, events: Iterable[Event], on_segment: Callable[[Segment], None] = lambda segment: None) -> Result:
        """Collect a session's events.  on_segment: called with each segment.  `Truncated` has the result so far."""
        segments, duration = [], 0.0
        try:
            for event in events:
                if isinstance(event, Final):
                    segments.append(event.segment)
                    on_segment(event.segment)
                elif isinstance(event, Done):
                    duration = event.seconds
        except Truncated as error:
            error.result = cls(tuple(segments), duration)
            raise
        return cls(tuple(segments), duration)

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)


class Recognizer:
    """Weights, tokenizer and search; shared by any number of sessions."""

    def __init__(
        self, loaded: LoadedModel, decode: DecodeConfig | None = None, sure: Callable[[Evidence], float] | None = None
    ):
        """decode: search settings, default those of the model's own configuration.

        sure: makes words' confidences of evidence, default the model folder's calibration, if it has one.
        """
        self.model, self.tokenizer, self.config, _ = loaded
        self.decode = decode or self.config.decode
        self.runtime = TorchRuntime(self.model)
        self.latency(None)  # wrong settings are reported now
        search = two_pass(loaded, self.decode, self.runtime.second_pass)
        if self.decode.vad.method:
            Gate(self.decode.vad.method, self.rate)
        sure = sure or (loaded.folder and Calibration.read(loaded.folder)) or raw
        self.segmenter = Segmenter(search, self.tokenizer, self.decode.endpoint, self.frame, sure)
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
        """Read a model folder, or one of those in the box by its name (default: english).

        device: auto (CUDA where there is one), cpu, cuda, cuda:1.
        settings: over the model's own search, such as "decode.search.beam=256"; UserError for one of anything but the search.
        sure: as for `Recognizer`.
        needs: what the search must take, such as "hotwords" (`samba_asr.decoding.base.Decoder.takes`).  Where the model's own
            does not, another is chosen; `settings` come after that.
        """
        foreign = [text for text in settings if not text.startswith("decode.")]
        if foreign:
            raise UserError(f"--set {foreign[0]}: only decode.* can be set here")
        folder = box_folder(folder)
        loaded = load_model(folder, choose_device(device))
        by_hand = any(text.startswith(("decode.search.method=", "decode.method=")) for text in settings)
        own = loaded.config.decode.search.method
        chosen = [] if by_hand else [text for need in needs for text in settings_for(need, own)]
        decode = configs.load(overrides=[*chosen, *settings], folder=folder).decode
        return cls(loaded, decode, sure)

    def __repr__(self) -> str:
        name = self.folder or "a model in memory"
        return f"Recognizer({str(name)!r}, {self.decode.search.method}, {self.runtime.device}, {self.rate} Hz)"

    @property
    def rate(self) -> int:
        """Samples a second that the model takes; sessions resample what comes at other rates."""
        return self.runtime.rate

    @property
    def frame(self) -> float:
        """Seconds of an encoder frame."""
        return self.runtime.frame

    @property
    def folder(self) -> Path | None:
        """Where the model came from."""
        return self._loaded.folder

    @functools.cached_property
    def _writer(self) -> Tokenizer:
        """The tokenizer with all words of decode.lm.lexicon; seconds of work, and for hotwords alone."""
        return tokenizer_of(self._loaded, self.decode)

    def latency(self, ms: float | None) -> Latency:
        """The encoder blocks of a session; None: the setting of the search.  UserError if there are no such blocks."""
        return blocks(self.decode, self.runtime, ms)

    # ---- live --------------------------------------------------------------------------------------------------------

    def session(
        self,
        rate: int | None = None,
        *,
        latency_ms: float | None = None,
        hotwords: Phrases = None,
        partials: bool = True,
    ) -> Session:
        """A new session for audio of `rate` samples a second (default the model's), for `samba_asr.session.advance`.

        latency_ms: audio in one encoder block, a multiple of an encoder frame; the text lags by at most this.  None: the
            setting of the search, which is offline unless the model says otherwise.
        hotwords: phrases to expect, in place of those of decode.hotwords.
        partials: whether it has `Partial` events.
        """
        return Session(
            self,
            rate or self.rate,
            self.latency(latency_ms),
            hotwords=self.hotwords(hotwords),
            vad=self.decode.vad.method,
            partials=partials,
        )

    def stream(self, rate: int | None = None, *, latency_ms: float | None = None, hotwords: Phrases = None) -> Stream:
        """A new session that computes as it is fed; arguments as for `session`."""
        return Stream(self, self.session(rate, latency_ms=latency_ms, hotwords=hotwords, partials=False))

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
    ) -> Iterator[Event]:
        """The events of audio, as they come; the last one is `Done`.

        source: a path, bytes or a file object of any container, rate and number of channels; or an array (s,), or an iterable
            of arrays such as `samba_asr.audio.microphone.Microphone`.
        rate: samples a second of arrays; default that of the iterable, or else the model's.
        chunk_ms: how much of a file goes in at a time (default 10 s); it never changes the result.
        on_block: called after every chunk with the seconds received so far, speech or not; an error in it ends the work.
        longest: seconds; UserError as soon as more are decoded.
        AudioError (a UserError) if a file cannot be read; of one that is cut or damaged, Truncated after the events of what
        came before.
        """
        seconds = MAX_STEP if chunk_ms is None else chunk_ms / 1000
        if not seconds > 0:
            raise UserError(f"a chunk of {chunk_ms:g} ms holds no audio: it must be positive")
        session: Session | None = None
        broken: Truncated | None = None
        try:
            for given, samples in pieces(source, rate or self.rate, min(seconds, MAX_STEP)):
                session = session or self.session(given, latency_ms=latency_ms, hotwords=hotwords, partials=partials)
                session.feed(samples)
                if longest is not None and session.seconds > longest:
                    raise UserError(f"the file holds more than {longest:g} s of audio, which is the most here")
                on_block(session.seconds)
                yield from self.events(session)
        except Truncated as error:
            if session is None:
                raise
            broken = error
        session = session or self.session(rate, latency_ms=latency_ms, hotwords=hotwords)
        session.end()
        yield from self.events(session)
        if broken:
            raise broken

    def events(self, session: Session) -> Iterator[Event]:
        """Advance one session as long as it is due, and give its events as they come."""
        while session.due() and not session.over:
            advance(self, [session])
            yield from session.events()

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
    ) -> Result:
        """The text of a file, or of whatever `listen` takes, with its arguments.

        on_segment: called with each segment when it is over.
        """
        events = self.listen(
            source,
            rate=rate,
            latency_ms=latency_ms,
            chunk_ms=chunk_ms,
            hotwords=hotwords,
            partials=False,
            on_block=on_block,
            longest=longest,
        )
        return Result.of(events, on_segment)

    def recognize(self, samples: np.ndarray, *, rate: int | None = None, latency_ms: float | None = None) -> Result:
        """The text of audio that is in memory: float32 (s,) in [-1, 1]; rate: samples a second, default the model's."""
        stream = self.stream(rate, latency_ms=latency_ms)
        stream.accept(samples)
        return stream.finish()

    recognise = recognize  # the old spelling, for one version

    def align(self, source: Any, text: str, *, latency_ms: float | None = None) -> Result:
        """Where each word of a known text lies in a file, with how sure the CTC head is of it.

        The words are those given.  Their case and marks do not matter, and a pronunciation is guessed where the model has none.
        A text that is much shorter than what is said gets a warning.  UserError for a text that is empty, or holds a word that
        the model cannot write, or is too long for the audio; AudioError as from `transcribe`.
        """
        words = spell(text, self._writer)
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
        """Log-probabilities (t, v) of the CTC head, and the seconds of audio.  pieces: float32 (s,), of any lengths."""
        return log_probs(self.runtime, pieces, rate, self.latency(latency_ms))

    # ---- settings ----------------------------------------------------------------------------------------------------

    def hotwords(self, phrases: Phrases) -> Hotwords | None:
        """Phrases as a session takes them: each with its weight in nats a unit, or with decode.hotwords.weight.

        Phrases that the model cannot write are named in a warning, and left out.  UserError where the search takes no hotwords.
        """
        if phrases is None or isinstance(phrases, Hotwords):
            return phrases
        if "hotwords" not in self.segmenter.search.takes:
            raise UserError(refusal("hotwords need", "hotwords", self.decode.search.method))
        if not isinstance(phrases, Mapping):
            phrases = dict.fromkeys(phrases, self.decode.hotwords.weight)
        return Hotwords(self._writer, phrases)

    def without_endpoints(self) -> Recognizer:
        """The same, but all audio of a session is one segment, and none of it is withheld."""
        other = copy.copy(self)
        other.segmenter = self.segmenter.without_endpoints()
        return other

    def in_float64(self) -> Recognizer:
        """The same in float64, where rounding decides nothing; slow, for checks."""
        other = copy.copy(self)
        other.runtime = self.runtime.in_float64()
        other.segmenter = copy.copy(self.segmenter)
        other.segmenter.search = self.segmenter.search.over(other.runtime.second_pass)
        return other


class Stream:
    """A session that computes as it is fed: `accept` audio, read `partial` and `segments`, and `finish` once."""

    def __init__(self, recognizer: Recognizer, session: Session):
        self.recognizer, self._session = recognizer, session
        self._segments: list[Segment] = []
        self._result: Result | None = None

    def accept(self, samples: np.ndarray) -> None:
        """The next chunk: float32 (s,) in [-1, 1], any length.  UserError, and nothing taken, if a sample is not finite."""
        if self._result is not None:
            raise RuntimeError("accept after finish: a session ends once, make a new stream")
        self._session.feed(samples)
        self._advance()

    @property
    def seconds(self) -> float:
        """Seconds of audio received."""
        return self._session.seconds

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those that are over: final, with the second pass."""
        return tuple(self._segments)

    @property
    def partial(self) -> str:
        """The text of the segment that is being said, by the first pass; its end may still change."""
        return "" if self._result else self.recognizer.segmenter.text(self._session.search)

    @property
    def stable(self) -> str:
        """The beginning of `partial` that will not change: whole words."""
        return "" if self._result else self.recognizer.segmenter.stable(self._session.search)

    def finish(self) -> Result:
        """The end of the audio: the final text.  A second call returns the same."""
        if self._result is None:
            self._session.end()
            self._advance()
            self._result = Result(tuple(self._segments), self._session.seconds)
        return self._result

    def _advance(self) -> None:
        for event in self.recognizer.events(self._session):
            if isinstance(event, Final):
                self._segments.append(event.segment)


def blocks(decode: DecodeConfig, runtime: AcousticRuntime, ms: float | None = None) -> Latency:
    """The encoder blocks of this latency, or of the one in the settings.  UserError if there are no such blocks."""
    ms = decode.runtime.latency_ms if ms is None else ms
    return latency_of(ms, decode.runtime.overlap, runtime.frame, runtime.max_block)
