"""The messages of `WS /v1/stream`: audio is sent up as binary messages, everything else is JSON with a `type`.

up     start {model, sample_rate, encoding, latency_ms, words, alternatives, text, itn, hotwords}   optional, before any audio
       gap {seconds} | flush {id} | ping | stop
down   ready {session, model, sample_rate, encoding, latency_ms, unusable}
       partial {segment, text, stable, until}   text of the open segment; its beginning `stable` will not change
       final {segment, start, end, until, text, confidence, words}       a finished segment: all audio before `until` is done
                                with text=written also {spoken}, each word has its {spoken} words, and marks and case of a
                                partial's `stable` may change
       quiet {until, withheld}  all audio before `until` is done; since the last message no segment ended, or words were dropped:
                                `withheld` words had too little confidence (decode.endpoint.confidence)
       lag {seconds}            seconds of the client's audio that wait for the model
       flushed {id} | pong | error {code, message, retry_after} | done {seconds}

`UP` and `DOWN` are their types: the service reads with UP, and a test checks all that it sends against DOWN.  `/docs` shows both.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from samba_asr.decoding.transcript import MOST, Segment
from samba_asr.errors import UserError
from samba_asr.session import LONGEST_GAP, Partial

ENCODINGS = {"pcm_s16le": np.dtype("<i2"), "pcm_f32le": np.dtype("<f4")}


class Message(BaseModel):
    """A message of a client; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


Phrase = Annotated[str, Field(max_length=200)]


class AudioFormat(Message):
    model: str = Field(
        default="", max_length=100, description="name of a model from /v1/models; default: the service's first"
    )
    sample_rate: int = Field(default=16000, ge=4000, le=192000, description="samples a second")
    encoding: Literal["pcm_s16le", "pcm_f32le"] = Field(default="pcm_s16le", description="mono, little-endian")
    latency_ms: float | None = Field(
        default=None, gt=0, le=60000, description="a multiple of the model's frame (40 ms); default: the service's"
    )
    words: bool = Field(default=True, description="whether finals have their words")
    alternatives: int = Field(
        default=0, ge=0, le=MOST, description="of each of these, other words that may have been said, at most so many"
    )
    text: Literal["written", "spoken"] = Field(default="spoken", description="written: punctuation, case, digits")
    itn: bool = Field(default=True, description="numbers of the written text in digits")


class Start(AudioFormat):
    """Settings of the session; optional, once, before the first audio."""

    type: Literal["start"] = "start"
    hotwords: (
        Annotated[dict[Phrase, float], Field(max_length=1000)] | Annotated[list[Phrase], Field(max_length=1000)] | None
    ) = Field(default=None, description="phrases to expect, with weights in nats a unit, or without")


class Gap(Message):
    """So much audio is missing here: lost packets, or silence that is not sent."""

    type: Literal["gap"]
    seconds: float = Field(ge=0, le=LONGEST_GAP, allow_inf_nan=False)


class Flush(Message):
    """Make all audio so far final; the session goes on."""

    type: Literal["flush"]
    id: str = Field(default="", max_length=200, description="comes back in `flushed`")


class Ping(Message):
    """Ask for a `pong`."""

    type: Literal["ping"]


class Stop(Message):
    """The audio is over."""

    type: Literal["stop"]


UP = TypeAdapter(Annotated[Start | Gap | Flush | Ping | Stop, Field(discriminator="type")])


class Ready(Message):
    """The session is open."""

    type: Literal["ready"]
    session: str = Field(description="id, also in the service's log")
    model: str
    sample_rate: int
    encoding: str
    latency_ms: float
    unusable: dict[str, str] = Field(description="hotwords that the model cannot write, and why; the others work")


class PartialText(Message):
    """The open segment so far."""

    type: Literal["partial"]
    segment: int = Field(description="its number, from 0")
    text: str
    stable: str = Field(description="the beginning of the text that will not change")
    until: float = Field(description="seconds of audio that went through the model")


class OtherWord(Message):
    """A word that may have been said in place of another."""

    text: str
    confidence: float = Field(description="0 to 1, as that of words")


class WordEntry(Message):
    """A word of a final."""

    word: str
    start: float = Field(description="seconds")
    end: float = Field(description="seconds")
    confidence: float = Field(description="0 to 1; of a calibrated model the probability that the word is right")
    spoken: list[str] | None = Field(default=None, description="of a written word, what was said")
    alternatives: list[OtherWord] | None = Field(
        default=None,
        description="with `alternatives: N`, of models with a language model: at most N, the likeliest first",
    )


class FinalText(Message):
    """A finished segment."""

    type: Literal["final"]
    segment: int
    start: float = Field(description="seconds")
    end: float = Field(description="seconds")
    until: float = Field(description="seconds: all audio before is done")
    text: str
    confidence: float = Field(description="mean of the words'")
    spoken: str | None = Field(default=None, description="of a written text, the words as they were said")
    words: list[WordEntry] = Field(default=[], description="not with `words: false`")


class QuietNotice(Message):
    """All audio before `until` is done and gave no words, or unsure ones."""

    type: Literal["quiet"]
    until: float = Field(description="seconds")
    withheld: int = Field(description="words with too little confidence (decode.endpoint.confidence)")


class LagNotice(Message):
    """Audio waits for the model."""

    type: Literal["lag"]
    seconds: float


class FlushAnswer(Message):
    """All audio from before the flush is done."""

    type: Literal["flushed"]
    id: str


class Pong(Message):
    """Answer to `ping`."""

    type: Literal["pong"]


class ErrorNotice(Message):
    """The session ends, after the finals of all audio received."""

    type: Literal["error"]
    code: Literal["busy", "bad_request", "limit", "idle", "failed", "gone"]
    message: str
    retry_after: int | None = Field(default=None, description="seconds, with `busy`")


class DoneNotice(Message):
    """The last message."""

    type: Literal["done"]
    seconds: float = Field(description="of audio received")


Down = Ready | PartialText | FinalText | QuietNotice | LagNotice | FlushAnswer | Pong | ErrorNotice | DoneNotice
DOWN = TypeAdapter(Annotated[Down, Field(discriminator="type")])


def parse(text: str) -> Start | Gap | Flush | Ping | Stop:
    """Parse a client's message; a UserError says what is wrong with it."""
    try:
        return UP.validate_python(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"message: {where + ': ' if where else ''}{first['msg']}") from None
    except (ValueError, RecursionError):
        raise UserError('message: not JSON; write {"type": "flush"}, or send audio as a binary message') from None


class Samples:
    """Converter of audio bytes, cut anywhere, to float32 samples."""

    def __init__(self, encoding: str):
        self.dtype = ENCODINGS[encoding]
        self._rest = b""

    def read(self, data: bytes) -> np.ndarray:
        data = self._rest + data
        whole = len(data) // self.dtype.itemsize * self.dtype.itemsize
        self._rest = data[whole:]
        samples = np.frombuffer(data[:whole], self.dtype)
        return samples.astype(np.float32) / 32768 if self.dtype.kind == "i" else samples.astype(np.float32)


def partial(event: Partial, number: int) -> dict[str, Any]:
    text, stable = event.written or (event.text, event.stable)
    return {"type": "partial", "segment": number, "text": text, "stable": stable, "until": event.until}


def final(segment: Segment, number: int, words: bool, alternatives: int = 0) -> dict[str, Any]:
    sure = [word.confidence for word in segment.words]
    message: dict[str, Any] = {
        "type": "final",
        "segment": number,
        "start": segment.start,
        "end": segment.end,
        "until": segment.until,
        "text": segment.readable,
        "confidence": round(sum(sure) / len(sure), 4) if sure else 0.0,
    }
    if segment.written:
        message["spoken"] = segment.text
    if words:
        message["words"] = [word.entry(alternatives) for word in (segment.written or segment).words]
    return message


def error(code: str, message: str, retry_after: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "error", "code": code, "message": message}
    return found if retry_after is None else {**found, "retry_after": retry_after}
