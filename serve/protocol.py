"""The messages of `WS /v1/stream`: audio is sent up as binary messages, everything else is JSON with a `type`.

up     start {model, sample_rate, encoding, latency_ms, words, alternatives, text, itn, turns, eager_ms, end_ms, hotwords}
                                optional, before the first audio
       gap {seconds} | flush {id} | ping | stop
down   ready {session, model, sample_rate, encoding, latency_ms, unusable}
       partial {segment, text, stable, until}   text of the open segment; no later partial changes its beginning `stable`;
                                the final text may differ from it
       final {segment, start, end, until, text, confidence, words}       a finished segment: all audio before `until` is done
                                with text=written also {spoken}, each word has its {spoken} words, and marks and case of a
                                partial's `stable` may change
       quiet {until, withheld}  all audio before `until` is done; since the last message no segment ended, or words were dropped:
                                `withheld` words had too little confidence (decode.endpoint.confidence)
       with turns=true also
       speech_started {at}      a turn begins
       eager_end {segment, ...} the turn may be over; the fields are those of a final, whose text may differ
       turn_resumed {at}        it was not: the last eager_end is void
       turn_ended {at, until}   the turn is over; its finals came before
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
from samba_asr.decoding.turns import LONGEST, EagerEnd, Signal, SpeechStarted, TurnEnded, TurnResumed, TurnRules
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
    turns: bool = Field(default=False, description="whether to report turns: their beginning, eager ends and end")
    eager_ms: float | None = Field(
        default=None,
        gt=0,
        le=1000 * LONGEST,
        description="silence after words that makes an `eager_end`, with `turns`; default: none is reported",
    )
    end_ms: float | None = Field(
        default=None,
        gt=0,
        le=1000 * LONGEST,
        description="silence after words that ends a turn and its segment, with `turns`; default: decode.endpoint.pause",
    )

    @property
    def rules(self) -> TurnRules | None:
        """Rules of turns in seconds.  UserError for silences of a session that does not report turns."""
        given = {"eager": self.eager_ms, "end": self.end_ms}
        seconds = {name: ms / 1000 for name, ms in given.items() if ms is not None}
        if seconds and not self.turns:
            raise UserError("eager_ms and end_ms are settings of turns: add turns=true")
        return TurnRules(**seconds) if self.turns else None


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
    stable: str = Field(
        description="the beginning of the text that no later partial changes; the final text may differ"
    )
    until: float = Field(description="seconds of audio that went through the model")
    turn_end: float | None = Field(default=None, description="with `turns`: the probability that the turn is over")


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


class SegmentText(Message):
    segment: int
    start: float = Field(description="seconds")
    end: float = Field(description="seconds")
    until: float = Field(description="seconds: all audio before is done")
    text: str
    confidence: float = Field(description="mean of the words'")
    spoken: str | None = Field(default=None, description="of a written text, the words as they were said")
    words: list[WordEntry] = Field(default=[], description="not with `words: false`")


class FinalText(SegmentText):
    """A finished segment."""

    type: Literal["final"]


class SpeechStartedNotice(Message):
    """A turn begins; only with `turns`, as the next three."""

    type: Literal["speech_started"]
    at: float = Field(description="seconds: its first sound")


class EagerEndText(SegmentText):
    """The turn may be over; the open segment as it is then.  A `final` or a `turn_resumed` follows."""

    type: Literal["eager_end"]


class TurnResumedNotice(Message):
    """Speech goes on after an `eager_end`, which is void."""

    type: Literal["turn_resumed"]
    at: float = Field(description="seconds")


class TurnEndedNotice(Message):
    """The turn is over, and its finals came before; a turn that was a noise has none."""

    type: Literal["turn_ended"]
    at: float = Field(description="seconds: its last sound")
    until: float = Field(description="seconds: where its end became known")


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


Turn = SpeechStartedNotice | EagerEndText | TurnResumedNotice | TurnEndedNotice
Down = Ready | PartialText | FinalText | Turn | QuietNotice | LagNotice | FlushAnswer | Pong | ErrorNotice | DoneNotice
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
    message = {"type": "partial", "segment": number, "text": text, "stable": stable, "until": event.until}
    return message if event.turn_end is None else {**message, "turn_end": event.turn_end}


def turn(event: Signal, number: int, words: bool) -> dict[str, Any]:
    """Make the message of an event of turns.  number: of the open segment."""
    match event:
        case SpeechStarted(at):
            return {"type": "speech_started", "at": at}
        case EagerEnd(segment):
            return final(segment, number, words, kind="eager_end")
        case TurnResumed(at):
            return {"type": "turn_resumed", "at": at}
        case TurnEnded(at, until):
            return {"type": "turn_ended", "at": at, "until": until}


def final(segment: Segment, number: int, words: bool, alternatives: int = 0, kind: str = "final") -> dict[str, Any]:
    sure = [word.confidence for word in segment.words]
    message: dict[str, Any] = {
        "type": kind,
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
