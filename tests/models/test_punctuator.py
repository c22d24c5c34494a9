"""Punctuation and case: the network, its file, and its training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from samba_asr.cli import main
from samba_asr.config import PunctuationConfig
from samba_asr.errors import UserError
from samba_asr.models.punctuator import Punctuator, PunctuatorLayer, load_punctuator, probabilities, save_punctuator
from samba_asr.ops.blocks import lay_blocks
from samba_asr.text.written.marks import CASES, MARKS, labelled
from samba_asr.text.written.vocabulary import FEATURES, PAUSES
from samba_asr.training.punctuation import PunctuationSet, choose_bias, draw_pauses
from tests.contract import InBlocks, verify_streaming

SMALL = PunctuationConfig(words=20, hashes=16, d_embedding=8, layers=2, d_model=8, d_state=3, headdim=4, window=12)
BOOK = ["He came, and saw it. Did McDonald see it? No! It was Anna; she was there."] * 6


def small(seed=0):
    torch.manual_seed(seed)
    return Punctuator(SMALL, ["he", "came", "it"], {"mcdonald": "McDonald"}, [0.25] * len(MARKS)).eval()


def inputs(b, t, seed=0):
    g = torch.Generator().manual_seed(seed)
    words = torch.randint(1, 20, (b, t, FEATURES), generator=g)
    return torch.cat([words, torch.randint(0, len(PAUSES) + 2, (b, t, 1), generator=g)], -1)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_layer_keeps_the_law(size):
    x = torch.randn(3, 11, 8, generator=torch.Generator().manual_seed(0))
    verify_streaming(InBlocks(PunctuatorLayer(SMALL), size), x, seeds=[0])


def test_segments_one_by_one_are_the_text_in_blocks():
    net, x = small().double(), inputs(2, 12)
    whole = net.logits(x, torch.tensor([12, 12]), block=4)
    state, parts = net.init_state(2, dtype=torch.float64), []
    for i in range(0, 12, 4):
        lengths = torch.tensor([4, 4])
        y, _, state = net.step(x[:, i : i + 4], lengths, state, lay_blocks(lengths, 4, 4))
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)


def test_padding_changes_nothing():
    net, x = small().double(), inputs(2, 9)
    lengths = torch.tensor([9, 4])
    together = net.logits(x, lengths)
    torch.testing.assert_close(together[1, :4], net.logits(x[1:, :4], torch.tensor([4]))[0], rtol=0, atol=1e-12)


def test_no_words_give_no_logits():
    assert small().logits(inputs(1, 0), torch.tensor([0])).shape == (1, 0, len(CASES) + len(MARKS))


def test_a_file_gives_the_same_network(tmp_path):
    net, x = small(), inputs(1, 7)
    save_punctuator(tmp_path / "p.safetensors", net)
    other = load_punctuator(tmp_path / "p.safetensors")
    assert (other.config, other.listed, other.bias) == (net.config, net.listed, net.bias)
    assert other.vocabulary.words == net.vocabulary.words
    lengths = torch.tensor([7])
    for a, b in zip(probabilities(net.logits(x, lengths)), probabilities(other.logits(x, lengths)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0.05)  # 8 bits
    save_punctuator(tmp_path / "again.safetensors", other)
    again = load_punctuator(tmp_path / "again.safetensors")
    torch.testing.assert_close(again.logits(x, lengths), other.logits(x, lengths), rtol=0, atol=1e-3)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="not a model of punctuation"):
        load_punctuator(tmp_path / "none")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(UserError, match="not a model of punctuation"):
        load_punctuator(tmp_path / "text")


# --- training


def test_windows_cover_the_text_and_hold_its_classes():
    data = PunctuationSet(labelled(BOOK), _config())
    seen = [i for k in range(len(data.epoch(1))) for i in data.epoch(1).batches[k]]
    assert len(seen) == len(set(seen)) == _config().punctuation.windows
    batch = data.batch([0], None)
    marks = [MARKS[int(token) % len(MARKS)] for token in batch.tokens[0]]
    assert marks == ["", ",", "", "", ".", "", "", "", "?", "!", "", ""]
    assert not batch.audio[..., FEATURES].any()  # no pauses
    cases = (batch.tokens[0] // len(MARKS)).tolist()
    assert cases[:7] == [len(CASES), 0, 0, 0, 0, len(CASES), 3]  # he, came, and, saw, it, did, McDonald
    assert data.listed == {"mcdonald": "McDonald"}


def test_epochs_are_the_same_in_every_run():
    one, other = (PunctuationSet(labelled(BOOK), _config()) for _ in range(2))
    assert one.fingerprint == other.fingerprint
    a, b = one.epoch(3)[0], other.epoch(3)[0]
    assert torch.equal(a.audio, b.audio)
    assert torch.equal(a.tokens, b.tokens)
    assert a.audio[..., FEATURES].any()


def test_pauses_are_longer_after_a_full_stop():
    import numpy as np

    marks = np.array([0, 2] * 500)
    pauses = draw_pauses(marks, np.random.default_rng(0))
    assert pauses.min() >= 0
    assert np.median(pauses[1::2]) > 4 * np.median(pauses[::2])


@pytest.mark.parametrize("book", [[], ["no capitals, and no more"]])
def test_an_empty_or_caseless_book_is_refused(book):
    with pytest.raises(UserError):
        PunctuationSet(labelled(book), _config())


def _config():
    from samba_asr import config

    return config.load(
        overrides=[
            *(f"punctuation.{name}={getattr(SMALL, name)}" for name in ("words", "hashes", "d_embedding", "layers")),
            *(f"punctuation.{name}={getattr(SMALL, name)}" for name in ("d_model", "d_state", "headdim", "window")),
            "punctuation.windows=8",
            "punctuation.batch_words=48",
        ]
    )


def test_the_command_trains_and_continues(tmp_path, capsys):
    torch.set_num_threads(1)
    (tmp_path / "book.txt").write_text("\n".join(BOOK))
    settings = [f"punctuation.{name}={getattr(SMALL, name)}" for name in ("words", "hashes", "d_embedding", "layers")]
    settings += [f"punctuation.{name}={getattr(SMALL, name)}" for name in ("d_model", "d_state", "headdim", "window")]
    settings += ["punctuation.windows=16", "punctuation.batch_words=96", "train.device=cpu", "optim.warmup=2"]
    command = ["punctuation", "train", str(tmp_path / "book.txt"), "--valid", str(tmp_path / "book.txt")]
    command += ["--exp", str(tmp_path / "exp"), "--out", str(tmp_path / "p.safetensors"), "--set", *settings]
    assert main([*command, "train.epochs=6"]) == 0
    assert "full stop" in capsys.readouterr().out
    net = load_punctuator(tmp_path / "p.safetensors")
    assert "it" in net.vocabulary.words
    assert Path(tmp_path / "p.safetensors").stat().st_size < 40_000

    # --init: other text, other settings of sizes; its own words and sizes stay, and without steps its weights
    (tmp_path / "other.txt").write_text("\n".join(["Birds sang, and Anna slept. Why did McIntosh sing?"] * 12))
    command = ["punctuation", "train", str(tmp_path / "other.txt"), "--valid", str(tmp_path / "book.txt")]
    command += [
        "--exp",
        str(tmp_path / "more"),
        "--out",
        str(tmp_path / "q"),
        "--init",
        str(tmp_path / "p.safetensors"),
    ]
    settings = ["punctuation.windows=8", "train.device=cpu", "train.ema=0", "optim.lr=1e-9", "train.epochs=1"]
    assert main([*command, "--set", *settings]) == 0
    other = load_punctuator(tmp_path / "q")
    assert other.vocabulary.words == net.vocabulary.words
    assert (other.listed, other.config.d_model) == (net.listed, SMALL.d_model)
    torch.testing.assert_close(other.embedding.weight, net.embedding.weight, rtol=0, atol=1e-3)


def test_the_biases_favor_a_rare_mark_that_the_network_is_unsure_of():
    import numpy as np

    rng = np.random.default_rng(0)
    wanted = np.where(rng.random(4000) < 0.3, 1, 0)
    marks = np.full((4000, len(MARKS)), -9.0, dtype=np.float32)
    evidence = np.where(wanted == 1, 0.45, 0.15) + 0.1 * rng.standard_normal(4000)  # always below one half
    marks[:, 1], marks[:, 0] = np.log(evidence.clip(0.01, 0.49)), np.log(1 - evidence.clip(0.01, 0.49))
    bias = choose_bias(marks, wanted)
    assert bias[1] > 0
    assert ((marks + np.array(bias)).argmax(1) == wanted).mean() > 0.9
