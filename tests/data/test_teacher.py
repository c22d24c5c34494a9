"""A teacher's frames: written once, read at the speed that the student hears, learned from where there are any."""

import json

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from samba_asr.audio.read import read
from samba_asr.config import load
from samba_asr.data.dataset import TrainingSet
from samba_asr.data.manifest import Utterance
from samba_asr.data.teacher import MOST, TeacherFrames, stretch, write
from samba_asr.errors import UserError
from samba_asr.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(["▁", "a", "b"])
WIDTH = 3


def encode(samples):
    """As many frames as the audio has of 40 ms; channels: time, loudness and a constant."""
    t = len(samples) // 640
    loud = np.abs(samples[: t * 640]).reshape(t, 640).mean(1)
    return np.stack([np.arange(t), 100 * loud, np.full(t, 7.0)], 1).astype(np.float32)


@pytest.fixture
def corpus(tmp_path):
    rng = np.random.default_rng(0)
    found = []
    for k in range(6):
        path = tmp_path / f"{k}.wav"
        soundfile.write(path, rng.uniform(-0.5, 0.5, 16000 + 3200 * k).astype(np.float32), 16000)
        found.append(Utterance(f"u{k}", str(path), "ab", duration=1 + 0.2 * k))
    return found


def written(corpus, folder, encode=encode, who="a test"):
    return write(encode, lambda u: read(u.audio).samples, corpus, folder, who)


def test_channels_are_told_in_deviations_from_their_mean(corpus, tmp_path):
    assert written(corpus, tmp_path / "t") == 6
    frames = TeacherFrames(tmp_path / "t")
    assert frames.width == WIDTH
    told = np.concatenate([frames.load(u, int(u.duration * 25)) for u in corpus])
    assert told.shape == (sum(int(u.duration * 25) for u in corpus), WIDTH)
    np.testing.assert_allclose(told.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(told.std(0)[:2], 1, atol=0.05)
    assert (told[:, 2] == 0).all()  # a channel that never moves tells nothing
    assert np.abs(told).max() <= MOST


def test_what_is_there_is_not_heard_again(corpus, tmp_path):
    written(corpus[:4], tmp_path / "t")
    before = (tmp_path / "t" / "teacher.json").read_text()
    heard = []
    assert written(corpus, tmp_path / "t", lambda x: heard.append(len(x)) or encode(x)) == 6
    assert heard == [16000 + 3200 * k for k in (4, 5)]
    assert (tmp_path / "t" / "teacher.json").read_text() == before, (
        "a run that goes on must find the numbers it began with"
    )


def test_frames_of_another_teacher_are_not_mixed_in(corpus, tmp_path):
    written(corpus, tmp_path / "t")
    with pytest.raises(UserError, match="holds the frames of a test, not of another"):
        written(corpus, tmp_path / "t", who="another")


def test_unreadable_audio_is_left_out_and_nothing_at_all_is_an_error(corpus, tmp_path, caplog):
    lost = Utterance("lost", str(tmp_path / "nowhere.wav"), duration=1.0)
    assert written([lost, *corpus], tmp_path / "t") == 6
    assert "lost is left out" in caplog.text
    with pytest.raises(UserError, match="no utterance could be read"):
        written([lost], tmp_path / "other")


@pytest.mark.parametrize("content", [None, "{}", "not json", json.dumps({"width": 2, "mean": [0], "deviation": [1]})])
def test_a_folder_that_is_none_says_how_to_make_one(tmp_path, content):
    if content is not None:
        (tmp_path / "teacher.json").write_text(content)
    with pytest.raises(UserError, match="augment teach"):
        TeacherFrames(tmp_path)


@given(n=st.integers(1, 50), t=st.integers(1, 80))
def test_stretching_keeps_a_straight_line_straight_and_its_ends_in_place(n, t):
    line = np.stack([np.arange(n) + 0.5, np.full(n, 3.0)], 1).astype(np.float32) / n
    found = stretch(line, t)
    assert found.shape == (t, 2)
    np.testing.assert_allclose(found[:, 1], 3 / n, rtol=1e-5)
    wanted = np.clip(
        (np.arange(t) + 0.5) / t, 0.5 / n, 1 - 0.5 / n
    )  # nothing lies before the first middle or behind the last
    np.testing.assert_allclose(found[:, 0], wanted, atol=1e-5)


def training_set(corpus, folder, *overrides):
    config = load([], [f"data.teacher={folder}", "data.batch_seconds=4", "data.min_seconds=0.1", *overrides])
    return TrainingSet(corpus, TOKENIZER, config)


def test_a_batch_has_the_frames_of_its_utterances_as_fast_as_they_are_heard(corpus, tmp_path):
    written(corpus, tmp_path / "t")
    data = training_set(corpus, tmp_path / "t", "augment.speed=[0.8]")
    seen = 0
    epoch = data.epoch(1)
    for k in range(len(epoch)):
        batch = epoch[k]
        assert batch.teacher.dtype == torch.float32
        assert batch.teacher.shape[::2] == (len(batch.ids), WIDTH)
        assert (batch.teacher_lengths == batch.lengths // 640).all()
        for row, n in enumerate(batch.teacher_lengths.tolist()):
            assert (batch.teacher[row, n:] == 0).all()
            assert (batch.teacher[row, :n, 0].diff() >= 0).all(), "time goes on"
        part = batch.rows(0, 1)
        assert part.teacher.shape[0] == 1
        assert part.teacher_lengths.tolist() == batch.teacher_lengths[:1].tolist()
        seen += len(batch.ids)
    assert seen == 6


def test_an_utterance_that_was_not_heard_has_no_frames(corpus, tmp_path, caplog):
    written(corpus[:3], tmp_path / "t")
    data = training_set(corpus, tmp_path / "t")
    assert "lacks 3 of the training utterances" in caplog.text
    lengths = {}
    epoch = data.epoch(1)
    for k in range(len(epoch)):
        batch = epoch[k]
        lengths |= zip(batch.ids, batch.teacher_lengths.tolist(), strict=True)
    assert {i for i, n in lengths.items() if n} == {"u0", "u1", "u2"}


def test_nor_has_background_that_is_heard_in_place_of_one(corpus, tmp_path):
    written(corpus, tmp_path / "t")
    batch = training_set(corpus, tmp_path / "t", "augment.silence_prob=1", "train.easy_epochs=0").epoch(1)[0]
    assert batch.teacher_lengths.sum() == 0


def test_settings_that_do_not_go_together(corpus, tmp_path):
    written(corpus[:1], tmp_path / "t")
    with pytest.raises(UserError, match=r"pad_seconds=0.4 shifts speech"):
        training_set(corpus, tmp_path / "t", "augment.pad_seconds=0.4")
    with pytest.raises(UserError, match=r"gap_prob=0.5 cuts speech"):
        training_set(corpus, tmp_path / "t", "augment.gap_prob=0.5")
    with pytest.raises(UserError, match="has no frames of the training utterances"):
        training_set(corpus[1:], tmp_path / "t")
