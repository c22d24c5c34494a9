"""The outputs of all layers of an encoder, for measurements of what they know."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from samba_asr.errors import UserError
from samba_asr.models.acoustic import AcousticModel
from samba_asr.ops.blocks import lay_blocks


@torch.no_grad()
def layer_outputs(model: AcousticModel, audio: Tensor, lengths: Tensor, block: int = -1) -> tuple[list[Tensor], Tensor]:
    """Return the output (b, t, d) of each layer for utterances audio (b, s), and the frames of each utterance (b,).

    lengths: (b,) in samples.  block: frames per block.  UserError for layers of several frame rates.
    """
    encoder = model.encoder
    if any(encoder.depths):
        raise UserError("model.rates: layers of several frame rates cannot be compared frame by frame")
    x, lengths = model.front(audio.unsqueeze(-1), lengths)
    blocks = lay_blocks(lengths, x.shape[1], encoder.block_size(block, len(x), x.device))
    x, outputs = cast("Tensor", blocks.mask(x)), []
    for layer in encoder.layers:
        state = layer.init_state(len(x), device=x.device, dtype=x.dtype)
        x = layer.step(x, lengths, state, blocks).x
        outputs.append(x)
    return outputs, lengths
