"""The matrix of a layer's mixer for one utterance, as `samba-asr explain --mixer` draws it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from samba_asr.errors import UserError
from samba_asr.models.asr import AsrModel
from samba_asr.nn.mixers.matrix import mixer_matrix
from samba_asr.ops.blocks import Blocks
from samba_asr.streaming import State, Step


class LayerMatrix(NamedTuple):
    """How much each step of a layer's mixer reads of each other step."""

    matrix: Tensor  # (t, t) mean absolute value over heads; row: the step that reads
    rate: int  # encoder frames in a step


def layer_matrix(model: AsrModel, audio: Tensor, lengths: Tensor, layer: int, block: int) -> LayerMatrix:
    """Compute the matrix of a layer, from 1, for audio (1, s), read in blocks of `block` frames that do not overlap.

    UserError for a layer that is not there, or that has no such matrix.
    """
    encoder = model.acoustic.encoder
    if not 1 <= layer <= len(encoder.layers):
        raise UserError(f"--mixer {layer}: the model has layers 1 to {len(encoder.layers)}")
    if encoder.skip_blanks and layer > encoder.skips_after:
        raise UserError(
            f"--mixer {layer}: this layer skips blank frames, so its steps are not evenly spaced: "
            f"give 1 to {encoder.skips_after}"
        )
    mixer, found = encoder.layers[layer - 1].mixer, []
    step = mixer.step

    def keep(x: Tensor, lengths: Tensor, state: State, blocks: Blocks) -> Step:
        found.append((x, blocks))
        return step(x, lengths, state, blocks)

    mixer.step = keep
    try:
        model.log_probs(audio, lengths, block=block)
    finally:
        del mixer.step
    if not found:
        raise UserError(f"--mixer {layer}: {audio.shape[1]} samples are less than a frame, so there is no matrix")
    ((x, blocks),) = found
    return LayerMatrix(mixer_matrix(mixer, x, blocks).abs().mean(0), 1 << encoder.depths[layer - 1])
