from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from samba_asr import config as configs
from samba_asr.data.dataset import (
    AudioStore,
    TrainingSet,
    collate,
    evaluation_batches,
    load_batches,
    measured,
    prefetch,
    round_up,
)
from samba_asr.data.manifest import Utterance
from samba_asr.errors import UserError
from samba_asr.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(["▁", "a", "b"])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    utterances = []
    for i in range(10):
        seconds = 0.5 + 0.1 * i
        soundfile.write(folder / f"{i}.flac", rng.normal(scale=0.1, size=round(16000 * seconds)), 16000)
        utterances.append(Utterance(f"u{i}", str(folder / f"{i}.flac"), "ab a", duration=seconds))
    return utterances


def config(*overrides):
    return configs.load([], ["data.batch_seconds=3", "augment.volume_db=0", *overrides])


def batches(data, epoch=1, ranks=1):
    e = data.epoch(epoch, ranks=ranks)
    return [e[k] for k in range(len(e))]


def test_collate_pads_at_the_end():
    batch = collate([np.ones(3, np.float32), np.ones(5, np.float32)], [[2], [3, 4]], ["x", "y"])
    assert batch.audio.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.lengths.tolist() == [3, 5]
    assert batch.tokens.tolist() == [[2, 0], [3, 4]]
    assert batch.token_lengths.tolist() == [1, 2]
    first = batch.rows(0, 1)
    assert (first.audio.shape, first.tokens.shape, first.ids) == ((1, 3), (1, 1), ["x"])


def test_collate_of_nothing_is_an_empty_batch():
    assert collate([], [], []).audio.shape == (0, 0)


@given(n=st.integers(1, 10**6), unit=st.sampled_from([1, 4, 640]))
def test_a_size_is_rounded_up_by_an_eighth_at_most_and_few_sizes_remain(n, unit):
    rounded = round_up(n, unit)
    assert rounded % unit == 0
    assert n <= rounded <= (-(-n // unit) * unit) * 9 / 8
    assert round_up(rounded, unit) == rounded
    assert len({round_up(i) for i in range(512, 1025)}) <= 17


def test_padding_to_few_sizes_changes_no_sample_and_no_length():
    samples, tokens = [np.ones(1000, np.float32), np.ones(30001, np.float32)], [[2], [3, 4, 5, 6, 7]]
    plain, few = (collate(samples, tokens, ["x", "y"], few_sizes=f) for f in (False, True))
    s, u = plain.audio.shape[1], plain.tokens.shape[1]
    assert few.audio.shape[1] > s
    assert torch.equal(few.audio[:, :s], plain.audio)
    assert torch.equal(few.tokens[:, :u], plain.tokens)
    assert float(few.audio[:, s:].abs().sum() + few.tokens[:, u:].abs().sum()) == 0
    assert torch.equal(few.lengths, plain.lengths)


def test_the_first_epochs_may_be_easy(corpus):
    data = TrainingSet(corpus, TOKENIZER, config("train.easy_epochs=1", "augment.volume_db=6", "augment.speed=[0.8]"))
    audio = {i: x[:n] for b in batches(data, 1) for i, x, n in zip(b.ids, b.audio, b.lengths, strict=True)}
    for utterance in corpus:
        assert torch.equal(audio[utterance.id], torch.from_numpy(data.store.load(utterance)))
    harder = sum(int(b.lengths.sum()) for b in batches(data, 2))
    assert harder > 1.2 * sum(len(x) for x in audio.values())


def test_an_epoch_is_the_same_whenever_it_is_made(corpus):
    a, b = (batches(TrainingSet(corpus, TOKENIZER, config("augment.noise_prob=0.5"))) for _ in range(2))
    for x, y in zip(a, b, strict=True):
        assert x.ids == y.ids
        assert torch.equal(x.audio, y.audio)


def test_a_batch_does_not_depend_on_those_before_it(corpus):
    data = TrainingSet(corpus, TOKENIZER, config())
    in_order = batches(data, epoch=3)
    alone = TrainingSet(corpus, TOKENIZER, config()).epoch(3)[2]
    assert torch.equal(alone.audio, in_order[2].audio)


def test_each_epoch_draws_its_own_speeds(corpus):
    data = TrainingSet(corpus, TOKENIZER, config())
    lengths = [
        {i: n for batch in batches(data, e) for i, n in zip(batch.ids, batch.lengths.tolist(), strict=True)}
        for e in (1, 2)
    ]
    assert lengths[0].keys() == lengths[1].keys() == {u.id for u in corpus}
    assert lengths[0] != lengths[1]
    for u in corpus:
        assert min(abs(lengths[0][u.id] - u.duration * 16000 / s) for s in (0.9, 1.0, 1.1)) <= 1


def test_padded_seconds_are_bounded_after_speed_perturbation(corpus):
    data = TrainingSet(corpus, TOKENIZER, config("augment.speed=[0.8]"))
    for batch in batches(data):
        assert batch.audio.numel() / 16000 <= 3.0 + 0.01 or len(batch.ids) == 1


def test_padded_seconds_are_bounded_with_background_around(corpus):
    data = TrainingSet(corpus, TOKENIZER, config("augment.pad_seconds=0.3", "augment.speed=[1.0]"))
    lengths = {}
    for batch in batches(data):
        assert batch.audio.numel() / 16000 <= 3.0 + 0.01 or len(batch.ids) == 1
        lengths |= dict(zip(batch.ids, (batch.lengths / 16000).tolist(), strict=True))
    added = [lengths[u.id] - u.duration for u in corpus]
    assert min(added) >= 0
    assert max(added) > 0.2


def test_background_takes_the_place_of_some_utterances_and_of_their_text(corpus):
    options = "augment.silence_prob=0.4", "augment.speed=[1.0]", "train.easy_epochs=1"
    data = TrainingSet(corpus, TOKENIZER, config(*options))
    assert all(b.token_lengths.all() for b in batches(data, 1))
    silent = []
    for epoch in range(2, 12):
        for batch in batches(data, epoch):
            power = batch.audio.square().sum(1) / batch.lengths
            quiet = power < 0.002  # the corpus has 0.01
            assert torch.equal(batch.token_lengths == 0, quiet)
            assert [not text for text in batch.texts] == quiet.tolist()
            silent.append(quiet)
    assert 20 < int(torch.cat(silent).sum()) < 60  # of 100


def test_what_cannot_be_used_is_left_out_and_counted(corpus):
    utterances = [
        *corpus,
        dataclasses.replace(corpus[0], id="short", duration=0.1),
        dataclasses.replace(corpus[0], id="long", duration=99.0),
        dataclasses.replace(corpus[0], id="silent", text=" "),
        dataclasses.replace(corpus[0], id="fast", text="ab" * 20),
    ]
    data = TrainingSet(utterances, TOKENIZER, config())
    assert len(data.utterances) == len(corpus)
    assert dict(data.left_out) == {
        "shorter than data.min_seconds=0.3": 1,
        "longer than data.max_seconds=24.0": 1,
        "without text": 1,
        "with more tokens than encoder frames": 1,
    }


def test_equal_neighbours_need_a_frame_between_them(corpus):
    # 0.5 s at speed 1 are 12 frames: enough for 7 tokens, and for 6 blanks between them only if they differ
    usable = TrainingSet([dataclasses.replace(corpus[0], text="abababa")], TOKENIZER, config("augment.speed=[1.0]"))
    assert len(usable.utterances) == 1
    with pytest.raises(UserError, match="1 with more tokens than encoder frames"):
        TrainingSet([dataclasses.replace(corpus[0], text="aaaaaaa")], TOKENIZER, config("augment.speed=[1.0]"))


def test_without_a_tokenizer_batches_have_frames_and_no_tokens(corpus):
    """Frames as recorded, whatever the speed of an utterance is; none of background."""
    options = config("augment.speed=[0.5]", "augment.silence_prob=0.5", "data.max_seconds=1.25")
    data = TrainingSet([*corpus, dataclasses.replace(corpus[0], id="short", duration=0.02)], None, options)
    assert data.left_out == {"shorter than data.min_seconds=0.3": 1, "longer than data.max_seconds=1.25": 2}
    recorded = {u.id: int(u.duration * 16000 / 640) for u in corpus}
    found = {}
    for batch in batches(data):
        assert batch.tokens.shape[1] == 0
        assert not batch.token_lengths.any()
        found |= dict(zip(batch.ids, batch.frames.tolist(), strict=True))
        half = batch.rows(0, 1)
        assert half.frames.tolist() == batch.frames[:1].tolist()
    assert len(found) == 8
    silent = {name for name, frames in found.items() if frames == 0}
    assert 0 < len(silent) < 8
    assert all(frames == recorded[name] for name, frames in found.items() if name not in silent)
    assert batches(TrainingSet(corpus, TOKENIZER, options))[0].frames is None


def test_words_that_the_tokenizer_does_not_know_are_named(corpus, caplog):
    texts = ["ab a", "ab zebra a", "zebra", "quiz ab", "b"]
    TrainingSet(
        [dataclasses.replace(u, text=text) for u, text in zip(corpus, texts, strict=False)], TOKENIZER, config()
    )
    assert "cannot encode zebra, quiz, 3 words" in caplog.text
    caplog.clear()
    TrainingSet(corpus, TOKENIZER, config())
    assert "<unk>" not in caplog.text


def test_an_unreadable_file_is_reported_and_left_out(corpus, tmp_path, caplog):
    (tmp_path / "bad.flac").write_bytes(b"not audio")
    bad = Utterance("bad", str(tmp_path / "bad.flac"), "ab", duration=1.0)
    gone = Utterance("gone", str(tmp_path / "gone.flac"), "ab")
    with caplog.at_level(logging.WARNING):
        data = TrainingSet([*corpus, bad, gone], TOKENIZER, config())
        ids = {i for batch in batches(data) for i in batch.ids}
    assert ids == {u.id for u in corpus}
    assert "utterance bad is left out" in caplog.text
    assert "gone.flac" in caplog.text


def test_durations_are_measured_where_the_manifest_has_none(corpus):
    (found,) = measured([dataclasses.replace(corpus[3], duration=None)])
    assert found.duration == pytest.approx(0.8)
    (found,) = measured([dataclasses.replace(corpus[3], duration=0.5)])
    assert found.duration == 0.5


def test_the_fingerprint_knows_the_data(corpus):
    prints = {TrainingSet(us, TOKENIZER, config()).fingerprint for us in (corpus, corpus[1:], corpus[::-1])}
    assert len(prints) == 3
    assert TrainingSet(corpus, TOKENIZER, config("optim.lr=1")).fingerprint in prints


def test_the_first_read_and_the_cached_one_are_equal(corpus):
    store = AudioStore(16000, cache=True)
    first, second = store.load(corpus[0]), store.load(corpus[0])
    assert np.array_equal(first, second)
    assert np.abs(first - AudioStore(16000, cache=False).load(corpus[0])).max() <= 0.5 / 32768


def test_audio_comes_at_the_rate_asked_for(corpus):
    assert len(AudioStore(8000, cache=False).load(corpus[5])) == 8000


def test_a_segment_is_read_from_its_start(corpus):
    whole = AudioStore(16000, cache=True)
    part = dataclasses.replace(corpus[5], start=0.25, duration=0.5)
    assert np.array_equal(whole.load(part), whole.load(corpus[5])[4000:12000])


def test_recorded_noise_is_mixed_in(corpus):
    plain = TrainingSet(corpus[:5], TOKENIZER, config("augment.noise_prob=1", "augment.speed=[1.0]"))
    noisy = TrainingSet(corpus[:5], TOKENIZER, config("augment.noise_prob=1", "augment.speed=[1.0]"), noise=corpus[5:])
    different = [not torch.equal(a.audio, b.audio) for a, b in zip(batches(plain), batches(noisy), strict=True)]
    assert any(different)


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_ahead_keeps_the_order(corpus, workers):
    epoch = TrainingSet(corpus, TOKENIZER, config()).epoch(1)
    positions = range(1, len(epoch), 2)
    for k, batch in zip(positions, load_batches(epoch, positions, workers), strict=True):
        assert batch.ids == epoch[k].ids
        assert torch.equal(batch.audio, epoch[k].audio)


def test_evaluation_has_every_utterance_unchanged(corpus):
    found = {}
    for batch in evaluation_batches(corpus, TOKENIZER, AudioStore(16000, cache=False), batch_seconds=3):
        found.update(zip(batch.ids, batch.lengths.tolist(), strict=True))
    assert found == {u.id: round(u.duration * 16000) for u in corpus}


def test_prefetch_hands_on_errors_and_stops_when_left():
    def load(i):
        if i == 3:
            raise ZeroDivisionError
        return i

    items = prefetch(load, range(10))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(items)

    loaded = []
    endless = prefetch(lambda i: loaded.append(i), range(10**9), depth=2)
    next(endless)
    endless.close()
    assert len(loaded) <= 5
    time.sleep(0.05)
    assert not [t for t in threading.enumerate() if t.name == "samba_asr-prefetch"]


# ---- weights ---------------------------------------------------------------------------------------------------------


def weighted(corpus, *weights):
    return [dataclasses.replace(u, weight=w) for u, w in zip(corpus, weights, strict=False)]


def heard(data, epochs):
    return Counter(i for epoch in epochs for batch in batches(data, epoch) for i in batch.ids)


def test_an_epoch_takes_an_utterance_as_often_as_its_weight_says(corpus):
    data = TrainingSet(weighted(corpus, 3, 1, 0, 0.5, 2.5), TOKENIZER, config())
    assert heard(data, range(1, 5)) == {"u0": 12, "u1": 4, "u3": 2, "u4": 10}
    for epoch in range(1, 5):
        counts = heard(data, [epoch])
        assert (counts["u0"], counts["u1"]) == (3, 1)
        assert counts["u3"] in (0, 1)
        assert counts["u4"] in (2, 3)


def test_utterances_of_a_fractional_weight_take_turns(corpus):
    data = TrainingSet(weighted(corpus, *[0.25] * 8), TOKENIZER, config())
    assert [sum(heard(data, [epoch]).values()) for epoch in range(1, 5)] == [2, 2, 2, 2]
    assert set(heard(data, range(1, 5)).values()) == {1}


def test_copies_of_an_utterance_are_augmented_each_for_itself(corpus):
    data = TrainingSet(weighted(corpus, 3), TOKENIZER, config("augment.volume_db=6", "augment.speed=[1.0]"))
    waves = [tuple(x[:100].tolist()) for batch in batches(data) for x in batch.audio]
    assert len(set(waves)) == 3


def test_weights_of_1_are_none(corpus):
    plain, ones = (TrainingSet(us, TOKENIZER, config()) for us in (corpus, weighted(corpus, *[1.0] * 10)))
    assert ones.fingerprint == plain.fingerprint
    for x, y in zip(batches(plain), batches(ones), strict=True):
        assert x.ids == y.ids
        assert torch.equal(x.audio, y.audio)
    assert TrainingSet(weighted(corpus, *[2] * 10), TOKENIZER, config()).fingerprint != plain.fingerprint


def test_a_weighted_batch_does_not_depend_on_those_before_it_and_ranks_share_the_epoch(corpus):
    us = weighted(corpus, *[1.5, 0.5] * 5)
    in_order = batches(TrainingSet(us, TOKENIZER, config()), epoch=3, ranks=2)
    alone = TrainingSet(us, TOKENIZER, config()).epoch(3, ranks=2)
    assert len(alone) == len(in_order)
    assert len(alone) % 2 == 0
    assert torch.equal(alone[2].audio, in_order[2].audio)
