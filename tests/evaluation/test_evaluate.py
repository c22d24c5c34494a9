"""`samba_asr.evaluate`: a test set in Python, with the numbers that `samba-asr decode` prints."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import soundfile
import torch

import samba_asr
from samba_asr.data.manifest import Utterance, read_manifest
from samba_asr.errors import UserError
from samba_asr.evaluation.streaming_check import in_chunks
from samba_asr.evaluation.testset import frames, hypotheses, recognized, samples
from samba_asr.recognizer import Recognizer
from samba_asr.runtime.latency import OVERLAP
from tests.decode_settings import decoding
from tests.support.decode import run_decode as call
from tests.support.model_folder import make_model
from tests.training.toy import make_corpus


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("evaluate")
    make_corpus(folder)
    make_model(folder / "model")
    return folder


@pytest.fixture(scope="module")
def utterances(place):
    return read_manifest(place / "corpus.jsonl")


@pytest.fixture(scope="module")
def recognizer(place):
    return Recognizer.load(place / "model", device="cpu")


def test_it_gives_what_the_command_writes(place, tmp_path):
    assert call(place, tmp_path) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    found = samba_asr.evaluate(place / "model", place / "corpus.jsonl", device="cpu")
    assert found.scores() == {key: results[key] for key in found.scores()}
    assert found.wer == results["wer"]
    assert found.interval[0] <= found.wer <= found.interval[1]
    lines = (tmp_path / "hyp.txt").read_text().splitlines()
    assert [f"{name} {text}".strip() for name, text in found.texts.items()] == lines
    assert found.rtf == found.seconds / found.audio_seconds > 0
    assert found.audio_seconds == pytest.approx(results["audio_seconds"])
    assert (found.unreadable, found.streaming) == ((), None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.seconds = 0.0


def test_a_recognizer_with_endpoints_and_a_gate_is_evaluated_on_whole_utterances(
    place, recognizer, utterances, tmp_path
):
    quiet = np.random.default_rng(0).normal(scale=1e-3, size=48000).astype(np.float32)
    tone = soundfile.read(utterances[0].audio, dtype="float32")[0]
    soundfile.write(tmp_path / "quiet.wav", np.concatenate([quiet, tone, quiet]), 16000)
    some = [Utterance("quiet", str(tmp_path / "quiet.wav"), "a"), *utterances]
    whole = samba_asr.evaluate(place / "model", some, device="cpu", settings=["decode.runtime.latency_ms=160"]).texts
    for settings in (["decode.vad=energy"], ["decode.endpoint.confidence=1"]):
        settings = ["decode.runtime.latency_ms=160", *settings]
        other = Recognizer.load(place / "model", device="cpu", settings=settings, sure=lambda evidence: 0.5)
        found = samba_asr.evaluate(other, some, streaming_check=True)
        assert (found.differing, found.ties) == ((), ())
        assert found.texts == whole
    assert recognizer.without_endpoints().segmenter.rules is None
    assert recognizer.segmenter.rules is not None


def test_final_texts_of_live_sessions_come_from_larger_blocks(place, utterances):
    def texts(*settings):
        found = samba_asr.evaluate(place / "model", utterances, device="cpu", settings=settings, streaming_check=True)
        assert (found.differing, found.ties) == ((), ())
        return found.texts

    live, overlap = "decode.runtime.latency_ms=80", f"decode.runtime.overlap={OVERLAP}"
    large = texts("decode.runtime.latency_ms=640", overlap)
    assert texts(live, "decode.runtime.final_ms=640") == large != texts(live)
    assert texts("decode.runtime.latency_ms=640", overlap, "decode.runtime.final_ms=640") == large


def test_batches_of_any_size_give_the_same_texts(recognizer, utterances):
    alone = samba_asr.evaluate(recognizer, utterances, batch_seconds=0.1)
    together = samba_asr.evaluate(recognizer, utterances, batch_seconds=60.0)
    assert alone.texts == together.texts
    assert list(together.texts) == [u.id for u in utterances]


def test_rules_for_texts(recognizer, utterances):
    texts = samba_asr.evaluate(recognizer, utterances).texts
    shouted = [dataclasses.replace(u, text=texts[u.id].upper()) for u in utterances]
    assert samba_asr.evaluate(recognizer, shouted).wer > 0
    assert samba_asr.evaluate(recognizer, shouted, normalize="upper").wer == 0


def test_without_texts_there_are_hypotheses_alone(recognizer, utterances):
    found = samba_asr.evaluate(recognizer, [dataclasses.replace(u, text="") for u in utterances])
    assert math.isnan(found.wer)
    assert (found.report, found.interval, found.scores()) == (None, None, {})
    assert len(found.texts) == len(utterances)


def test_what_cannot_be_read(recognizer, utterances, tmp_path):
    bad = Utterance("gone", str(tmp_path / "gone.wav"), "a b", duration=1.0)
    found = samba_asr.evaluate(recognizer, [bad, *utterances[:2]])
    assert found.unreadable == ("gone",)
    assert found.report.missing == ("gone",)
    with pytest.raises(UserError, match="the test set: none of its 1 utterances can be read"):
        samba_asr.evaluate(recognizer, [bad])
    assert [u.id for u, _ in samples([bad, *utterances[:2]], 16000)] == [u.id for u in utterances[:2]]


def test_settings_go_with_a_folder_alone(recognizer, utterances):
    with pytest.raises(UserError, match="a recognizer already has settings"):
        samba_asr.evaluate(recognizer, utterances, settings=["decode.runtime.latency_ms=160"])


def test_sessions_of_utterances(recognizer, utterances):
    found = dict(recognized(recognizer, utterances[:3], 160))
    assert list(found) == utterances[:3]
    assert [r.text for r in found.values()] == [
        recognizer.transcribe(u.audio, latency_ms=160).text for u in utterances[:3]
    ]


def test_the_loops_agree(recognizer, utterances):
    whole = recognizer.without_endpoints()
    batches = frames(whole.runtime, whole.tokenizer, utterances, whole.latency(None), batch_seconds=2.0)
    for batch, found in batches:
        texts = [whole.tokenizer.decode(some[0].tokens) for some in hypotheses(whole, found)]
        assert in_chunks(whole, batch) == texts


def test_the_nbest_of_the_search(place, utterances):
    beam = Recognizer.load(
        place / "model", device="cpu", settings=["decode.search.method=beam", "decode.search.nbest=3"]
    )
    assert beam.decode == decoding("search.method=beam", "search.nbest=3")
    for found in samba_asr.evaluate(beam, utterances[:4]).recognized.values():
        assert 1 <= len(found.nbest) <= 3
        assert found.text == beam.tokenizer.decode(found.nbest[0].tokens)
