"""Files that a search needs: a model's own come from its folder, a user's from where the user is."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch

from samba_asr import config as configs
from samba_asr.cli import main
from samba_asr.config import SEARCH_FILES, Config, DecodeConfig, SearchConfig
from samba_asr.decoding.build import two_pass, word_guide
from samba_asr.errors import UserError
from samba_asr.models.folder import copy_search_files, load_model
from samba_asr.models.lm import MambaLm
from samba_asr.models.lm_folder import save_lm
from samba_asr.recognizer import Recognizer
from tests.decoding.toys import PHONES
from tests.support.lm import SMALL_LM, UNIGRAMS
from tests.support.model_folder import make_model
from tests.training.toy import TOKENIZER, make_corpus

ONLY_BA = UNIGRAMS.replace("ngram 1=4", "ngram 1=3").replace("-0.3\tab\n", "")
OWN = {"lm.path": "lm.arpa", "lm.words": "words.txt", "hotwords.path": "hotwords.txt", "lm.neural": "other"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model whose configuration names four files, and audio."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("files")
    make_corpus(folder)
    own = make_model(folder / "model", "decode.search.method=beam", "decode.lm.word_bonus=20", "decode.search.prune=60")
    lm = MambaLm(SMALL_LM, TOKENIZER.vocab_size)
    save_lm(own / "other", lm, dataclasses.replace(Config(), lm=SMALL_LM), TOKENIZER, perplexity=9.0)
    (own / "lm.arpa").write_text(UNIGRAMS)
    (own / "words.txt").write_text("ab\nba\n")
    (own / "hotwords.txt").write_text("ba :0.5\n")
    config = configs.load(folder=own)
    configs.save(dataclasses.replace(config, decode=config.decode.with_files(OWN)), own / "config.yaml")
    return folder


@pytest.fixture
def here(place, tmp_path, monkeypatch):
    """The current folder, which holds files of the same names."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ("lm.arpa", "words.txt", "hotwords.txt", "lexicon.txt", "tokenizer.json"):
        (folder / name).write_text("garbage :::\n")
    (folder / "other").mkdir()
    return folder


def audio(place) -> str:
    return str(place / json.loads((place / "corpus.jsonl").read_text().splitlines()[0])["audio"])


def transcribed(place, capsys, *settings) -> str:
    options = [item for setting in settings for item in ("--set", setting)]
    assert main(["transcribe", "--device", "cpu", "--model", str(place / "model"), audio(place), *options]) == 0
    return capsys.readouterr().out.strip()


def test_what_lies_in_the_current_folder_changes_nothing(place, tmp_path, monkeypatch, capsys, request):
    monkeypatch.chdir(tmp_path)
    want = transcribed(place, capsys)
    assert set(want.split()) == {"ab", "ba"}
    request.getfixturevalue("here")
    assert transcribed(place, capsys) == want
    assert Recognizer.load(place / "model", device="cpu").transcribe(audio(place)).text == want
    loaded = load_model(place / "model")
    assert (
        Recognizer(
            loaded,
            dataclasses.replace(loaded.config.decode, search=dataclasses.replace(loaded.config.decode.search, nbest=2)),
        )
        .transcribe(audio(place))
        .text
        == want
    )


def test_what_a_user_names_lies_in_the_current_folder(place, here, capsys):
    (here / "lm.arpa").write_text(ONLY_BA)
    (here / "words.txt").write_text("ba\n")
    for settings in (["decode.lm=lm.arpa", "decode.lm.words="], ["decode.lm.words=words.txt"]):
        assert set(transcribed(place, capsys, *settings).split()) == {"ba"}
        recognizer = Recognizer.load(place / "model", device="cpu", settings=settings)
        assert set(recognizer.transcribe(audio(place)).text.split()) == {"ba"}
    (here / "mine.arpa").write_text(ONLY_BA)
    loaded = load_model(place / "model")
    mine = loaded.config.decode.with_files({"lm.path": "mine.arpa", "lm.words": ""})
    assert set(Recognizer(loaded, mine).transcribe(audio(place)).text.split()) == {"ba"}


def test_a_users_yaml_names_files_in_the_current_folder(place, here):
    (here / "mine.yaml").write_text("decode: {lm: lm.arpa, words: '', hotwords: ''}\n")
    (here / "lm.arpa").write_text(ONLY_BA)
    options = ["--model", place / "model", "--data", place / "corpus.jsonl", "--out", here / "out", "--device", "cpu"]
    assert main(["decode", *map(str, options), "--config", "mine.yaml"]) == 0
    assert {word for line in (here / "out/hyp.txt").read_text().splitlines() for word in line.split()[1:]} == {"ba"}


def test_a_user_may_name_what_the_model_has(place, here, capsys):
    (place / "model" / "more.arpa").write_text(ONLY_BA)
    assert set(transcribed(place, capsys, "decode.lm=more.arpa", "decode.lm.words=").split()) == {"ba"}


@pytest.mark.parametrize("key", OWN)
def test_what_the_model_lacks_is_not_taken_from_elsewhere(place, here, tmp_path, key):
    model = shutil.copytree(place / "model", tmp_path / "model")
    name = OWN[key]
    (model / name).rename(here / f"{name}.moved")
    if key == "lm.neural":
        shutil.copytree(place / "model" / name, here / name, dirs_exist_ok=True)
    else:
        shutil.copyfile(place / "model" / name, here / name)
    with pytest.raises(UserError, match=rf"decode.{key}={name}: .* in the model's folder .*model"):
        Recognizer.load(model, device="cpu")


def test_a_lexicon_of_the_models_own(place, here):
    """A model of phones: `lexicon.txt` is its tokenizer, `more.txt` its decode.lm.lexicon."""
    PHONES.save(here.parent / "model")
    (here.parent / "model" / "more.txt").write_text("ba B A\n")
    (here.parent / "model" / "lm.arpa").write_text(UNIGRAMS)
    (here / "more.txt").write_text("garbage\n")
    decode = dataclasses.replace(DecodeConfig(), search=SearchConfig(method="beam", backend="numpy"))
    decode = decode.with_files({"lm.path": "lm.arpa", "lm.lexicon": "more.txt"})
    loaded = load_model(place / "model")._replace(tokenizer=PHONES, folder=here.parent / "model")
    loaded = loaded._replace(config=dataclasses.replace(loaded.config, decode=decode))
    assert "ba" in two_pass(loaded, decode).search.guide.guides[0].vocabulary.texts.values()


def test_tuned_settings_bring_the_users_files_along(place, here, tmp_path, capsys):
    model = shutil.copytree(place / "model", tmp_path / "model")
    (here / "lm.arpa").write_text(ONLY_BA)
    (here / "lexicon.txt").write_text("ba\n")  # a name that the folder of a model of phones needs for itself
    options = ["--model", model, "--data", place / "corpus.jsonl", "--device", "cpu", "--save"]
    options += ["--weights", 0.1, "--bonuses", 20, "--set", "decode.lm=lm.arpa", "decode.lm.words="]
    options += ["decode.hotwords=lexicon.txt", "decode.lm.neural="]
    assert main(["lm", "tune", *map(str, options)]) == 0
    (here / "lm.arpa").unlink()
    decode = load_model(model).config.decode
    assert (decode.lm.path, decode.hotwords.path, decode.lm.neural) == ("lm.arpa", "hotwords.lexicon.txt", "")
    assert (model / "lm.arpa").read_text() == ONLY_BA
    assert (model / "hotwords.lexicon.txt").read_text() == "ba\n"
    assert not (model / "lexicon.txt").exists()
    capsys.readouterr()
    assert main(["transcribe", "--device", "cpu", "--model", str(model), audio(place)]) == 0
    assert set(capsys.readouterr().out.split()) == {"ba"}


def test_copies_keep_what_is_relative_and_name_what_is_not(tmp_path):
    run, model, user = tmp_path / "run", tmp_path / "model", tmp_path / "user"
    for folder in (run / "sub", model, user / "lm"):
        folder.mkdir(parents=True)
    (run / "sub" / "lm.arpa").write_text("n-gram")
    (user / "words.txt").write_text("words")
    (user / "lexicon.txt").write_text("lexicon")
    (user / "lm" / "words.txt").write_text("phrases")
    (user / "lm" / "config.yaml").write_text("neural")
    decode = DecodeConfig().with_files(
        {
            "lm.path": "sub/lm.arpa",
            "lm.words": "../user/words.txt",
            "lm.lexicon": str(user / "lexicon.txt"),
            "lm.neural": str(user / "lm"),
            "hotwords.path": str(user / "lm" / "words.txt"),
        }
    )
    found = copy_search_files(decode, run, model)
    names = [found.file(key) for key in SEARCH_FILES]
    assert names == ["sub/lm.arpa", "words.txt", "lexicon.lexicon.txt", "mamba_lm", "hotwords.words.txt"]
    read = [(model / name / "config.yaml" if name == "mamba_lm" else model / name).read_text() for name in names]
    assert read == ["n-gram", "words", "lexicon", "neural", "phrases"]
    assert copy_search_files(found, model, model) == found  # nothing to do


def test_a_run_takes_the_users_files_along(tmp_path, monkeypatch):
    """`train` with a language model of the user's: the model that `average` makes travels alone."""
    monkeypatch.chdir(tmp_path)
    make_corpus(tmp_path)
    (tmp_path / "books.arpa").write_text(UNIGRAMS)
    make_model(tmp_path / "old", "decode.search.method=beam")
    data = ["data.train=[corpus.jsonl]", "data.valid=[corpus.jsonl]", "train.epochs=1", "train.device=cpu"]
    assert main(["train", "--exp", "run", "--init", "old", *data, "decode.lm=books.arpa"]) == 0
    assert main(["average", "--exp", "run", "--out", "new"]) == 0
    (tmp_path / "books.arpa").unlink()
    shutil.move(tmp_path / "new", tmp_path / "away")
    shutil.rmtree(tmp_path / "run")
    loaded = load_model(tmp_path / "away")
    assert loaded.config.decode.lm.path == "books.arpa"
    assert word_guide(loaded, loaded.config.decode) is not None
    assert two_pass(loaded, loaded.config.decode).search.init_state(1)
