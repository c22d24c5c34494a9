"""Settings of version 1: they work under their old names for one version, and a warning names the new ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from samba_asr.config import PretrainConfig, RuntimeConfig, SearchConfig, SearchLmConfig, load
from samba_asr.config.renamed import RENAMED, table
from samba_asr.errors import UserError
from samba_asr.models.folder import load_model
from samba_asr.recognizer import Recognizer
from tests.support.logs import ours

VERSION1 = Path(__file__).parent / "models" / "version1"
CONF = Path(__file__).parents[1] / "conf"


def test_old_names_in_overrides_mean_the_new_ones_and_one_warning_says_so(caplog):
    decode = load([], ["decode.method=beam", "decode.beam=32", "decode.lm_weight=0.7", "decode.overlap=0.25"]).decode
    assert decode.search == SearchConfig(method="beam", beam=32)
    assert decode.lm == SearchLmConfig(weight=0.7)
    assert decode.runtime == RuntimeConfig(overlap=0.25)
    (warning,) = caplog.messages
    assert "decode.beam is decode.search.beam" in warning
    assert "decode.lm_weight is decode.lm.weight" in warning


def test_old_names_in_a_file_too(tmp_path, caplog):
    (tmp_path / "old.yaml").write_text("decode: {method: beam, nbest: 4, lm: books.arpa, neural_weight: 0.2}")
    decode = load([tmp_path / "old.yaml"], ["decode.search.nbest=3"]).decode
    assert (decode.search.method, decode.search.nbest) == ("beam", 3)
    assert (decode.lm.path, decode.lm.neural_weight) == ("books.arpa", 0.2)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize(
    ("frames", "subsampling", "ms"), [(16, 4, 640.0), (16, 8, 1280.0), (0, 4, 40.0), (-1, 4, None)]
)
def test_blocks_in_frames_become_a_latency_in_ms(frames, subsampling, ms):
    config = load([], [f"model.subsampling={subsampling}", f"decode.block={frames}"])
    assert config.decode.runtime.latency_ms == ms


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (["decode.beam=8", "decode.search.beam=16"], ["decode.beam", "decode.search.beam"]),
        (["decode.block=8", "decode.runtime.latency_ms=320"], ["decode.block", "decode.runtime.latency_ms"]),
        (["decode.lm=a.arpa", "decode.lm.path=b.arpa"], ["decode.lm", "decode.lm.path"]),
    ],
)
def test_an_old_name_and_its_new_one_are_an_error(settings, names):
    for some in (settings, settings[::-1]):
        with pytest.raises(UserError) as error:
            load([], some)
        assert all(name in str(error.value) for name in names)


def test_an_old_name_and_its_new_one_in_a_file_are_an_error(tmp_path):
    (tmp_path / "both.yaml").write_text("decode: {beam: 8, search: {beam: 16}}")
    with pytest.raises(UserError, match=r"both.yaml: decode.search.beam and its old name decode.beam are both given"):
        load([tmp_path / "both.yaml"])


def test_the_old_name_of_the_pretraining_objective(tmp_path, caplog):
    assert load([], ["pretrain.name=masked"]).pretrain.objective == "masked"
    assert "pretrain.name is pretrain.objective" in caplog.text
    caplog.clear()
    (tmp_path / "config.yaml").write_text("version: 2\npretrain: {name: masked, span: 7}")
    assert load(folder=tmp_path).pretrain == PretrainConfig(objective="masked", span=7)
    assert not ours(caplog)  # a saved tree is no user's choice
    for settings in (["pretrain.name=a", "pretrain.objective=b"], ["pretrain.objective=b", "pretrain.name=a"]):
        with pytest.raises(UserError, match=r"pretrain\.name is the old name of pretrain\.objective"):
            load([], settings)


@pytest.mark.parametrize("off", ["none", ""])
def test_a_section_can_be_switched_off_as_a_whole(off):
    decode = load(
        [], ["decode.lm=a.arpa", "decode.lm.words=w", "decode.vad=energy", f"decode.lm={off}", f"decode.vad={off}"]
    ).decode
    assert decode == load().decode


def test_the_nearest_name_is_found_in_the_section_where_it_is():
    with pytest.raises(UserError, match=r"unknown key decode.bem \(did you mean decode.search.beam\?\)"):
        load([], ["decode.bem=3"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("decode.runtime.overlap=1", "from 0 to less than 1"),
        ("decode.runtime.latency_ms=0", "above 0"),
        ("decode.search.beam=0", "give 1 or more"),
        ("decode.search.prune=-1", "more than 0"),
        ("decode.search.rescore=2", "0 .* to 1"),
        ("decode.lm.words=w.txt", "needs a language model"),
        ("decode.lm.neural_weight=11", "give a weight from 0 to 10"),
        ("decode.endpoint.longest=1", "from 2 to 120"),
        ("decode.endpoint.confidence=2", "from 0"),
        ("model.vocab_size=7", "follows from the tokenizer"),
    ],
)
def test_what_a_section_cannot_be_is_refused_by_its_key(setting, message):
    with pytest.raises(UserError, match=rf"{setting.split('=')[0]}.*{message}"):
        load([], [setting])


def test_a_mixer_has_its_own_fields_and_what_others_share_stays():
    assert load([], ["model.mixer.d_state=7", "model.mixer.name=mamba"]).model.mixer.d_state == 7
    with pytest.raises(UserError, match=r"unknown key model\.mixer\.headdim"):
        load([], ["model.mixer.name=mamba", "model.mixer.headdim=8"])
    with pytest.raises(UserError, match=r"unknown mixer 'hydro' .*; there are: hydra, longvq, mamba, mamba2"):
        load([], ["model.mixer.name=hydro"])


def test_a_model_folder_of_version_1_still_loads(caplog):
    config = load_model(VERSION1).config
    assert config.version == 2
    assert config.decode.search == SearchConfig(method="beam", beam=12)
    assert config.decode.runtime == RuntimeConfig(latency_ms=320.0, overlap=0.5)
    assert (config.decode.lm.word_bonus, config.decode.hotwords.weight, config.decode.endpoint.pause) == (1.5, 2.0, 0.8)
    assert config.decode.vad.method == "energy"
    (warning,) = caplog.messages
    assert "of version 1" in warning
    assert Recognizer.load(VERSION1, settings=["decode.vad=none"]).latency(None).hop == 4


def test_the_table_of_old_names_is_printed_for_users():
    text = (CONF / "README.md").read_text()
    assert all(row in text for row in table())
    assert len(list(table())) == len(RENAMED) + 2
