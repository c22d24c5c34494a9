"""Recognizer and Stream: one session of any chunks gives what the whole file gives, and bad audio is refused by name."""

from __future__ import annotations

import dataclasses
import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from samba_asr.audio.source import Truncated
from samba_asr.config import VadConfig, load
from samba_asr.decoding.align import Span
from samba_asr.decoding.transcript import words_of
from samba_asr.errors import UserError
from samba_asr.models.box import box_folder
from samba_asr.models.folder import LoadedModel
from samba_asr.recognizer import Recognizer
from samba_asr.session import Partial
from samba_asr.stream import Stream
from tests.audio.sounds import encode
from tests.support.sound import RATE, noise


def said(stream: Stream, samples: np.ndarray, sizes) -> str:
    at = 0
    for size in sizes:
        stream.accept(samples[at : at + size])
        at += size
    stream.accept(samples[at:])
    return stream.finish().text


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(0, 9000), max_size=12), latency=st.sampled_from([40, 320, 640, None]))
def test_any_chunks_give_the_text_of_the_whole(recognizer, sizes, latency):
    samples = noise(3.07)
    whole = said(recognizer.stream(latency_ms=latency), samples, [len(samples)])
    assert len(whole) > 5
    assert said(recognizer.stream(latency_ms=latency), samples, sizes) == whole


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_other_rates_are_resampled_alike_in_chunks_and_whole(recognizer, rate):
    samples = noise(2.0, rate)
    whole = said(recognizer.stream(rate, latency_ms=320), samples, [len(samples)])
    assert said(recognizer.stream(rate, latency_ms=320), samples, [100, 7777, 1, 0, 12345]) == whole != ""


def test_a_file_gives_the_text_of_a_stream_whatever_the_chunk(recognizer):
    samples = noise(2.5)
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    results = [recognizer.transcribe(file.getvalue(), latency_ms=320, chunk_ms=chunk) for chunk in (None, 17, 400)]
    assert len({r.text for r in results}) == 1
    assert results[0].text == said(recognizer.stream(latency_ms=320), samples, [])
    assert results[0].duration == pytest.approx(2.5)


def test_partial_text_grows_while_audio_arrives_and_ends_as_the_final(recognizer):
    stream, seen = recognizer.stream(latency_ms=40), []
    for piece in np.array_split(noise(2.0), 20):
        stream.accept(piece)
        seen.append(stream.partial)
        assert stream.partial.startswith(stream.stable)
    final = stream.finish()
    assert final.text.startswith(seen[-1])
    assert (stream.segments, stream.partial) == (final.segments, "")
    assert len(set(seen)) > 3


@pytest.mark.parametrize("samples", [0, 1, 639])
def test_next_to_no_audio_is_no_error(recognizer, samples):
    stream = recognizer.stream()
    stream.accept(np.zeros(samples, np.float32))
    assert stream.finish().duration == pytest.approx(samples / RATE)


def test_a_sample_that_is_not_finite_is_named_and_nothing_of_its_chunk_is_heard(recognizer):
    stream = recognizer.stream(latency_ms=40)
    stream.accept(noise(1.0))
    before, bad = stream.partial, noise(0.5)
    bad[100] = np.nan
    with pytest.raises(UserError, match="sample 16100 "):
        stream.accept(bad)
    assert stream.partial == before
    stream.accept(noise(0.5))  # the session lives on
    assert stream.finish().duration == pytest.approx(1.5)


@pytest.mark.parametrize("latency", [0, 50, 39, 100000, -40])
def test_a_latency_that_no_block_has_is_refused(recognizer, latency):
    with pytest.raises(UserError, match="multiple of 40 ms, from 40 to 2000"):
        recognizer.stream(latency_ms=latency)


def test_a_finished_session_takes_no_more(recognizer):
    stream = recognizer.stream()
    assert stream.finish() is stream.finish()
    with pytest.raises(RuntimeError, match="after finish"):
        stream.accept(noise(0.1))


def test_words_begin_where_their_first_token_does(recognizer):
    tokenizer = recognizer.tokenizer
    tokens = tuple(tokenizer.encode("AB  CAD"))
    words = words_of(tokens, [Span(at, at + 1, -0.1) for at in range(10, 10 + len(tokens))], tokenizer, 0.04)
    assert [w.text for w in words] == ["AB", "CAD"]
    assert words[0].start == pytest.approx(0.4)
    assert words[0].end <= words[1].start < words[1].end


# --- voice activity


def gated(recognizer: Recognizer) -> Recognizer:
    decode = dataclasses.replace(recognizer.decode, vad=VadConfig("energy"))
    return Recognizer(LoadedModel(recognizer.model, recognizer.tokenizer, recognizer.config), decode)


@settings(max_examples=8, deadline=None)
@given(sizes=st.lists(st.integers(0, 60000), max_size=6), rate=st.sampled_from([16000, 44100]))
def test_behind_a_gate_any_chunks_give_the_text_of_the_whole(recognizer, sizes, rate):
    silence = np.zeros(3 * rate, np.float32)
    samples = np.concatenate([silence, noise(1.5, rate), silence, noise(1.0, rate, 1)])
    behind = gated(recognizer)
    whole = behind.stream(rate, latency_ms=320)
    whole.accept(samples)
    one, pieces = whole.finish(), behind.stream(rate, latency_ms=320)
    assert said(pieces, samples, sizes) == one.text
    assert pieces.finish() == one
    assert len(one.segments) == 2
    assert one.duration == pytest.approx(8.5)
    for segment, (begin, end) in zip(one.segments, [(3.0, 4.5), (7.5, 8.5)], strict=True):
        assert begin - 0.5 < segment.start < segment.end < end + 1.7


def test_behind_a_gate_silence_costs_nothing(recognizer, monkeypatch):
    behind = gated(recognizer)
    monkeypatch.setattr(behind.runtime, "start", None)  # whoever begins fails
    stream = behind.stream()
    stream.accept(np.zeros(50000, np.float32))
    assert stream.finish().segments == ()


def test_a_gate_that_is_not_known_is_refused(recognizer):
    decode = dataclasses.replace(recognizer.decode, vad=VadConfig("webrtc"))
    with pytest.raises(UserError, match="write energy or silero"):
        Recognizer(LoadedModel(recognizer.model, recognizer.tokenizer, recognizer.config), decode)


# --- a known text


def test_its_own_transcript_lies_where_it_was_heard(recognizer, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(4.0), RATE, subtype="FLOAT")
    heard = recognizer.transcribe(tmp_path / "a.wav")
    aligned = recognizer.align(tmp_path / "a.wav", heard.text)
    assert (aligned.text, aligned.duration) == (heard.text, heard.duration)
    assert [(w.text, w.start) for w in aligned.words] == [(w.text, w.start) for w in heard.words]
    assert all(0 < w.confidence <= 1 for w in aligned.words)
    assert all(a.end <= b.start for a, b in itertools.pairwise(aligned.words))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ", "the text to align is empty"),
        ("A BAD dab 7 zoo", "cannot write '7', 'zoo'"),
        ("ABACABA" * 50, "takes at least .* frames, the audio has 25"),
    ],
)
def test_a_text_that_cannot_be_aligned_is_refused(recognizer, tmp_path, text, message):
    soundfile.write(tmp_path / "a.wav", noise(1.0), RATE, subtype="FLOAT")
    with pytest.raises(UserError, match=message):
        recognizer.align(tmp_path / "a.wav", text)


def test_a_model_by_its_folder_or_its_name(tmp_path):
    assert box_folder(tmp_path) == tmp_path
    assert box_folder(tmp_path / "nowhere") == tmp_path / "nowhere"  # load_model says what is wrong
    with pytest.raises(UserError, match="neither a folder nor a shipped model"):
        box_folder("klingon")
    for folder in box_folder().parent.iterdir():
        assert box_folder(folder.name) == folder


def test_of_a_file_that_is_cut_the_text_of_what_came_before_comes_with_the_error(recognizer):
    file = io.BytesIO()
    soundfile.write(file, noise(4.0), RATE, format="WAV", subtype="PCM_16")
    cut = file.getvalue()[: 44 + 2 * 2 * RATE]
    with pytest.raises(Truncated, match=r"2\.00 s were readable") as raised:
        recognizer.transcribe(cut, latency_ms=320)
    assert raised.value.result.duration == pytest.approx(2.0)
    assert raised.value.result.text == said(
        recognizer.stream(latency_ms=320), np.round(noise(4.0) * 32768)[: 2 * RATE].astype(np.float32) / 32768, []
    )


@pytest.mark.parametrize("rate", [0, -8000, 3.5, float("nan")])
def test_a_rate_that_no_audio_has_is_refused_everywhere(recognizer, rate):
    samples = noise(0.5)
    for call in (
        lambda: recognizer.session(rate),
        lambda: recognizer.stream(rate),
        lambda: recognizer.recognize(samples, rate=rate),
        lambda: recognizer.transcribe(samples, rate=rate),
        lambda: list(recognizer.listen(iter([]), rate=rate)),
    ):
        with pytest.raises(UserError, match=r"rate=.*: give samples per second"):
            call()


@pytest.mark.parametrize(
    "source", [5, None, {"array": noise(0.1), "sampling_rate": RATE}, (noise(0.1), RATE), (RATE, noise(0.1))], ids=repr
)
def test_what_is_no_audio_is_refused_and_never_empty(recognizer, source):
    with pytest.raises(UserError, match=r"no audio is in this|give them apart"):
        recognizer.transcribe(source)


def test_the_bytes_of_a_file_come_in_any_container(recognizer):
    data = encode(noise(1.0), rate=RATE)
    want = recognizer.transcribe(data)
    assert want.duration == 1.0
    for same in (bytearray(data), memoryview(data)):
        assert recognizer.transcribe(same) == want
        assert [found.result for found in recognizer.transcribe_many([same])] == [want]


@pytest.mark.parametrize("files", ["talk.wav", Path("talk.wav"), b"RIFF"])
def test_one_file_is_no_list_of_files(recognizer, files):
    with pytest.raises(UserError, match="give a list of files"):
        recognizer.transcribe_many(files)


def test_one_hotword_may_be_a_string(recognizer):
    beam = Recognizer(recognizer._loaded, load([], ["decode.search.method=beam"]).decode)
    one = beam.hotwords("CAB DAB")
    assert one.words == beam.hotwords(["CAB DAB"]).words == beam.hotwords(iter(["CAB DAB"])).words
    assert set(one.words) == {"CAB", "DAB"}
    for wrong in (5, [1, 2], b"CAB", {3: 1.0}, [None]):
        with pytest.raises(UserError, match=r"hotwords=.*: give a phrase, a list of phrases, or"):
            beam.hotwords(wrong)


def test_a_name_in_place_of_a_loaded_model_is_refused_with_the_way_to_load_it():
    with pytest.raises(UserError, match=r"Recognizer\('english'\): .*call Recognizer\.load"):
        Recognizer("english")  # pyright: ignore[reportArgumentType]


def test_listening_to_a_file_reports_partials_at_the_latency(recognizer):
    """So a file shows how its text grows, as a microphone would, unless the caller chooses the pieces."""
    seen, whole, file = [], [], io.BytesIO()
    soundfile.write(file, noise(3.0), RATE, format="WAV", subtype="FLOAT")
    events = list(recognizer.listen(file.getvalue(), latency_ms=320, on_block=seen.append))
    assert len(seen) > 8
    assert len([event for event in events if isinstance(event, Partial)]) > 3
    list(recognizer.listen(file.getvalue(), latency_ms=320, chunk_ms=3000, on_block=whole.append))
    assert len(whole) == 1
