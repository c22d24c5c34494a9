"""The linear probe: phones in time, ridge regression, and speakers that are held out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from samba_asr.data.manifest import Utterance
from samba_asr.errors import UserError
from samba_asr.evaluation import probe as module
from samba_asr.evaluation.probe import Labelled, nearest_phones, probe, ridge
from samba_asr.models.acoustic import AcousticModel
from samba_asr.models.latents import layer_outputs
from tests.models.tiny import FRAME, noise, tiny


def peaks(frames, t=40, v=6):
    """Log-probabilities with a token at each of these frames, else the blank."""
    x = np.full((t, v), -8.0)
    x[:, 0] = -0.1
    for frame, token in frames.items():
        x[frame, token], x[frame, 0] = -0.1, -8.0
    return x


def test_a_frame_has_the_phone_that_is_nearest_in_time():
    found = nearest_phones(peaks({5: 3, 9: 2, 30: 4}), [3, 2, 4])
    assert found[:7].tolist() == [3] * 7
    assert found[8:16].tolist() == [2] * 8
    assert found[25:37].tolist() == [4] * 12
    assert not found[17:24].any()  # nothing is near
    assert not nearest_phones(peaks({}), []).any()


def test_ridge_regression_finds_classes_that_are_linear():
    g = torch.Generator().manual_seed(0)
    means = 3 * torch.randn(4, 6, generator=g)
    y = torch.randint(4, (900,), generator=g)
    x = means[y] + torch.randn(900, 6, generator=g)
    assert (ridge(x[:600], y[:600], x[600:]) == y[600:]).float().mean() > 0.95
    a = torch.cat([(x - x.mean(0)) / (x.std(0) + 1e-4), torch.ones(900, 1)], 1)
    hot = torch.nn.functional.one_hot(y).float()
    weights = torch.linalg.solve(a.T @ a + 10 * torch.eye(7), a.T @ hot)
    assert torch.equal(ridge(x, y, x), (a @ weights).argmax(-1))


def test_every_speaker_is_tested_by_the_regression_on_the_others(monkeypatch):
    """An encoder that knows the speaker's phones, each speaker's turned, knows nothing of others."""
    g = torch.Generator().manual_seed(0)
    labelled = []
    for i, speaker in enumerate("abc"):
        y = torch.randint(1, 4, (300,), generator=g)
        same = torch.nn.functional.one_hot(y, 4).float() + 0.1 * torch.randn(300, 4, generator=g)
        labelled.append(Labelled(speaker, {"same": same, "own": same.roll(i, 1)}, y))
    monkeypatch.setattr(module, "_labelled", lambda *args: labelled)
    encoder = AcousticModel(tiny())
    encoder.encoder.d_model = 4
    utterances = [Utterance(id=s, audio="", text="X", speaker=s, duration=1.0) for s in "abc"]
    found, n = probe({"same": encoder, "own": encoder}, None, utterances, batch_seconds=1)
    assert n == 900
    assert found["same"].last > 99
    assert found["same"].every > 99
    assert found["own"].last < 50


def test_the_probe_wants_two_speakers():
    one = [Utterance(id="a", audio="", text="X", speaker="s", duration=1.0)]
    with pytest.raises(UserError, match="2 speakers or more; there are 1"):
        probe({}, None, one, batch_seconds=1)


def test_outputs_of_layers_are_those_of_the_encoder():
    model = AcousticModel(tiny(layers=3)).eval()
    audio, lengths = noise(2, 9 * FRAME), torch.tensor([9, 6]) * FRAME
    outputs, frames = layer_outputs(model, audio, lengths, 3)
    want, n = model(audio.unsqueeze(-1), lengths, 3)
    assert (len(outputs), frames.tolist()) == (3, n.tolist())
    for row, t in enumerate(n):
        torch.testing.assert_close(outputs[-1][row, :t], want[row, :t])
    with pytest.raises(UserError, match=r"model\.rates"):
        layer_outputs(AcousticModel(tiny(layers=3, rates=(1, 2, 1))), audio, lengths)
