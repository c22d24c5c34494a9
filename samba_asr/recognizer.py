"""Recognizer and Stream: from audio to text with times.

    recognizer = Recognizer.load()                      # the model in the box, or Recognizer.load("folder")
    print(recognizer.transcribe("speech.flac").text)

    stream = recognizer.stream(rate=48000, latency_ms=640)
    for samples in microphone:                          # float32 (s,), chunks of any length
        stream.accept(samples)
        print(stream.segments, stream.partial)          # what is over, and what is being said
    print(stream.finish().text)

A recogniser holds weights, tokenizer and search and never changes; a stream holds one session's state.  `transcribe` is a
stream that is fed a file piece by piece, so both give the same text at the same latency, and memory does not grow with the
file (but for the text).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samba_asr import config as configs
from samba_asr.audio.read import stream as read_stream
from samba_asr.audio.resample import Resampler
from samba_asr.audio.vad import Gate, Piece
from samba_asr.config import DecodeConfig
from samba_asr.decoding.align import align
from samba_asr.decoding.build import tokenizer_of, two_pass
from samba_asr.decoding.confidence import Calibration, Evidence, raw
from samba_asr.decoding.hotwords import Hotwords
from samba_asr.decoding.segmenter import Segmenter
from samba_asr.decoding.transcript import Segment, Word, words_of
from samba_asr.device import choose_device
from samba_asr.errors import UserError
from samba_asr.models.encoder_stream import MAX_CHUNK, EncoderStream, checked
from samba_asr.models.folder import LoadedModel, load_model
from samba_asr.ops.device import wants_triton
from samba_asr.text.tokenizer import UNK_ID, Tokenizer

Phrases = Mapping[str, float] | Sequence[str] | Hotwords | None
"""Hotwords: phrases with their weights, or without, or as `Recognizer.hotwords` makes them once for many sessions."""


DEFAULT = "english"  # of the models in the box


@dataclass(frozen=True)
class Result:
    """segments: what was said between two pauses; the text and the words are theirs, one after another."""

    segments: tuple[Segment, ...]
    duration: float  # seconds of audio heard

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.segments)

    @property
    def words(self) -> tuple[Word, ...]:
        return tuple(word for segment in self.segments for word in segment.words)


class Recognizer:
    """Weights, tokenizer and search; shared by any number of streams."""

    def __init__(
        self, loaded: LoadedModel, decode: DecodeConfig | None = None, sure: Callable[[Evidence], float] | None = None
    ):
        """decode: search settings, default those of the model's own configuration.

        sure: what makes words' confidences of evidence, default the model folder's calibration, if it has one.
        """
        self.model, self.tokenizer, self.config, _ = loaded
        self.decode = decode or self.config.decode
        self.rate = self.model.config.features.sample_rate
        self.frame = self.model.acoustic.stride / self.rate  # seconds of an encoder frame
        self.model.acoustic.set_overlap(self.decode.overlap)
        search = two_pass(loaded, self.decode)
        if self.decode.vad:
            Gate(self.decode.vad, self.rate)  # a wrong one is told now
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
    ) -> Recognizer:
        """Read a model folder, or one of those in the box by its name (default: english).

        device: auto (CUDA where there is one), cpu, cuda, cuda:1.
        settings: over the model's own search, such as "decode.beam=256"; UserError for one of anything but the search.
        """
        foreign = [text for text in settings if not text.startswith("decode.")]
        if foreign:
            raise UserError(f"--set {foreign[0]}: only decode.* can be set here")
        folder = box_folder(folder)
        loaded = load_model(folder, choose_device(device))
        weight = loaded.model.ctc.linear.weight
        if weight.is_cuda and wants_triton(weight.device, weight.dtype):
            loaded.model.acoustic.encoder.record_steps()
        return cls(loaded, configs.load([folder / "config.yaml"], settings).decode, sure)

    @property
    def folder(self) -> Path | None:
        """Where the model came from."""
        return self._loaded.folder

    @functools.cached_property
    def _writer(self) -> Tokenizer:
        """The tokenizer with all words of decode.lexicon; seconds of work, and for hotwords alone."""
        return tokenizer_of(self._loaded, self.decode)

    def stream(self, rate: int | None = None, *, latency_ms: float | None = None, hotwords: Phrases = None) -> Stream:
        """A new session for audio of `rate` samples a second (default the model's).

        latency_ms: audio in one encoder block, a multiple of 40; the text lags by at most this.  None: the setting of the
        search (decode.block), which is offline unless the model says otherwise.
        hotwords: phrases to expect, in place of those of decode.hotwords.
        """
        return Stream(self, rate or self.rate, self.block(latency_ms), self.hotwords(hotwords))

    def hotwords(self, phrases: Phrases) -> Hotwords | None:
        """Phrases as a session takes them: each with its weight in nats a unit, or with decode.hotword_weight.

        UserError, naming them, for phrases that the model cannot write; and where the search is greedy.
        """
        if phrases is None or isinstance(phrases, Hotwords):
            return phrases
        if self.decode.method != "beam":
            raise UserError("hotwords need several hypotheses, and greedy search has one: use decode.method=beam")
        if not isinstance(phrases, Mapping):
            phrases = dict.fromkeys(phrases, self.decode.hotword_weight)
        return Hotwords(self._writer, phrases)

    def block(self, latency_ms: float | None) -> int:
        """Frames in a block for this latency; UserError if there is no such block."""
        if latency_ms is None:
            return self.decode.block
        frame_ms, longest = self.frame * 1000, self.model.config.max_block
        frames = latency_ms / frame_ms
        if frames != round(frames) or not 1 <= frames <= longest:
            raise UserError(
                f"latency of {latency_ms:g} ms: it must be a multiple of {frame_ms:g} ms, "
                f"from {frame_ms:g} to {longest * frame_ms:g}"
            )
        return round(frames)

    def hop(self, block: int) -> int:
        """Frames that each block tells: all of it, or less where blocks overlap."""
        encoder = self.model.acoustic.encoder
        return int(encoder.hop_size(encoder.block_size(block, 1, None)))

    def transcribe(
        self,
        source,
        *,
        latency_ms: float | None = None,
        chunk_ms: float | None = None,
        hotwords: Phrases = None,
        on_partial: Callable[[str], None] | None = None,
        on_segment: Callable[[Segment], None] | None = None,
        longest: float | None = None,
    ) -> Result:
        """The text of a file: a path, bytes or a file object of any container, rate and number of channels.

        chunk_ms: how much audio goes in at a time (default 10 s); it never changes the result.
        hotwords: as in `stream`.
        on_partial: called with the text of the segment that is being said whenever it has changed, and when it is over.
        on_segment: called with each segment when it is over.
        longest: seconds; UserError as soon as more are decoded.
        AudioError (a UserError) if the file cannot be read to its end.
        """
        seconds = MAX_CHUNK if chunk_ms is None else chunk_ms / 1000
        if not seconds > 0:
            raise UserError(f"a chunk of {chunk_ms:g} ms holds no audio: it must be positive")
        stream, shown, over = None, "", 0
        for audio in read_stream(source, min(seconds, MAX_CHUNK)):
            stream = stream or self.stream(audio.rate, latency_ms=latency_ms, hotwords=hotwords)
            stream.accept(audio.samples)
            if longest is not None and stream.seconds > longest:
                raise UserError(f"the file holds more than {longest:g} s of audio, which is the most here")
            new = stream.segments[over:]
            over += len(new)
            if on_partial:
                for text in (*(segment.text for segment in new), stream.partial):
                    if text != shown:
                        shown = text
                        on_partial(text)
            if on_segment:
                for segment in new:
                    on_segment(segment)
        result = (stream or self.stream(latency_ms=latency_ms)).finish()
        if on_segment:
            for segment in result.segments[over:]:
                on_segment(segment)
        return result

    def recognise(self, samples: np.ndarray, *, latency_ms: float | None = None) -> Result:
        """The text of audio that is in memory: float32 (s,) in [-1, 1], at the model's rate."""
        stream = self.stream(latency_ms=latency_ms)
        stream.accept(samples)
        return stream.finish()

    def align(self, source, text: str, *, latency_ms: float | None = None) -> Result:
        """Where each word of a known text lies in a file, with how sure the CTC head is of it.

        UserError for a text that is empty, or holds a character that the model's tokenizer does not know, or is too long
        for the audio; AudioError as from `transcribe`.
        """
        tokens = self._tokens(text)
        rate, pieces = self.rate, []
        for audio in read_stream(source, MAX_CHUNK):
            rate = audio.rate
            pieces.append(audio.samples)
        log_probs, seconds = self.log_probs(pieces, rate, latency_ms)
        spans = align(log_probs, tokens)
        words = words_of(tokens, spans, self.tokenizer, self.frame)  # not calibrated: that is for what was recognised
        return Result((Segment(self.tokenizer.decode(tokens), words[0].start, words[-1].end, words, seconds),), seconds)

    def log_probs(
        self, pieces: Iterable[np.ndarray], rate: int, latency_ms: float | None = None
    ) -> tuple[np.ndarray, float]:
        """What the CTC head says of audio, (t, v), and its seconds.  pieces: float32 (s,), of any lengths."""
        encoder, found = EncoderStream(self.model, rate, self.block(latency_ms)), []
        for samples in pieces:
            found += self._log_probs(encoder.accept(samples))
        found += self._log_probs(encoder.finish())
        return np.concatenate(found), encoder.seconds

    def _tokens(self, text: str) -> list[int]:
        unknown = [word for word in text.split() if UNK_ID in self.tokenizer.encode(word)]
        if unknown:
            raise UserError(
                f"this model knows no way to write {', '.join(repr(w) for w in unknown[:5])}: it was trained on other "
                "characters (capitals? numbers in words?)"
            )
        if not (tokens := self.tokenizer.encode(text)):
            raise UserError("the text to align is empty")
        return tokens

    def _log_probs(self, found: list[tuple[Tensor, Tensor]]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [
                self.model.ctc(frames, lengths)[0][0, : int(lengths[0])].float().cpu().numpy()
                for frames, lengths in found
            ]


class Stream:
    """One session.  `accept` audio, read `partial`, and `finish` once."""

    def __init__(self, recognizer: Recognizer, rate: int, block: int, hotwords: Hotwords | None = None):
        self.recognizer, self.rate, self.block = recognizer, rate, block
        self._heard = 0  # samples
        self._session = recognizer.segmenter.open(hotwords)
        self._result: Result | None = None
        self._gate: Gate | None = None
        self._encoder: EncoderStream | None = None  # while the gate is shut, there is none
        if recognizer.decode.vad:
            self._gate = Gate(recognizer.decode.vad, recognizer.rate)
            self._resampler = Resampler(rate, recognizer.rate)
        else:
            self._encoder = EncoderStream(recognizer.model, rate, block)

    def accept(self, samples: np.ndarray) -> None:
        """Hear more: float32 (s,) in [-1, 1], any length.  UserError, and nothing heard, if a sample is not finite."""
        if self._result is not None:
            raise RuntimeError("accept after finish: a session ends once, make a new stream")
        samples = checked(samples, self._heard, self.rate)
        self._heard += len(samples)
        if self._gate is None:
            self._read(self._encoder.accept(samples))
        else:
            self._pass(self._gate.accept(self._resampler.step(samples)))

    @property
    def seconds(self) -> float:
        """Of audio heard."""
        return self._heard / self.rate

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those that are over: final, with the second pass."""
        return self._result.segments if self._result else tuple(self._session.segments)

    @property
    def partial(self) -> str:
        """The text of the segment that is being said, by the first pass; its end may still change."""
        return "" if self._result else self.recognizer.segmenter.text(self._session)

    @property
    def stable(self) -> str:
        """The beginning of `partial` that will not change: whole words."""
        return "" if self._result else self.recognizer.segmenter.stable(self._session)

    def finish(self) -> Result:
        """The end of the audio: the final text.  A second call returns the same."""
        if self._result is None:
            if self._gate is None:
                self._read(self._encoder.finish())
                self.recognizer.segmenter.finish(self._session)
            else:
                self._pass(self._gate.accept(self._resampler.finish()) + self._gate.finish())
            self._result = Result(tuple(self._session.segments), self._heard / self.rate)
            self._encoder = self._session = self._gate = None  # a finished session holds no state
        return self._result

    def _pass(self, pieces: list[Piece]) -> None:
        """What the gate lets through: each time that it opens, the encoder begins anew."""
        for piece in pieces:
            if self._encoder is None:
                self._encoder = EncoderStream(self.recognizer.model, self.recognizer.rate, self.block)
                self._session.begin = piece.at / self.recognizer.model.acoustic.stride
            self._read(self._encoder.accept(piece.samples))
            if piece.last:
                self._read(self._encoder.finish())
                self.recognizer.segmenter.finish(self._session)
                self._encoder = None

    def _read(self, found: list[tuple[Tensor, Tensor]]) -> None:
        with torch.inference_mode():
            for frames, lengths in found:
                self.recognizer.segmenter.step([self._session], frames, lengths)


def box_folder(model: Path | str | None = None) -> Path:
    """A folder as it is, or that of a model in the box by its name; without either, the default there."""
    if model is not None and (Path(model).exists() or len(Path(model).parts) != 1):
        return Path(model)
    box = Path(str(resources.files("samba_asr"))) / "box"
    names = sorted(folder.parent.name for folder in box.glob("*/config.yaml"))
    name = DEFAULT if model is None else str(model)
    if name in names:
        return box / name
    if model is None:
        raise UserError(
            "this installation carries no model: name one with --model FOLDER (egs/digits/run.sh trains one)"
        )
    raise UserError(f"{model}: neither a folder nor a model in the box ({', '.join(names) or 'which is empty'})")
