"""`samba-asr decode`, with the real model at its smallest, untrained: its words mean nothing, but must be the same."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shutil

import numpy as np
import pytest
import soundfile
import torch

from samba_asr.commands import score
from samba_asr.data.manifest import Utterance, read_manifest, write_manifest
from samba_asr.errors import UserError
from samba_asr.models.acoustic import AcousticModel
from samba_asr.models.folder import load_model
from samba_asr.training.evaluate import greedy
from tests.support.decode import run_decode as call
from tests.support.lm import equally_likely, short_words
from tests.support.model_folder import make_model
from tests.training.toy import TOKENIZER, make_corpus


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("decode")
    make_corpus(folder)
    make_model(folder / "model", "model.decoder.layers=1")
    make_model(folder / "ctc")
    return folder


def lines(path) -> list[str]:
    return path.read_text().splitlines()


def test_it_writes_what_the_model_heard_and_how_well(place, tmp_path, capsys):
    assert call(place, tmp_path) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("%WER ")
    assert out[2] == "Scored 12 sentences, 0 not present in hyp."
    assert out[3].startswith("95 % interval [ ")
    assert out[4].startswith("real-time factor ")
    assert {p.name for p in tmp_path.iterdir()} == {
        "hyp.txt",
        "ref.txt",
        "hyp.trn",
        "ref.trn",
        "wer.txt",
        "alignments.txt",
        "confusions.txt",
        "results.json",
    }
    results = json.loads((tmp_path / "results.json").read_text())
    assert out[0].startswith(f"%WER {results['wer']:.2f} [ {results['errors']} / {results['words']}, ")
    assert results["interval"][0] <= results["wer"] <= results["interval"][1]
    assert results["decode"]["search"]["method"] == "greedy"
    assert results["rtf"] == pytest.approx(results["seconds"] / results["audio_seconds"])
    assert results["unreadable"] == []


def test_lattices_are_written_and_their_best_paths_counted(place, tmp_path, capsys):
    (place / "lm.arpa").write_text(equally_likely(short_words("ab", 3)))
    search = ["decode.search.method=beam", f"decode.lm={place / 'lm.arpa'}"]
    assert call(place, tmp_path, "--lattice", "json", *search) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("word lattices: ")]
    utterances = read_manifest(place / "corpus.jsonl")
    files = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "lattices").iterdir()}
    assert set(files) == {u.id for u in utterances}
    texts = {name: text.split() for name, _, text in (line.partition(" ") for line in lines(tmp_path / "hyp.txt"))}
    for name, lattice in files.items():
        assert set(texts[name]) <= {arc["word"] for arc in lattice["arcs"]}
    wer = json.loads((tmp_path / "results.json").read_text())["wer"]
    assert float(line.split(", ")[1].split()[0]) <= wer + 0.005
    with pytest.raises(UserError, match=r"keeps no word lattices.*decode.search.lattice"):
        call(place, tmp_path, "--lattice", "htk")


def test_scores_go_into_the_model_folder_when_they_are_to_be_recorded(place, tmp_path):
    model = shutil.copytree(place / "model", tmp_path / "model")
    call(place, tmp_path / "a", model=model)
    assert json.loads((model / "results.json").read_text()) == {}
    call(place, tmp_path / "b", "--record", "test", "decode.block=4", model=model)
    results = json.loads((tmp_path / "b/results.json").read_text())
    recorded = json.loads((model / "results.json").read_text())["test"]
    assert recorded["data"] == "corpus"
    assert recorded["decode"]["runtime"]["latency_ms"] == 160
    assert recorded["wer"] == results["wer"]
    assert str(tmp_path) not in json.dumps(recorded)


def test_hypotheses_are_those_of_the_model_in_the_order_of_the_manifest(place, tmp_path):
    call(place, tmp_path)
    model = load_model(place / "model").model
    expected = []
    for u in read_manifest(place / "corpus.jsonl"):
        audio = torch.from_numpy(soundfile.read(u.audio, dtype="float32")[0])[None]
        with torch.inference_mode():
            (text,) = greedy(*model.log_probs(audio, torch.tensor([audio.shape[1]])), TOKENIZER)
        expected.append(f"{u.id} {text}".strip())
    assert lines(tmp_path / "hyp.txt") == expected
    assert len(set(expected)) > 3


def test_score_reads_what_decode_wrote(place, tmp_path, capsys):
    call(place, tmp_path)
    first = capsys.readouterr().out.splitlines()[:3]
    parser = argparse.ArgumentParser()
    score.add_parser(parser.add_subparsers())
    args = parser.parse_args(["score", "--ref", f"{tmp_path}/ref.txt", "--hyp", f"{tmp_path}/hyp.txt"])
    args.run(args)
    assert capsys.readouterr().out.splitlines()[:3] == first


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["decode.block=4"],
        ["decode.block=1"],
        ["decode.search.method=beam", "decode.search.beam=4", "decode.search.rescore=0.5", "decode.block=8"],
    ],
)
def test_chunks_of_random_sizes_give_the_same_hypotheses(place, tmp_path, capsys, settings):
    assert call(place, tmp_path, "--streaming-check", *settings) == 0
    assert "streaming at random chunk sizes: 0 of 12 hypotheses differ" in capsys.readouterr().out
    assert json.loads((tmp_path / "results.json").read_text())["streaming_check"] == {
        "utterances": 12,
        "differing": [],
        "ties": [],
    }


def test_a_model_that_breaks_the_law_is_found_out(place, tmp_path, capsys, caplog, monkeypatch):
    step = AcousticModel.step

    def forgetful(self, x, lengths, state, *gaps):
        return step(self, x, lengths, self.init_state(len(lengths), block=4, dtype=x.dtype))

    monkeypatch.setattr(AcousticModel, "step", forgetful)
    with caplog.at_level(logging.WARNING):
        assert call(place, tmp_path, "--streaming-check", "decode.block=4") == 1
    assert " 0 of 12 hypotheses differ" not in capsys.readouterr().out
    assert "from chunks" in caplog.text
    assert json.loads((tmp_path / "results.json").read_text())["streaming_check"]["differing"]


def test_a_tie_that_rounding_decides_is_named_and_no_fault(place, tmp_path, capsys, monkeypatch):
    step = AcousticModel.step

    def rounded(self, x, lengths, state, *gaps):  # as if chunks of a float32 model came out a little different
        found = step(self, x, lengths, state)
        return found if x.dtype == torch.float64 else found._replace(x=-found.x)

    monkeypatch.setattr(AcousticModel, "step", rounded)
    assert call(place, tmp_path, "--streaming-check", "decode.block=4") == 0
    found = json.loads((tmp_path / "results.json").read_text())["streaming_check"]
    assert found["ties"]
    assert not found["differing"]
    assert f"{len(found['ties'])} more differ in float32 but not in float64" in capsys.readouterr().out


def test_the_second_pass_and_the_block_change_what_is_heard(place, tmp_path):
    beam = ["decode.search.method=beam", "decode.search.beam=4"]
    for name, settings in {"a": beam, "b": [*beam, "decode.search.rescore=1"], "c": [*beam, "decode.block=1"]}.items():
        assert call(place, tmp_path / name, *settings) == 0
    a, b, c = (lines(tmp_path / name / "hyp.txt") for name in "abc")
    assert a != b
    assert a != c


def test_the_best_of_nbest_is_the_hypothesis(place, tmp_path):
    call(
        place, tmp_path, "--nbest", 3, "decode.search.method=beam", "decode.search.beam=4", "decode.search.rescore=0.4"
    )
    entries = [json.loads(line) for line in lines(tmp_path / "nbest.jsonl")]
    assert [f"{e['id']} {e['nbest'][0]['text']}".strip() for e in entries] == lines(tmp_path / "hyp.txt")
    for entry in entries:
        scores, shares = ([h[key] for h in entry["nbest"]] for key in ("score", "share"))
        assert len(scores) <= 3
        assert scores == sorted(scores, reverse=True)
        assert sum(shares) == pytest.approx(1, abs=1e-3)
        for h in entry["nbest"]:
            assert "".join(word["word"] for word in h["words"]) == h["text"].replace(" ", "").replace("⁇", "<unk>")
            assert [word["start"] for word in h["words"]] == sorted(word["start"] for word in h["words"])


def test_what_cannot_be_read_is_told_and_counts_as_deleted(place, tmp_path, capsys, caplog):
    (tmp_path / "noise.wav").write_bytes(b"not audio")
    good = read_manifest(place / "corpus.jsonl")[:3]
    bad = [
        Utterance("gone", str(tmp_path / "gone.wav"), "a b", duration=1.0),
        Utterance("noise", str(tmp_path / "noise.wav"), "b"),
    ]
    write_manifest(tmp_path / "mixed.jsonl", [bad[0], *good, bad[1]])
    with caplog.at_level(logging.WARNING):
        assert call(place, tmp_path / "out", data=tmp_path / "mixed.jsonl") == 1
    out = capsys.readouterr().out
    assert "gone.wav" in caplog.text
    assert "noise.wav" in caplog.text
    assert "Scored 5 sentences, 2 not present in hyp." in out
    assert "not readable, counted as deleted: 2 of 5 utterances (gone, noise)" in out
    assert [line.split()[0] for line in lines(tmp_path / "out/hyp.txt")] == [u.id for u in good]
    write_manifest(tmp_path / "bad.jsonl", bad)
    with pytest.raises(UserError, match="none of its 2 utterances can be read"):
        call(place, tmp_path / "out", data=tmp_path / "bad.jsonl")


def test_other_rates_and_a_single_sample(place, tmp_path):
    x = np.random.default_rng(1).normal(scale=0.1, size=24000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([x, x], axis=1), 48000, subtype="PCM_24")
    soundfile.write(tmp_path / "one.wav", x[:1], 16000)
    write_manifest(
        tmp_path / "odd.jsonl",
        [Utterance("stereo", str(tmp_path / "stereo.wav"), "a"), Utterance("one", str(tmp_path / "one.wav"), "b")],
    )
    assert call(place, tmp_path / "out", "--streaming-check", data=tmp_path / "odd.jsonl") == 0
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["audio_seconds"] == pytest.approx(0.5, abs=0.001)
    assert lines(tmp_path / "out/hyp.txt")[1] == "one"


def test_without_texts_there_is_no_score(place, tmp_path, capsys):
    bare = [dataclasses.replace(u, text="") for u in read_manifest(place / "corpus.jsonl")]
    write_manifest(tmp_path / "bare.jsonl", bare)
    assert call(place, tmp_path / "out", data=tmp_path / "bare.jsonl") == 0
    assert "has no texts, so there is no score" in capsys.readouterr().out
    assert "wer" not in json.loads((tmp_path / "out/results.json").read_text())
    assert len(lines(tmp_path / "out/hyp.txt")) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["decode.search.rescore=0.3"], "use decode.search.method=beam"),
        (["decode.search.method=beam", "decode.search.rescore=2"], "decode.search.rescore=2"),
        (["decode.search.method=best"], "there are: beam, decoder, greedy"),
        (["decode.search.method=beam", "decode.search.nbest=9"], "1 .. decode.search.beam=8"),
        (["decode.block=-3"], "decode.block=-3: give encoder frames"),
        (["decode.runtime.latency_ms=50"], "multiple of 40 ms"),
        (["decode.beem=4"], "did you mean decode.search.beam"),
        (["model.d_model=32"], "override only decode.*"),
        (["--device", "tpu9"], "'tpu9'"),
    ],
)
def test_what_the_user_can_mend_is_a_user_error(place, tmp_path, settings, message):
    with pytest.raises(UserError) as error:
        call(place, tmp_path, *settings)
    assert message in str(error.value)


def test_folders_that_are_no_models(place, tmp_path):
    with pytest.raises(UserError, match=r"model\.decoder\.layers=0"):
        call(place, tmp_path / "out", "decode.search.method=beam", "decode.search.rescore=0.5", model="ctc")
    with pytest.raises(UserError, match="is not a model folder"):
        call(place, tmp_path / "out", model=tmp_path)
    with pytest.raises(UserError, match="neither a folder nor a shipped model"):
        call(place, tmp_path / "out", model="french")
    (tmp_path / "epoch-001.pt").touch()
    with pytest.raises(UserError, match="samba-asr average --exp"):
        call(place, tmp_path / "out", model=tmp_path)


def test_manifests_that_cannot_be_decoded(place, tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="empty"):
        call(place, tmp_path / "out", data=tmp_path / "empty.jsonl")
    twice = read_manifest(place / "corpus.jsonl")[:1] * 2
    write_manifest(tmp_path / "twice.jsonl", twice)
    with pytest.raises(UserError, match="occurs 2 times"):
        call(place, tmp_path / "out", data=tmp_path / "twice.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make this folder"):
        call(place, tmp_path / "file")
