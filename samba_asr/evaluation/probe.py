"""A linear probe of encoders: which phone a frame belongs to, by ridge regression from its values.

It costs seconds where a comparison by word error rate costs a training run, so it tells early whether a pretrained encoder knows
more than a random one.  It is no word error rate.  The phones come from forced alignment of the texts by another recognizer.
Each part of the speakers is tested by the regression on all others (G. Alain and Y. Bengio, "Understanding intermediate layers
using linear classifier probes", arXiv 1610.01644).
Shapes: n frames, l layers, d d_model, c classes.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samba_asr.data.manifest import Utterance
from samba_asr.decoding.align import align
from samba_asr.errors import UserError
from samba_asr.evaluation.testset import frames as frames_of
from samba_asr.models.acoustic import AcousticModel
from samba_asr.models.latents import layer_outputs
from samba_asr.recognizer import Recognizer

PARTS = 3  # of the speakers
NEAR = 6  # frames from the middle of a phone that still belong to it: 240 ms
RIDGE = 10.0  # added to the diagonal; the values are standardized
MOST = 300  # utterances


class Probed(NamedTuple):
    """Share of right frames in percent, means over the parts."""

    last: float  # from the output of the last layer
    every: float  # from the outputs of all layers


class Labelled(NamedTuple):
    """Frames of one speaker for all encoders."""

    speaker: str
    outputs: dict[str, Tensor]  # by encoder: (n, l d)
    phones: Tensor  # (n,)


def probe(
    encoders: Mapping[str, AcousticModel], aligner: Recognizer, utterances: Sequence[Utterance], *, batch_seconds: float
) -> tuple[dict[str, Probed], int]:
    """Probe encoders by name, in evaluation mode and on the CPU; return the results and the number of frames.

    UserError if the utterances have fewer than two speakers, or no text that can be aligned.
    """
    texts = sorted((u for u in utterances if u.text), key=lambda u: u.id)
    texts = random.Random(0).sample(texts, min(len(texts), MOST))
    speakers = sorted({u.speaker or u.id for u in texts})
    if len(speakers) < 2:
        raise UserError(f"the probe needs utterances with texts of 2 speakers or more; there are {len(speakers)}")
    labelled = _labelled(encoders, aligner, texts, batch_seconds)
    parts = [speakers[i::PARTS] for i in range(min(PARTS, len(speakers)))]
    found = {}
    for name, encoder in encoders.items():
        d = encoder.encoder.d_model
        shares = [_fold(labelled, name, set(part), d) for part in parts]
        shares = [share for share in shares if share is not None]
        if not shares:
            raise UserError("no text of the probe's utterances fits its audio")
        found[name] = Probed(*(float(np.mean(values)) for values in zip(*shares, strict=True)))
    return found, sum(len(one.phones) for one in labelled)


def _labelled(
    encoders: Mapping[str, AcousticModel], aligner: Recognizer, utterances: Sequence[Utterance], batch_seconds: float
) -> list[Labelled]:
    speaker = {u.id: u.speaker or u.id for u in utterances}
    offline = aligner.latency(None)
    found = []
    batches = frames_of(aligner.runtime, aligner.tokenizer, utterances, offline, batch_seconds=batch_seconds)
    for batch, known in batches:
        outputs = {}
        for name, encoder in encoders.items():
            layers, lengths = layer_outputs(encoder, batch.audio, batch.lengths)
            outputs[name] = torch.cat(layers, -1), lengths  # (b, t, l d)
        for row, identity in enumerate(batch.ids):
            log_probs = np.asarray(known.log_probs[row, : int(known.lengths[row])])
            tokens = batch.tokens[row, : int(batch.token_lengths[row])].tolist()
            t = min(len(log_probs), *(int(lengths[row]) for _, lengths in outputs.values()))
            try:
                phones = torch.from_numpy(nearest_phones(log_probs, tokens)[:t])
            except UserError:  # the text does not fit the audio
                continue
            kept = phones > 0
            values = {name: x[row, :t][kept] for name, (x, _) in outputs.items()}
            found.append(Labelled(speaker[identity], values, phones[kept]))
    return found


def nearest_phones(log_probs: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """Return for each frame of log_probs (t, v) the token whose middle is nearest in time; 0 if none is within NEAR frames."""
    if not tokens:
        return np.zeros(len(log_probs), dtype=np.int64)
    middles = np.array([(span.first + span.end) / 2 for span in align(log_probs, tokens)])
    distance = np.abs(np.arange(len(log_probs))[:, None] - middles)  # (t, u)
    nearest = distance.argmin(1)
    return np.where(distance[np.arange(len(nearest)), nearest] <= NEAR, np.asarray(tokens)[nearest], 0)


def _fold(labelled: Sequence[Labelled], name: str, held: set[str], d: int) -> tuple[float, float] | None:
    """Return the percentages of right frames of the held-out speakers; None if either side has no frames."""
    inside, outside = ([one for one in labelled if (one.speaker in held) == side] for side in (False, True))
    if not inside or not outside:
        return None
    (x, y), (tested, want) = (
        (torch.cat([one.outputs[name] for one in some]), torch.cat([one.phones for one in some]))
        for some in (inside, outside)
    )
    last = ridge(x[:, -d:], y, tested[:, -d:])
    every = ridge(x, y, tested)
    right, right_of_all = (100 * (guess == want).double().mean().item() for guess in (last, every))
    return right, right_of_all


def ridge(x: Tensor, y: Tensor, tested: Tensor) -> Tensor:
    """Fit one-hot classes y (n,) by ridge regression on x (n, d), and return the classes of `tested` (m, d)."""
    mean, deviation = x.mean(0), x.std(0) + 1e-4

    def ready(v: Tensor) -> Tensor:
        return F.pad((v - mean) / deviation, (0, 1), value=1.0)

    a = ready(x)
    diagonal = RIDGE * torch.eye(a.shape[1], dtype=a.dtype)
    weights = torch.linalg.solve(a.T @ a + diagonal, a.T @ F.one_hot(y).to(a.dtype))
    return (ready(tested) @ weights).argmax(-1)
