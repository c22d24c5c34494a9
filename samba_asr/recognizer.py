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

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from samba_asr.audio.read import stream as read_stream
from samba_asr.audio.resample import Resampler
from samba_asr.config import DecodeConfig
from samba_asr.decoding.base import Hypothesis
from samba_asr.decoding.rescore import two_pass
from samba_asr.device import choose_device
from samba_asr.errors import UserError
from samba_asr.models.folder import LoadedModel, load_model
from samba_asr.text.tokenizer import Tokenizer

MAX_CHUNK = 10.0
"""Seconds of audio that go through the model in one step: longer input is cut, to bound memory."""


@dataclass(frozen=True)
class Word:
    """start, end: seconds from the beginning of the audio, by the CTC's first frames of the word's tokens (40 ms each)."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Result:
    text: str
    words: tuple[Word, ...]
    duration: float  # seconds of audio heard


class Recognizer:
    """Weights, tokenizer and search; shared by any number of streams."""

    def __init__(self, loaded: LoadedModel, decode: DecodeConfig | None = None):
        """decode: search settings, default those of the model's own configuration."""
        self.model, self.tokenizer, self.config = loaded
        self.decode = decode or self.config.decode
        self.search = two_pass(self.model, self.decode)
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


class Stream:
    """One session.  `accept` audio, read `partial`, and `finish` once."""

    def __init__(self, recognizer: Recognizer, rate: int, block: int):
        self.recognizer = recognizer
        self._resampler = Resampler(rate, recognizer.rate)
        weight = recognizer.model.ctc.linear.weight
        self._device, self._dtype = weight.device, weight.dtype
        self._acoustic = recognizer.model.acoustic.init_state(1, block=block, device=weight.device, dtype=weight.dtype)
        self._search = recognizer.search.init_state(1)
        self._rest = np.zeros(0, np.float32)  # samples that do not fill an encoder frame yet
        self._heard = 0  # samples at the input's rate
        self._rate = rate
        self._result: Result | None = None

    def accept(self, samples: np.ndarray) -> None:
        """Hear more: float32 (s,) in [-1, 1], any length.  UserError, and nothing heard, if a sample is not finite."""
        if self._result is not None:
            raise RuntimeError("accept after finish: a session ends once, make a new stream")
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1:
            raise UserError(f"audio of shape {samples.shape}: mix it to one channel, shape (samples,)")
        if not np.isfinite(samples).all():
            at = int(np.flatnonzero(~np.isfinite(samples))[0]) + self._heard
            raise UserError(f"sample {at} ({at / self._rate:.3f} s) is not a finite number")
        self._heard += len(samples)
        self._run(self._resampler.step(samples))

    @property
    def partial(self) -> str:
        """The text so far, of the first pass; its end may still change."""
        if self._result is not None:
            return self._result.text
        return self._text(self.recognizer.search.partial(self._search)[0])

    def finish(self) -> Result:
        """The end of the audio: the final text.  A second call returns the same."""
        if self._result is None:
            self._run(self._resampler.finish())
            stride = self.recognizer.model.acoustic.stride
            if len(self._rest):  # the last frame is filled with silence, so that no sample goes unheard
                self._run(np.zeros(stride - len(self._rest), np.float32))
            with torch.inference_mode():
                frames, lengths = self.recognizer.model.acoustic.finish(self._acoustic)
                self._search = self.recognizer.search.step(frames, lengths, self._search)
            self._search = self.recognizer.search.finish(self._search)
            best = self.recognizer.search.hypotheses(self._search)[0][0]
            words = words_of(best, self.recognizer.tokenizer, self.recognizer.frame)
            self._result = Result(self._text(best), words, self._heard / self._rate)
            self._acoustic = self._search = None  # a finished session holds no state
        return self._result

    def _run(self, samples: np.ndarray) -> None:
        """Through the model: whole encoder frames of the audio, at most MAX_CHUNK of it at a time."""
        stride = self.recognizer.model.acoustic.stride
        self._rest = np.concatenate([self._rest, samples])
        whole = len(self._rest) // stride * stride
        most = int(MAX_CHUNK * self.recognizer.rate) // stride * stride
        with torch.inference_mode():
            for begin in range(0, whole, most):
                chunk = torch.from_numpy(self._rest[begin : min(begin + most, whole)]).to(self._device, self._dtype)
                lengths = torch.tensor([len(chunk)], device=self._device)
                frames, lengths, self._acoustic = self.recognizer.model.acoustic.step(
                    chunk[None, :, None], lengths, self._acoustic
                )
                if frames.shape[1]:
                    self._search = self.recognizer.search.step(frames, lengths, self._search)
        self._rest = self._rest[whole:]

    def _text(self, hypothesis: Hypothesis) -> str:
        return self.recognizer.tokenizer.decode(hypothesis.tokens)


def words_of(hypothesis: Hypothesis, tokenizer: Tokenizer, frame: float) -> tuple[Word, ...]:
    """The words of a hypothesis; a piece that begins with U+2581 begins a word.  `frame`: seconds of an encoder frame."""
    words: list[Word] = []
    for piece, time in zip(tokenizer.pieces(hypothesis.tokens), hypothesis.times, strict=True):
        start, end, text = time * frame, (time + 1) * frame, piece.removeprefix("\u2581")
        if (piece.startswith("\u2581") or not words) and (not words or words[-1].text):
            words.append(Word(text, start, end))
        elif words[-1].text:
            words[-1] = dataclasses.replace(words[-1], text=words[-1].text + text, end=end)
        else:  # a lone space came before: the word begins here
            words[-1] = Word(text, start, end)
    return tuple(Word(w.text, round(w.start, 3), round(w.end, 3)) for w in words if w.text)


def box_folder() -> Path:
    """The model in the box."""
    folder = Path(str(resources.files("samba_asr"))) / "box" / "digits"
    if not (folder / "config.yaml").is_file():
        raise UserError("this installation carries no model: name one with --model FOLDER (egs/digits/run.sh trains one)")
    return folder
