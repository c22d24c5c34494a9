"""Recognizer and Stream: from audio to text with times.

    recognizer = Recognizer.load()                      # the model in the box, or Recognizer.load("folder")
    print(recognizer.transcribe("speech.flac").text)

    stream = recognizer.stream(rate=48000, latency_ms=640)
    for samples in microphone:                          # float32 (s,), chunks of any length
        stream.accept(samples)
        print(stream.partial)
    print(stream.finish().text)

A recogniser holds weights, tokenizer and search and never changes; a stream holds one session's state.  `transcribe` is a
stream that is fed a file piece by piece, so both give the same text at the same latency, and memory does not grow with the
file (but for the text).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samba_asr.audio.read import stream as read_stream
from samba_asr.config import DecodeConfig
from samba_asr.decoding.align import Span, align
from samba_asr.decoding.base import Hypothesis, text_of
from samba_asr.decoding.build import two_pass
from samba_asr.device import choose_device
from samba_asr.errors import UserError
from samba_asr.models.encoder_stream import MAX_CHUNK, EncoderStream
from samba_asr.models.folder import LoadedModel, load_model
from samba_asr.text.tokenizer import UNK_ID, Tokenizer


@dataclass(frozen=True)
class Word:
    """start, end: seconds from the beginning of the audio, by the CTC's first frames of the word's tokens (40 ms each).

    confidence: of an alignment, the geometric mean of the probabilities of the word's tokens where they lie.
    """

    text: str
    start: float
    end: float
    confidence: float | None = None


@dataclass(frozen=True)
class Result:
    text: str
    words: tuple[Word, ...]
    duration: float  # seconds of audio heard


class Recognizer:
    """Weights, tokenizer and search; shared by any number of streams."""

    def __init__(self, loaded: LoadedModel, decode: DecodeConfig | None = None):
        """decode: search settings, default those of the model's own configuration."""
        self.model, self.tokenizer, self.config, _ = loaded
        self.decode = decode or self.config.decode
        self.search = two_pass(loaded, self.decode)
        self.rate = self.model.config.features.sample_rate
        self.frame = self.model.acoustic.stride / self.rate  # seconds of an encoder frame

    @classmethod
    def load(cls, folder: Path | str | None = None, *, device: str = "auto", decode: DecodeConfig | None = None):
        """Read a model folder, default the model in the box.  device: auto (CUDA where there is one), cpu, cuda, cuda:1."""
        return cls(load_model(Path(folder) if folder else box_folder(), choose_device(device)), decode)

    def stream(self, rate: int | None = None, *, latency_ms: float | None = None) -> Stream:
        """A new session for audio of `rate` samples a second (default the model's).

        latency_ms: audio in one encoder block, a multiple of 40; the text lags by at most this.  None: the setting of the
        search (decode.block), which is offline unless the model says otherwise.
        """
        return Stream(self, rate or self.rate, self.block(latency_ms))

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

    def transcribe(
        self,
        source,
        *,
        latency_ms: float | None = None,
        chunk_ms: float | None = None,
        on_partial: Callable[[str], None] | None = None,
    ) -> Result:
        """The text of a file: a path, bytes or a file object of any container, rate and number of channels.

        chunk_ms: how much audio goes in at a time (default 10 s); it never changes the result.
        on_partial: called with the text so far whenever it has changed.
        AudioError (a UserError) if the file cannot be read to its end.
        """
        seconds = MAX_CHUNK if chunk_ms is None else chunk_ms / 1000
        if not seconds > 0:
            raise UserError(f"a chunk of {chunk_ms:g} ms holds no audio: it must be positive")
        stream, shown = None, ""
        for audio in read_stream(source, min(seconds, MAX_CHUNK)):
            stream = stream or self.stream(audio.rate, latency_ms=latency_ms)
            stream.accept(audio.samples)
            if on_partial and (text := stream.partial) != shown:
                shown = text
                on_partial(text)
        return (stream or self.stream(latency_ms=latency_ms)).finish()

    def align(self, source, text: str, *, latency_ms: float | None = None) -> Result:
        """Where each word of a known text lies in a file, with how sure the CTC head is of it.

        UserError for a text that is empty, or holds a character that the model's tokenizer does not know, or is too long
        for the audio; AudioError as from `transcribe`.
        """
        tokens = self._tokens(text)
        found, encoder = [], None
        for audio in read_stream(source, MAX_CHUNK):
            encoder = encoder or EncoderStream(self.model, audio.rate, self.block(latency_ms))
            found += self._log_probs(encoder.accept(audio.samples))
        encoder = encoder or EncoderStream(self.model, self.rate, self.block(latency_ms))
        found += self._log_probs(encoder.finish())
        spans = align(np.concatenate(found), tokens)
        words = words_of(tokens, spans, self.tokenizer, self.frame)
        return Result(self.tokenizer.decode(tokens), words, encoder.seconds)

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
            return [self.model.ctc(frames, lengths)[0][0, : int(lengths[0])].float().cpu().numpy() for frames, lengths in found]


class Stream:
    """One session.  `accept` audio, read `partial`, and `finish` once."""

    def __init__(self, recognizer: Recognizer, rate: int, block: int):
        self.recognizer = recognizer
        self._encoder: EncoderStream | None = EncoderStream(recognizer.model, rate, block)
        self._search = recognizer.search.init_state(1)
        self._result: Result | None = None

    def accept(self, samples: np.ndarray) -> None:
        """Hear more: float32 (s,) in [-1, 1], any length.  UserError, and nothing heard, if a sample is not finite."""
        if self._encoder is None:
            raise RuntimeError("accept after finish: a session ends once, make a new stream")
        self._read(self._encoder.accept(samples))

    @property
    def partial(self) -> str:
        """The text so far, of the first pass; its end may still change."""
        if self._result is not None:
            return self._result.text
        return self._text(self.recognizer.search.partial(self._search)[0])

    def finish(self) -> Result:
        """The end of the audio: the final text.  A second call returns the same."""
        if self._result is None:
            self._read(self._encoder.finish())
            self._search = self.recognizer.search.finish(self._search)
            best = self.recognizer.search.hypotheses(self._search)[0][0]
            spans = [Span(time, time + 1, None) for time in best.times]
            words = words_of(best.tokens, spans, self.recognizer.tokenizer, self.recognizer.frame, best.words)
            self._result = Result(self._text(best), words, self._encoder.seconds)
            self._encoder = self._search = None  # a finished session holds no state
        return self._result

    def _read(self, found: list[tuple[Tensor, Tensor]]) -> None:
        with torch.inference_mode():
            for frames, lengths in found:
                self._search = self.recognizer.search.step(frames, lengths, self._search)

    def _text(self, hypothesis: Hypothesis) -> str:
        return text_of(hypothesis, self.recognizer.tokenizer)


def words_of(
    tokens: Sequence[int],
    spans: Sequence[Span],
    tokenizer: Tokenizer,
    frame: float,
    read_as: Sequence[str] | None = None,
) -> tuple[Word, ...]:
    """The words that tokens spell; a piece that begins with U+2581 begins a word.

    frame: seconds of an encoder frame.  read_as: the words by a lexicon, where the pieces do not spell them.
    """
    words: list[list[tuple[str, Span]]] = []
    for piece, span in zip(tokenizer.pieces(tokens), spans, strict=True):
        text = piece.removeprefix("\u2581")
        if piece.startswith("\u2581") or not words:
            words.append([])
        if text:  # a lone space takes no time: the word begins with what comes after it
            words[-1].append((text, span))
    words = [pieces for pieces in words if pieces]
    texts = ["".join(text for text, _ in pieces) for pieces in words] if read_as is None else read_as
    return tuple(_word(text, [span for _, span in pieces], frame) for text, pieces in zip(texts, words, strict=True))


def _word(text: str, spans: Sequence[Span], frame: float) -> Word:
    start, end = round(spans[0].first * frame, 3), round(spans[-1].end * frame, 3)
    sure = None if spans[0].log_prob is None else math.exp(sum(s.log_prob for s in spans) / len(spans))
    return Word(text, start, end, sure if sure is None else round(sure, 4))


def box_folder() -> Path:
    """The model in the box."""
    folder = Path(str(resources.files("samba_asr"))) / "box" / "digits"
    if not (folder / "config.yaml").is_file():
        raise UserError("this installation carries no model: name one with --model FOLDER (egs/digits/run.sh trains one)")
    return folder
